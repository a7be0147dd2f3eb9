#!/usr/bin/env node
// Log-probs of given tokens, beside transformers on right-padded batches of rows of similar length.
import { score as scoreRows } from 'selfedit';
import { compareLogprobs } from './lib/answers.mjs';
import { runIfMain } from './lib/main.mjs';
import { inTurn } from './lib/measure.mjs';
import { makeFigure } from './lib/report.mjs';
import { edits as makeEdits } from './lib/workload.mjs';

export const score = {
  name: 'score',
  title: 'log-probs of given tokens',
  peerNeeds: ['torch', 'transformers'],
  async run(context) {
    const { device, quick } = context;
    const model = await context.loadModel();
    const edits = makeEdits(context, quick ? 2 : device === 'cpu' ? 4 : 64);
    const rows = edits.flatMap(({ documents }) => documents);
    const tokens = rows.flat().length;
    const limits = await context.limits();
    const measured = await inTurn(context, {
      ours: () =>
        scoreRows(
          rows.map((row) => ({ fork: model, tokens: row })),
          { signal: context.signal },
        ),
      peer: { script: 'score', work: { rows, batch: 8 } },
      check: (mine, theirs) =>
        compareLogprobs(
          mine.map((row) => row.subarray(1)),
          theirs.logprobs,
          context.dtype,
        ),
    });
    const figure = makeFigure(context, {
      name: this.name,
      ...measured,
      limit: (2 * model.parameters * tokens) / limits.operations,
      work: { rows: rows.length, tokens },
    });
    await model.close();
    return [{ ...figure, tokensPerSecond: tokens / figure.ours }];
  },
};

await runIfMain(import.meta.url, score);
