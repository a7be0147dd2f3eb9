// What GRPO, RLOO and ReST-EM choose to do; that the numbers are right is shown by algorithm-parity.test.ts.
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import type { Algorithm, Rollout } from '../../lib/algorithm/algorithm.js';
import { grpo } from '../../lib/algorithm/grpo.js';
import { ALGORITHM_NAMES, algorithmNamed } from '../../lib/algorithm/named.js';
import { ppo } from '../../lib/algorithm/ppo.js';
import { type RestemOptions, restem } from '../../lib/algorithm/restem.js';
import { rloo } from '../../lib/algorithm/rloo.js';
import type { Model } from '../../lib/model.js';
import { Policy, type PolicyMinibatch } from '../../lib/policy.js';
import { score } from '../../lib/score.js';
import { gameModel } from './helpers/token-game.js';

let model: Model;
let policy: Policy;
let steps: PolicyMinibatch[];
beforeAll(async () => {
  model = await gameModel();
});
afterAll(() => model.close());
beforeEach(() => {
  policy = Policy.create(model, { rank: 2, targets: ['v_proj'] });
  const take = policy.step.bind(policy);
  steps = [];
  vi.spyOn(policy, 'step').mockImplementation((minibatch) => {
    steps.push(minibatch);
    return take(minibatch);
  });
});

/** Rollout r begins with token r; `group` a context. */
async function rolloutsOf(given: { group: number; reward: number; invalid?: boolean }[]): Promise<Rollout[]> {
  const rows = given.map((_, index) => Int32Array.of(index, 7, 11 + index, 12, 13));
  const scored = await score(rows.map((tokens) => ({ fork: model, tokens })));
  return given.map((rollout, index) => {
    const samplerLogprobs = scored[index]!.slice(2);
    return { ...rollout, tokens: rows[index]!, promptLength: 2, samplerLogprobs };
  });
}
const learnt = () => [...new Set(steps.flatMap(({ rows }) => rows.map(({ tokens }) => tokens[0]!)))].sort();

describe('ReST-EM learns', () => {
  const GIVEN = [
    { group: 0, reward: 0.5 },
    { group: 0, reward: 2 },
    { group: 0, reward: 2 },
    { group: 1, reward: -0.4 },
    { group: 1, reward: -0.3 },
    { group: 2, reward: -1, invalid: true },
    { group: 2, reward: -1, invalid: true },
    { group: 3, reward: -1, invalid: true },
    { group: 3, reward: -1 },
  ];
  const learn = async (options: Partial<RestemOptions>) =>
    restem(options).update(policy, await rolloutsOf(GIVEN), {});

  it('the best edit of each context: the first of equal ones, bad ones too, never one that does not apply', async () => {
    const stats = await learn({ keep: 'best' });
    expect(learnt()).toEqual([1, 4, 8]);
    expect(stats).toMatchObject({ kept: 3, keptContexts: 3, steps: 2, epochs: 2, tokens: 27 });
    expect(stats.keptRewardMean).toBeCloseTo((2 - 0.3 - 1) / 3, 12);
    expect(stats.rewardMean).toBeCloseTo(-0.2 / 9, 12);
  });

  it('all edits above a threshold', async () => {
    const stats = await learn({ keep: 'aboveThreshold', threshold: 0, minibatch: 2 });
    expect(learnt()).toEqual([0, 1, 2]);
    expect(stats).toMatchObject({ kept: 3, keptContexts: 1, steps: 4 });
    // The mean over the tokens of a minibatch.
    for (const { rows, normalizer, loss } of steps) {
      expect(loss).toBe('nll');
      expect(normalizer).toBe(3 * rows.length);
    }
  });

  it('nothing when nothing is good enough: the policy stays as it is', async () => {
    const stats = await learn({ keep: 'aboveThreshold', threshold: 5 });
    expect(stats).toMatchObject({ kept: 0, keptContexts: 0, steps: 0 });
    expect(stats.loss).toBeNaN();
    expect(policy.version).toBe(0);
  });

  it('with an optimizer that goes on, or a fresh one', async () => {
    const reset = vi.spyOn(policy, 'resetOptimizer');
    await learn({});
    expect(reset).not.toHaveBeenCalled();
    await learn({ freshOptimizer: true });
    expect(reset).toHaveBeenCalledTimes(1);
  });
});

