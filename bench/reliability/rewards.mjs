// Rewards of the same edits under many training seeds, context by context.
import { applyEdits, askForks, DEFAULT_TASK, deriveKey, LOCAL_RIGHT, writeEdits } from 'selfedit';

const average = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const seconds = (start) => (performance.now() - start) / 1000;

/** The published inner loop but for the number of epochs, which is 10 there. */
export const INNER = { rank: 32, alpha: 64, learningRate: 1e-3, epochs: 5 };

/** What pays, from the scores of a question by measure. */
export const REWARDS = {
  'log-likelihood': ({ likelihood }) => likelihood,
  'answers, graded 0 to 1 (recall)': ({ recall }) => recall,
  'answers, graded 0 to 1 (local)': ({ local }) => local,
  'answers, right or wrong (local)': ({ local }) => (local >= LOCAL_RIGHT ? 1 : 0),
};
const ANSWERED = ['recall', 'local'];

/** Contexts with as many questions as asked, all of them paying; those with the shortest passages come first. */
export function contextsOf(passages, model, { contexts, questions, passageTokens }) {
  const short = passages.filter(
    (passage) =>
      passage.questions.length >= questions &&
      model.tokenizer.encode(passage.context).length <= passageTokens,
  );
  if (short.length < contexts) {
    throw new RangeError(
      `${short.length} passages of at most ${passageTokens} tokens with ${questions} questions; ${contexts} are needed`,
    );
  }
  return short.slice(0, contexts).map(({ title, context, questions: asked }, index) => ({
    id: `${index}`,
    title,
    context,
    task: DEFAULT_TASK,
    paying: asked.slice(0, questions).map((question, q) => ({ ...question, id: `${index}.${q}` })),
    report: [],
  }));
}

/**
 * Edits of one context, each trained under `seeds` seeds: rewards by name [edit][seed] as gains over the unedited model,
 * seconds an edit and a seed, and the tokens that were read for it.
 */
export async function measureContext({ model, parent, context, size, signal }) {
  const index = Number(context.id);
  const { tokenizer } = model;
  const written = await writeEdits(parent, [context], {
    samples: size.edits,
    maxTokens: size.editTokens,
    seed: 1,
    round: index,
    signal,
  });
  const edits = written.flatMap(({ edit, sample }) => (edit.invalid ? [] : [{ edit, sample }]));
  const rows = edits.flatMap(({ edit, sample }) =>
    Array.from({ length: size.seeds }, (_, seed) => ({
      edit,
      seed: deriveKey(1, 'reliability', [index, sample, seed]),
    })),
  );
  const start = performance.now();
  const copies = await applyEdits(parent, rows, { ...INNER, signal });
  const train = seconds(start);
  try {
    if (copies.some(({ diverged }) => diverged)) throw new Error(`context ${index}: a training diverged`);
    const asked = [parent, ...copies.map(({ fork }) => fork)].map((fork) => ({ fork, context }));
    const ask = async (measures) => {
      const began = performance.now();
      const answers = await askForks(asked, {
        tokenizer,
        measures,
        maxAnswerTokens: size.answerTokens,
        signal,
      });
      return { scores: answers.map(({ paying }) => paying), took: seconds(began) };
    };
    const dense = await ask(['likelihood']);
    const graded = await ask(ANSWERED);
    const rewards = {};
    for (const [name, pays] of Object.entries(REWARDS)) {
      const scored = asked.map((_, row) =>
        average(
          dense.scores[row].map(({ scores }, q) => pays({ ...scores, ...graded.scores[row][q].scores })),
        ),
      );
      const gains = scored.slice(1).map((score) => score - scored[0]);
      rewards[name] = edits.map((_, e) => gains.slice(e * size.seeds, (e + 1) * size.seeds));
    }
    const count = (text) => tokenizer.encode(text).length;
    const trained = edits.map(
      ({ edit }) =>
        INNER.epochs *
        average([edit.documents.reduce((sum, document) => sum + count(document.text ?? document), 0)]),
    );
    const questions = context.paying.map(({ question, answers }) => ({
      prompt: count(question) + 24,
      answer: count(answers[0]),
    }));
    const each = rows.length;
    return {
      context: context.title,
      edits: edits.length,
      invalid: written.length - edits.length,
      rewards,
      seconds: {
        train: train / each,
        likelihood: dense.took / asked.length,
        answers: graded.took / asked.length,
      },
      tokens: {
        train: average(trained),
        likelihood: questions.reduce((sum, { prompt, answer }) => sum + prompt + answer, 0),
        answers:
          questions.reduce((sum, { prompt }) => sum + prompt, 0) +
          average(
            graded.scores
              .slice(1)
              .map((paying) => paying.reduce((sum, { answer }) => sum + count(answer) + 1, 0)),
          ),
      },
    };
  } finally {
    for (const copy of copies) await copy.close();
  }
}
