#!/usr/bin/env node
// B4: making an edited copy: fork + apply + drop, beside a deep copy of the weights; and what 1,000 copies hold.
import { lowRank } from './lib/deltas.mjs';
import { runIfMain } from './lib/main.mjs';
import { inTurn, stopwatch } from './lib/measure.mjs';
import { canReadMemory, childMemory, megabytes } from './lib/memory.mjs';
import { makeFigure } from './lib/report.mjs';

export const fork = {
  name: 'fork',
  title: 'making an edited copy',
  peerNeeds: ['torch', 'transformers'],
  async run(context) {
    const { quick } = context;
    const count = quick ? 100 : 10_000;
    const model = await context.loadModel();
    const delta = lowRank(model, { rank: 8 });
    const copies = async () => {
      for (let i = 0; i < count; i++) await model.fork().apply(delta).close();
      return { parameters: model.parameters };
    };
    const measured = await inTurn(context, {
      ours: copies,
      // The peer makes one copy.
      peer: { script: 'copy_weights', work: {} },
      check: (mine, theirs) => [
        {
          what: 'difference in parameters',
          value: Math.abs(mine.parameters - theirs.parameters),
          tolerance: 0,
        },
      ],
    });
    const each = (samples) => samples.map((seconds) => seconds / count);
    const cycle = makeFigure(context, {
      name: 'fork + apply + drop',
      ...measured,
      ours: each(measured.ours),
      work: { forks: count, rank: 8 },
    });
    const alone = [];
    for (let i = 0; i < 5; i++) {
      const { seconds, result } = await stopwatch(() => Array.from({ length: count }, () => model.fork()));
      alone.push(seconds / count);
      await Promise.all(result.map((copy) => copy.close()));
    }
    await delta.close();
    await model.close();
    return [
      makeFigure(context, { name: this.name, ours: alone, peer: measured.peer, work: { forks: count } }),
      cycle,
      ...(canReadMemory(context) ? [await memoryOf(context)] : []),
    ];
  },
};

/** Memory of many forks, each with a delta of its own, measured in a process of their own. */
async function memoryOf(context) {
  const { quick, shape, dtype, device } = context;
  const forks = context.forks ?? (quick ? 50 : 1000);
  const found = await childMemory('fork-child', { path: await context.writeModel(), dtype, device, forks });
  context.log(
    `${forks} forks (rank 8) of ${shape.name}: ${megabytes(found.resident)} resident beyond the empty process; ` +
      `base + deltas are ${megabytes(found.ideal)}; fork.memory() says ${megabytes(found.own)} of deltas`,
  );
  return makeFigure(context, {
    name: `memory of ${forks} forks`,
    bar: 'fork memory',
    ours: [found.seconds],
    share: found.resident / found.ideal,
    bytes: found,
    work: { forks, rank: 8 },
  });
}

await runIfMain(import.meta.url, fork);
