import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { WeightAlgorithm, WeightObjective } from '../../lib/algorithm/weight-algorithm.js';
import { weightGradient } from '../../lib/algorithm/weight-gradient.js';
import { weightPpo } from '../../lib/algorithm/weight-ppo.js';
import { Delta } from '../../lib/delta.js';
import { Reading, type WrittenWeightEdit } from '../../lib/edit/weight.js';
import { EditHead } from '../../lib/edit-head.js';
import { Model } from '../../lib/model.js';
import { Policy } from '../../lib/policy.js';
import { draws, floatsOf, tinyConfig } from '../support/tiny.js';

// A game whose smoothed optimum is known. The reward of a vector z in context c is −½ (z − a_c)ᵀ H (z − a_c); with the KL
// to the untrained head, β Σ μ² / 2σ² in closed form, the best mean is not a_c but
//   μ*_c = (H + β diag(1 / σ²))⁻¹ H a_c.
// PPO sees rewards only, the gradient path gradients only.
const CONTEXTS = 3;
const NOISE = Float32Array.of(0.1, 0.03);
const SIGMA = [0.1, 0.1, 0.1, 0.03, 0.03];
const SIZE = SIGMA.length;
const BETA = 0.5;

let model: Model;
let policy: Policy;
beforeAll(async () => {
  model = await Model.random(tinyConfig({ layers: 1 }), { seed: 3 });
  policy = Policy.create(model, { rank: 1 });
});
afterAll(async () => {
  await policy.close();
  await model.close();
});

/** H and the a_c, both in units of the noise; H is symmetric and positive, with coupling between all entries. */
function game(seed: number) {
  const u = draws(SIZE * SIZE, seed);
  const H = Array.from({ length: SIZE }, (_, i) =>
    Array.from({ length: SIZE }, (_, j) => {
      const gram = Array.from(
        { length: SIZE },
        (_, k) => (u[i * SIZE + k]! - 0.5) * (u[j * SIZE + k]! - 0.5),
      );
      const sum = gram.reduce((total, value) => total + value, 0) + (i === j ? 0.5 : 0);
      return sum / (SIGMA[i]! * SIGMA[j]!);
    }),
  );
  const v = draws(CONTEXTS * SIZE, seed + 100);
  const goals = Array.from({ length: CONTEXTS }, (_, c) =>
    SIGMA.map((sigma, j) => (v[c * SIZE + j]! < 0.5 ? -1 : 1) * (1 + v[c * SIZE + j]!) * sigma),
  );
  const slope = (z: ArrayLike<number>, c: number) =>
    H.map((row) => -row.reduce((sum, h, j) => sum + h * (z[j]! - goals[c]![j]!), 0));
  const reward = (z: ArrayLike<number>, c: number) =>
    0.5 * slope(z, c).reduce((sum, value, j) => sum + value * (z[j]! - goals[c]![j]!), 0);
  const best = goals.map((goal) =>
    solve(
      H.map((row, i) => row.map((h, j) => h + (i === j ? BETA / SIGMA[i]! ** 2 : 0))),
      H.map((row) => row.reduce((sum, h, j) => sum + h * goal[j]!, 0)),
    ),
  );
  return { goals, slope, reward, best };
}

/** Gauss–Jordan. */
function solve(matrix: number[][], right: number[]): number[] {
  const rows = matrix.map((row, i) => [...row, right[i]!]);
  for (let i = 0; i < rows.length; i++) {
    const pivot = rows[i]!.map((value) => value / rows[i]![i]!);
    rows[i] = pivot;
    for (let k = 0; k < rows.length; k++) {
      if (k !== i) rows[k] = rows[k]!.map((value, j) => value - rows[k]![i]! * pivot[j]!);
    }
  }
  return rows.map((row) => row[rows.length]!);
}

async function makeHead(seed: number) {
  const space = [
    { space: 'lowRank', targets: ['q_proj'], size: 3 },
    { space: 'lowRank', targets: ['v_proj'], size: 2 },
  ] as const;
  const head = await EditHead.create(policy, { space, seed });
  head.setNoise(NOISE);
  const readings = Array.from({ length: CONTEXTS }, (_, c) => {
    const features = floatsOf(model.config.hiddenSize, 10 * seed + c, 1.7);
    return new Reading({ title: '', context: String(c), task: '' }, features, Delta.fromParts(model, []));
  });
  return { head, readings };
}

type Play = (round: number) => { algorithm: WeightAlgorithm; samples: number };

/** Largest distance of the mean from `best` in units of the noise, for the average over the last rounds. */
async function train(seed: number, rounds: number, play: Play) {
  const { goals, slope, reward, best } = game(seed);
  const { head, readings } = await makeHead(seed);
  const last = 20;
  const average = goals.map((goal) => goal.map(() => 0));
  const context = (edit: WrittenWeightEdit) => Number(edit.context.context);
  const objective: WeightObjective = async (edits) => ({
    losses: edits.map((edit) => -reward(edit.edit.vector, context(edit))),
    gradients: edits.map((edit) => Float32Array.from(slope(edit.edit.vector, context(edit)), (g) => -g)),
  });
  for (let round = 0; round < rounds; round++) {
    const { algorithm, samples } = play(round);
    const edits = await head.write(readings, { samples, seed, round });
    const rewards = edits.map((edit) => ({ reward: reward(edit.edit.vector, context(edit)) }));
    await algorithm.update(head, edits, rewards, { seed, round, objective });
    for (const edit of edits) await edit.close();
    if (round < rounds - last) continue;
    head.means(readings).forEach((mean, c) => {
      mean.forEach((value, j) => {
        average[c]![j]! += value / last;
      });
    });
  }
  await head.close();
  const distance = (to: number[][]) =>
    Math.max(
      ...average.flatMap((mean, c) => mean.map((value, j) => Math.abs(value - to[c]![j]!) / SIGMA[j]!)),
    );
  return { fromBest: distance(best), fromGoal: distance(goals) };
}

describe.each([1, 2, 3, 4, 5])('on a quadratic, seed %i', (seed) => {
  it('PPO arrives at the regularised smoothed optimum', async () => {
    const { fromBest, fromGoal } = await train(seed, 120, (round) => ({
      // Whitening would rescale the reward against the KL and so move the optimum.
      algorithm: weightPpo({
        whiten: false,
        klCoefficient: BETA,
        epochs: 2,
        minibatch: 96,
        learningRate: round < 60 ? 0.05 : 0.01,
      }),
      samples: 64,
    }));
    expect(fromBest).toBeLessThan(0.12);
    expect(fromGoal).toBeGreaterThan(0.4);
  });

  it('the gradient path arrives there', async () => {
    const { fromBest, fromGoal } = await train(seed, 120, (round) => ({
      algorithm: weightGradient({ klCoefficient: BETA, steps: 2, learningRate: round < 60 ? 0.05 : 0.01 }),
      samples: 4,
    }));
    expect(fromBest).toBeLessThan(0.12);
    expect(fromGoal).toBeGreaterThan(0.4);
  });
});
