#!/usr/bin/env node
// B6: one policy update on fixed rollouts: old log-probs, then one epoch of two minibatches of the clipped objective,
// beside TRL's own loss on a PEFT model.
import { join } from 'node:path';
import { Policy, score } from 'selfedit';
import { trainingLimit } from './lib/limits.mjs';
import { runIfMain } from './lib/main.mjs';
import { inTurn } from './lib/measure.mjs';
import { draws, normal } from './lib/random.mjs';
import { makeFigure } from './lib/report.mjs';
import { largestDifference } from './lib/statistics.mjs';

const POLICY = { rank: 16, alpha: 32, targets: ['all'], seed: 3 };
const SETTINGS = { learningRate: 1e-4, clip: 0.2, maxGradNorm: 1, weightDecay: 0 };
/** Of the loss absolutely (it is a mean advantage, near 0), of the gradient's norm relatively. */
const TOLERANCE = { float32: { loss: 1e-4, norm: 1e-3 }, bfloat16: { loss: 5e-2, norm: 1e-1 } };

export const update = {
  name: 'update',
  title: 'a PPO update on fixed rollouts',
  peerNeeds: ['torch', 'transformers', 'peft', 'trl'],
  async run(context) {
    const { device, quick } = context;
    const [groups, edits, half] = quick ? [2, 2, 16] : device === 'cpu' ? [4, 4, 64] : [64, 8, 256];
    const model = await context.loadModel();
    const rollouts = makeRollouts(context.shape.config.vocab_size, groups, edits, half);
    const minibatch = rollouts.length / 2;
    const folder = join(context.folder, 'policy');
    await saveStart(model, folder);
    const limits = await context.limits();
    const measured = await inTurn(context, {
      ours: () => updateOnce(model, rollouts, { minibatch, half, signal: context.signal }),
      peer: {
        script: 'update',
        work: {
          ...SETTINGS,
          init: folder,
          minibatch,
          promptLength: half,
          rows: rollouts.map(({ tokens }) => Array.from(tokens)),
          advantages: rollouts.map(({ advantage }) => advantage),
        },
      },
      check(mine, theirs) {
        const tolerance = TOLERANCE[context.dtype];
        return [
          {
            what: 'largest difference of a loss',
            value: largestDifference(mine.loss, theirs.loss),
            tolerance: tolerance.loss,
          },
          {
            what: "relative, of the gradient's norm",
            value: largestDifference(mine.gradNorm, theirs.gradNorm, { relative: true }),
            tolerance: tolerance.norm,
          },
        ];
      },
    });
    const tokens = rollouts.length * 2 * half;
    const figure = makeFigure(context, {
      name: this.name,
      ...measured,
      // The first pass is forward only: half a training step.
      limit: 1.5 * trainingLimit(limits, model.parameters, tokens),
      work: { groups, edits, promptTokens: half, actionTokens: half, steps: 2 },
    });
    await model.close();
    return [{ ...figure, tokensPerSecond: tokens / figure.ours }];
  },
};

function makeRollouts(vocabulary, groups, edits, half) {
  const draw = draws(77);
  const tokens = (count) => Array.from({ length: count }, () => draw() % vocabulary);
  const advantages = normal(groups * edits, 1, draw);
  return Array.from({ length: groups }, () => tokens(half)).flatMap((prompt, g) =>
    Array.from({ length: edits }, (_, e) => ({
      tokens: Int32Array.from([...prompt, ...tokens(half)]),
      advantage: advantages[g * edits + e],
    })),
  );
}

/** The policy's first values, which both sides start from. */
async function saveStart(model, folder) {
  const policy = Policy.create(model, POLICY);
  const delta = policy.delta();
  await delta.save(folder);
  await delta.close();
  await policy.close();
}

async function updateOnce(model, rollouts, { minibatch, half, signal }) {
  const policy = Policy.create(model, POLICY);
  const fork = policy.fork();
  const old = await score(
    rollouts.map(({ tokens }) => ({ fork, tokens })),
    { signal },
  );
  await fork.close();
  const rows = rollouts.map(({ tokens, advantage }, r) => ({
    tokens,
    promptLength: half,
    oldLogprobs: old[r],
    advantages: new Float32Array(tokens.length).fill(advantage),
  }));
  const steps = [];
  for (let first = 0; first < rows.length; first += minibatch) {
    const stats = await policy.step({
      rows: rows.slice(first, first + minibatch),
      normalizer: minibatch * half,
      clipLow: SETTINGS.clip,
      clipHigh: SETTINGS.clip,
      learningRate: SETTINGS.learningRate,
      weightDecay: SETTINGS.weightDecay,
      signal,
      maxGradNorm: SETTINGS.maxGradNorm,
    });
    steps.push(stats);
  }
  await policy.close();
  return { loss: steps.map(({ loss }) => loss), gradNorm: steps.map(({ gradNorm }) => gradNorm) };
}

await runIfMain(import.meta.url, update);
