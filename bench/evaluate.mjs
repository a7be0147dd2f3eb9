#!/usr/bin/env node
// B2: K edited forks answer five questions each, 32 tokens, greedy, beside transformers' generate, one edit at a time.
import { join } from 'node:path';
import { lowRank } from './lib/deltas.mjs';
import { evaluation } from './lib/evaluation.mjs';
import { runIfMain } from './lib/main.mjs';

export const evaluate = {
  name: 'evaluate',
  title: 'K edited forks answer questions',
  peerNeeds: ['torch', 'transformers', 'peft'],
  async run(context) {
    const { device, quick } = context;
    const forks = context.forks ?? (device === 'cpu' ? (quick ? 2 : 8) : 256);
    const peerForks = Math.min(forks, context.peerForks ?? (device === 'cpu' ? 8 : 4));
    const model = await context.loadModel();
    const figure = await evaluation(context, model, {
      name: this.name,
      forks,
      peerForks,
      option: 'adapters',
      async prepare(count, saved) {
        const deltas = Array.from({ length: count }, (_, e) => lowRank(model, { seed: e }));
        const files = deltas.slice(0, saved).map((_, e) => join(context.folder, `edit-${e}`));
        await Promise.all(files.map((file, e) => deltas[e].save(file)));
        return { deltas, files };
      },
    });
    await model.close();
    return [figure];
  },
};

await runIfMain(import.meta.url, evaluate);
