#!/usr/bin/env node
// KL of many forks from one parent, as every round measures it on retention texts. The texts are the same for all forks, so
// the parent reads each once; beside it the same forks on as many different texts, where nothing can be shared.
import { divergence as divergenceRows } from 'selfedit';
import { lowRank } from './lib/deltas.mjs';
import { runIfMain } from './lib/main.mjs';
import { draws } from './lib/random.mjs';
import { makeFigure } from './lib/report.mjs';

export const divergence = {
  name: 'divergence',
  title: 'KL of K forks from one parent',
  // Of the probe of the hardware.
  peerNeeds: ['torch'],
  async run(context) {
    const { device, quick } = context;
    const count = context.forks ?? (quick ? 2 : device === 'cpu' ? 8 : 128);
    const texts = 2;
    const model = await context.loadModel();
    const { vocab_size: vocabulary, max_position_embeddings: longest } = context.shape.config;
    const length = Math.min(quick ? 16 : 128, longest);
    const draw = draws(5);
    const text = () => Int32Array.from({ length }, () => draw() % vocabulary);
    const deltas = Array.from({ length: count }, (_, seed) => lowRank(model, { seed }));
    const forks = deltas.map((delta) => model.fork().apply(delta));
    const same = Array.from({ length: texts }, text);
    const others = Array.from({ length: count * texts }, text);
    const rows = (textOf) =>
      forks.flatMap((fork, f) => same.map((_, t) => ({ fork, reference: model, tokens: textOf(f, t) })));
    const work = {
      shared: rows((_, t) => same[t]),
      apart: rows((f, t) => others[f * texts + t]),
    };
    const samples = { shared: [], apart: [] };
    // In turn; the first of each warms up.
    for (let r = 0; r <= (context.repeats ?? 5); r++) {
      for (const kind of Object.keys(work)) {
        const begin = performance.now();
        await divergenceRows(work[kind], { signal: context.signal });
        if (r > 0) samples[kind].push((performance.now() - begin) / 1e3);
      }
    }
    const limits = await context.limits();
    const tokens = count * texts * length;
    const limitOf = (read) => (2 * model.parameters * (tokens + read)) / limits.operations;
    const sized = { forks: count, texts, length };
    const figures = [
      makeFigure(context, {
        name: this.name,
        ours: samples.shared,
        limit: limitOf(texts * length),
        work: sized,
      }),
      makeFigure(context, {
        name: `${this.name}, different texts`,
        ours: samples.apart,
        limit: limitOf(tokens),
        work: { ...sized, texts: texts * count },
      }),
    ];
    context.log(`different texts / the same ones: ${(figures[1].ours / figures[0].ours).toFixed(2)}`);
    for (const fork of forks) await fork.close();
    for (const delta of deltas) await delta.close();
    await model.close();
    return figures;
  },
};

await runIfMain(import.meta.url, divergence);
