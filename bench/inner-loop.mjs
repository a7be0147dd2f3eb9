#!/usr/bin/env node
// B1: K text edits become K deltas (rank 32 on q and v, AdamW, batch 1), beside transformers + PEFT, one edit at a time.
import { join } from 'node:path';
import { adapt } from 'selfedit';
import { trainingLimit } from './lib/limits.mjs';
import { runIfMain } from './lib/main.mjs';
import { inTurn } from './lib/measure.mjs';
import { makeFigure } from './lib/report.mjs';
import { largestDifference, sum } from './lib/statistics.mjs';
import { edits as makeEdits } from './lib/workload.mjs';

const SETTINGS = { learningRate: 1e-3, clip: 1 };
const TARGETS = ['q_proj', 'v_proj'];
/** Relative; bfloat16: the peer's activations are bfloat16, ours are not. */
const TOLERANCE = { float32: { loss: 1e-4, norm: 1e-3 }, bfloat16: { loss: 2e-2, norm: 1e-1 } };

export const innerLoop = {
  name: 'inner-loop',
  title: 'train K edits',
  peerNeeds: ['torch', 'transformers', 'peft'],
  async run(context) {
    const { device, quick } = context;
    const forks = context.forks ?? (device === 'cpu' ? (quick ? 2 : 8) : 128);
    const peerForks = Math.min(forks, context.peerForks ?? (device === 'cpu' ? 4 : 1));
    const epochs = device === 'cpu' ? 1 : quick ? 2 : 10;
    const model = await context.loadModel();
    const edits = makeEdits(context, forks);
    const tokens = (list) => epochs * sum(list.map(({ documents }) => documents.flat().length));
    const training = { ...SETTINGS, targets: TARGETS, rank: 32, epochs };
    const init = await initialDelta(model, training);
    const folder = join(context.folder, 'init');
    await init.save(folder);
    const limits = await context.limits();
    let norms;
    const ours = async () => {
      const results = await adapt(
        edits.map(({ documents }) => ({ fork: model, documents, init })),
        { ...training, shuffle: false, signal: context.signal },
      );
      // Only of the first run, which is not timed.
      norms ??= normsOf(results[0].delta);
      await Promise.all(results.map(({ delta }) => delta.close()));
      return { loss: results.map(({ loss }) => loss), norms };
    };
    const measured = await inTurn(context, {
      ours,
      peer: {
        script: 'inner_loop',
        work: {
          ...SETTINGS,
          epochs,
          init: folder,
          edits: edits.slice(0, peerForks).map(({ documents }) => documents),
        },
      },
      scale: tokens(edits) / tokens(edits.slice(0, peerForks)),
      check: (mine, theirs) => checkTraining(mine, theirs, TOLERANCE[context.dtype]),
    });
    await init.close();
    await model.close();
    const figure = makeFigure(context, {
      name: this.name,
      ...measured,
      limit: trainingLimit(limits, model.parameters, tokens(edits)),
      work: { forks, peerForks, epochs, tokens: tokens(edits), rank: training.rank },
    });
    return [{ ...figure, tokensPerSecond: tokens(edits) / figure.ours }];
  },
};

/** The seeded first values: what a training at rate 0 leaves. */
async function initialDelta(model, training) {
  const [{ delta }] = await adapt([{ fork: model, documents: [[1, 2, 3]] }], {
    ...training,
    learningRate: 0,
    epochs: 1,
  });
  return delta;
}

function checkTraining(mine, theirs, tolerance) {
  const loss = Math.max(
    ...theirs.loss.map((losses, e) => largestDifference(mine.loss[e], losses, { relative: true })),
  );
  const norm = largestDifference(mine.norms, theirs.norms, { relative: true });
  return [
    { what: 'largest relative difference of a loss', value: loss, tolerance: tolerance.loss },
    { what: 'of |ΔW|', value: norm, tolerance: tolerance.norm },
  ];
}

/** Frobenius norms of scale · B A, matrix by matrix, without the product: |B A|² = Σ (Bᵀ B) ∘ (A Aᵀ). */
function normsOf(delta) {
  return delta.parts.map(({ rank, scale }, part) => {
    const { a, b } = delta.factors(part);
    const width = a.length / rank;
    const out = b.length / rank;
    let total = 0;
    for (let r = 0; r < rank; r++) {
      for (let s = 0; s < rank; s++) {
        let aa = 0;
        let bb = 0;
        for (let i = 0; i < width; i++) aa += a[r * width + i] * a[s * width + i];
        for (let o = 0; o < out; o++) bb += b[o * rank + r] * b[o * rank + s];
        total += aa * bb;
      }
    }
    return scale * Math.sqrt(total);
  });
}

await runIfMain(import.meta.url, innerLoop);