describe('every algorithm', () => {
  const GIVEN = [0.1, 0.9, -0.3, 0.2].map((reward, index) => ({ group: index >> 1, reward }));
  const MORE = { learningRate: 0.05, minibatch: 2, epochs: 4, klCoefficient: 0.1 };
  const makers: [string, (more: object) => Algorithm][] = ALGORITHM_NAMES.map((name) => [
    name,
    (more) => algorithmNamed(name, { ...MORE, ...more }),
  ]);

  it.each(makers)('%s stops when the policy has moved too far', async (_, make) => {
    const stats = await make({ klStop: 1e-3 }).update(policy, await rolloutsOf(GIVEN), {});
    expect(stats.stoppedEarly).toBe(true);
    expect(stats.klOldLargest).toBeGreaterThan(1e-3);
    expect(Number(stats.steps)).toBeGreaterThan(1);
    expect(Number(stats.steps)).toBeLessThan(8);
    expect(steps).toHaveLength(Number(stats.steps));
  });

  it.each(makers)('%s steers its KL coefficient and gives it back on resume', async (_, make) => {
    const algorithm = make({ klTarget: 1e-6, klStop: 1e6 });
    const first = await algorithm.update(policy, await rolloutsOf(GIVEN), {});
    // The policy begins as the base model, so the first KL is 0 and the coefficient falls; then it rises.
    expect(first.klReference).toBeCloseTo(0, 6);
    expect(algorithm.state().klCoefficient).toBeCloseTo(0.098, 10);
    const resumed = make({ klTarget: 1e-6, klStop: 1e6 });
    resumed.restore(algorithm.state());
    const second = await resumed.update(policy, await rolloutsOf(GIVEN), { round: 1 });
    expect(second.klCoefficient).toBeCloseTo(0.098, 10);
    expect(second.klReference).not.toBeCloseTo(0, 6);
    expect(resumed.state()).not.toEqual(algorithm.state());
  });

  it.each(makers)('%s refuses a reward that is not a number, and parts of epochs', async (name, make) => {
    const rollouts = await rolloutsOf([...GIVEN.slice(1), { group: 0, reward: Number.NaN }]);
    await expect(make({}).update(policy, rollouts, {})).rejects.toMatchObject({
      code: 'INPUT_INVALID',
      message: expect.stringContaining('reward 3 is NaN') as unknown,
    });
    expect(steps).toHaveLength(0);
    for (const bad of [{ epochs: 1.5 }, { minibatch: 0.5 }, { epochs: Number.POSITIVE_INFINITY }]) {
      expect(() => make(bad)).toThrow(`${name}.${Object.keys(bad)[0]} is`);
    }
  });

  it.each(makers)('%s reports the same figures', async (name, make) => {
    const stats = await make({}).update(policy, await rolloutsOf(GIVEN), {});
    const own = ['kept', 'keptContexts', 'keptRewardMean'];
    const shared = Object.keys(stats).filter((key) => !own.includes(key));
    const reference = await ppo(MORE).update(policy, await rolloutsOf(GIVEN), {});
    expect(shared.sort()).toEqual(Object.keys(reference).sort());
    expect(Number(stats.entropy)).toBeGreaterThan(0);
    expect(Number(stats.gradNorm)).toBeGreaterThan(0);
    expect(Number.isNaN(stats.advantageMean)).toBe(name === 'restem');
  });
});

it('RLOO clips nothing and puts the KL into the reward; GRPO clips and keeps it in the loss', async () => {
  const rollouts = await rolloutsOf([1, 0].map((reward) => ({ group: 0, reward })));
  await rloo().update(policy, rollouts, {});
  expect(steps.at(-1)).toMatchObject({ clipLow: Infinity, clipHigh: Infinity, klCoefficient: 0 });
  await grpo({ clipHigh: 0.3 }).update(policy, rollouts, {});
  expect(steps.at(-1)).toMatchObject({ clipLow: 0.2, clipHigh: 0.3, klCoefficient: 0.02 });
  // The constant: edits of a minibatch × the longest edit allowed.
  expect(steps.at(-1)!.normalizer).toBe(8 * 256);
});

it.each([
  [() => grpo({ scale: 'batch' as never }), /grpo\.scale is "batch"; expected one of group, none/],
  [() => grpo({ clipLow: -1 }), /grpo\.clipLow is -1; expected a number of at least 0/],
  [() => rloo({ klIn: 'both' as never }), /rloo\.klIn is "both"; expected one of loss, reward/],
  [() => restem({ keep: 'worst' as never }), /restem\.keep is "worst"; expected one of best, aboveThreshold/],
  [() => restem({ threshold: Number.NaN }), /restem\.threshold is NaN; expected a number/],
  [() => restem({ klTarget: 0 }), /restem\.klTarget is 0; expected a positive number/],
  [() => algorithmNamed('dpo' as never), /algorithm is "dpo"; expected one of ppo, grpo, rloo, restem/],
])('refuses settings out of range', (make, message) => {
  expect(make).toThrow(
    expect.objectContaining({ code: 'OPTION_INVALID', message: expect.stringMatching(message) }),
  );
});

describe('a step that is not finite', () => {
  const GIVEN = [1, 0, 0.5, 0.2].map((reward, index) => ({ group: index >> 1, reward }));

  it.each(ALGORITHM_NAMES)('is left out of an update of %s, and counted', async (name) => {
    const rollouts = await rolloutsOf(GIVEN);
    const take = vi.mocked(policy.step).getMockImplementation()!;
    let calls = 0;
    // The second minibatch meets a rate of which nothing finite comes back: the native step refuses and changes nothing.
    vi.mocked(policy.step).mockImplementation((minibatch) =>
      take(++calls === 2 ? { ...minibatch, learningRate: 3e38, weightDecay: 3e38 } : minibatch),
    );
    const stats = await algorithmNamed(name, { minibatch: 1, epochs: 2, klStop: 1e6 }).update(
      policy,
      rollouts,
      {},
    );
    expect(stats).toMatchObject({ stepsSkipped: 1, steps: calls - 1 });
    expect(policy.version).toBe(calls - 1);
    expect(policy.parameters().every(Number.isFinite)).toBe(true);
    expect(stats.loss).not.toBeNaN();
  });
});
