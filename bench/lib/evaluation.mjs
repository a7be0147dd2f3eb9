// K edited forks answer their questions: shared by the low-rank and the sparse benchmark.
import { generate } from 'selfedit';
import { compareAnswers } from './answers.mjs';
import { generationLimit } from './limits.mjs';
import { inTurn } from './measure.mjs';
import { makeFigure } from './report.mjs';
import { edits as makeEdits } from './workload.mjs';

/**
 * `prepare(count)` makes the deltas of `count` edits: {deltas, files (of the first `peerForks`, for the peer)}; `option`
 * is the peer's name for those files.
 */
export async function evaluation(context, model, { name, bar = name, forks, peerForks, prepare, option }) {
  const maxTokens = context.quick ? 8 : 32;
  const edits = makeEdits(context, forks);
  const { deltas, files } = await prepare(forks, peerForks);
  const edited = deltas.map((delta) => model.fork().apply(delta));
  const rows = edits.flatMap(({ questions }, e) =>
    questions.map((prompt) => ({ fork: edited[e], prompt: Int32Array.from(prompt) })),
  );
  const limits = await context.limits();
  const measured = await inTurn(context, {
    ours: () => generate(rows, { maxTokens, temperature: 0, stopTokens: [], signal: context.signal }),
    peer: {
      script: 'evaluate',
      work: {
        maxTokens,
        questions: edits.slice(0, peerForks).map(({ questions }) => questions),
        [option]: files,
      },
    },
    scale: forks / peerForks,
    check: (mine, theirs) => compareAnswers(mine, theirs, context.dtype),
  });
  const promptTokens = rows.reduce((total, { prompt }) => total + prompt.length, 0);
  const ownBytes = deltas.reduce((total, { bytes }) => total + bytes, 0);
  const figure = makeFigure(context, {
    name,
    bar,
    ...measured,
    limit: generationLimit(limits, model, { promptTokens, rows: rows.length, steps: maxTokens, ownBytes }),
    work: { forks, peerForks, questions: rows.length, promptTokens, maxTokens },
  });
  await Promise.all([...edited, ...deltas].map((resource) => resource.close()));
  return { ...figure, tokensPerSecond: (rows.length * maxTokens) / figure.ours };
}
