// What `npm run bench:stream` edits with and asks about, and the remedies that it compares.
import { existsSync, readFileSync } from 'node:fs';
import { knowledge, parseEdit, readPassages, sequencesOf, writeEdits } from 'selfedit';

/** The inner loop of every arm, unless the arm says otherwise. */
export const INNER = {
  ...{ rank: 16, alpha: 32, targets: ['all'] },
  ...{ epochs: 3, batchSize: 2, learningRate: 3e-3 },
};
/** Documents of an edit beside the passage. */
const DOCUMENTS = 4;

/** Options of `runStream` by arm; `candidates`: edits to choose among; `recall`: answers are generated too. */
export const ARMS = {
  none: { recall: true },
  replay: { replay: 4 },
  gate: { gate: { lambda: 1 } },
  'replay and gate': { replay: 4, gate: { lambda: 1 } },
  'half the learning rate': { adapt: { ...INNER, learningRate: INNER.learningRate / 2 } },
  'trained apart and added': { trainOn: 'parent' },
  'trained anew on all so far': { trainOn: 'joint' },
  'best of 2 by gain − forgetting': { candidates: 2, forgetting: 1 },
  'best of 2 by gain': { candidates: 2, forgetting: 0 },
  'last third of the layers': { adapt: { ...INNER, targets: ['layers.2?.*'] } },
};

/**
 * The streams, and `editsOf(fork, context, count)`: training documents for a context. Recorded self-edits of Qwen2.5-7B about
 * these very passages where there is a file of them, else the model's own. A passage has at least three questions, so that
 * some can decide and others judge.
 */
export async function drawWorld({ recorded, corpus, sequences, length, seed }) {
  const known = existsSync(recorded) ? JSON.parse(readFileSync(recorded, 'utf8')) : undefined;
  const passages = known
    ? known.map(({ title, context, questions }) => ({
        ...{ title, context },
        questions: questions.map(({ question, answer }) => ({ question, answers: [answer] })),
      }))
    : (await readPassages(corpus)).passages;
  const task = knowledge(
    passages.filter(({ questions }) => questions.length >= 3),
    { seed, payingShare: 0.4, retention: 0 },
  );
  const rules = { maxDocuments: DOCUMENTS };
  const written = new Map(known?.map(({ context, completions }) => [context.trim(), completions]));
  return {
    edits: known ? 'recorded self-edits of Qwen2.5-7B' : "the model's own self-edits",
    streams: sequencesOf(task, { sequences, length }),
    async editsOf(fork, context, count) {
      const texts = written.get(context.context);
      if (texts) return texts.slice(0, count).map((text) => parseEdit(text, context, rules));
      const made = await writeEdits(fork, [context], { samples: count, seed, parse: rules });
      return made.map(({ edit }) => edit);
    },
  };
}
