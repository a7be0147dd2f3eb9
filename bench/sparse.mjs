#!/usr/bin/env node
// B5: sparse deltas (1 % of every matrix) answer questions as in B2, beside scattering into the weights and taking it back.
import { join } from 'node:path';
import { scatterTensors, sparse as sparseDelta } from './lib/deltas.mjs';
import { evaluation } from './lib/evaluation.mjs';
import { runIfMain } from './lib/main.mjs';
import { writeSafetensors } from './lib/safetensors.mjs';

export const sparse = {
  name: 'sparse',
  title: 'K sparsely edited forks answer questions',
  peerNeeds: ['torch', 'transformers', 'peft'],
  async run(context) {
    const { device, quick } = context;
    const counts = context.forks ? [context.forks] : quick ? [2] : [8, 64];
    const model = await context.loadModel();
    const figures = [];
    for (const forks of counts) {
      const peerForks = Math.min(forks, context.peerForks ?? (device === 'cpu' ? 8 : 4));
      const figure = await evaluation(context, model, {
        name: forks === counts[0] ? this.name : `sparse, ${forks} forks`,
        bar: this.name,
        forks,
        peerForks,
        option: 'scatters',
        prepare: (count, saved) => prepare(context, model, count, saved),
      });
      figures.push(figure);
    }
    await model.close();
    return figures;
  },
};

async function prepare(context, model, count, saved) {
  const deltas = [];
  const files = [];
  for (let e = 0; e < count; e++) {
    const { delta, parts } = sparseDelta(model, { seed: e });
    deltas.push(delta);
    if (e >= saved) continue;
    files.push(join(context.folder, `scatter-${e}.safetensors`));
    await writeSafetensors(files[e], scatterTensors(parts));
  }
  return { deltas, files };
}

await runIfMain(import.meta.url, sparse);
