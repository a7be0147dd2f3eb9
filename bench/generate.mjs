#!/usr/bin/env node
// B3: prompts × samples × tokens with log-probs, beside transformers' generate on one batch (with its scores).
// Greedy on both sides, so that they can be compared; a sampled token costs the same.
import { generate as generateRows } from 'selfedit';
import { compareAnswers } from './lib/answers.mjs';
import { generationLimit } from './lib/limits.mjs';
import { runIfMain } from './lib/main.mjs';
import { inTurn } from './lib/measure.mjs';
import { makeFigure } from './lib/report.mjs';
import { edits as makeEdits } from './lib/workload.mjs';

export const generate = {
  name: 'generate',
  title: 'prompts × samples with log-probs',
  peerNeeds: ['torch', 'transformers'],
  async run(context) {
    const { device, quick } = context;
    const [promptCount, samples, maxTokens] = quick
      ? [2, 2, 8]
      : device === 'cpu'
        ? [8, 2, 64]
        : [64, 8, 256];
    const model = await context.loadModel();
    const prompts = makeEdits(context, promptCount).map(({ prompt }) => prompt);
    const rows = prompts.map((prompt) => ({ fork: model, prompt, samples }));
    const limits = await context.limits();
    const measured = await inTurn(context, {
      ours: () => generateRows(rows, { maxTokens, temperature: 0, stopTokens: [], signal: context.signal }),
      peer: { script: 'generate', work: { prompts, samples, maxTokens } },
      check: (mine, theirs) => compareAnswers(mine, theirs, context.dtype),
    });
    const promptTokens = prompts.flat().length;
    const count = promptCount * samples;
    const figure = makeFigure(context, {
      name: this.name,
      ...measured,
      limit: generationLimit(limits, model, { promptTokens, rows: count, steps: maxTokens }),
      work: { prompts: promptCount, samples, promptTokens, maxTokens },
    });
    await model.close();
    return [{ ...figure, tokensPerSecond: (count * maxTokens) / figure.ours }];
  },
};

await runIfMain(import.meta.url, generate);
