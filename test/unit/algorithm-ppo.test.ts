import { beforeEach, describe, expect, it, vi } from 'vitest';
import type { Rollout } from '../../lib/algorithm/algorithm.js';
import { PPO_DEFAULTS, type PpoOptions, ppo } from '../../lib/algorithm/ppo.js';
import type { Policy, PolicyMinibatch } from '../../lib/policy.js';
import type { ScoreRow } from '../../lib/score.js';

// The model layer is replaced by fakes that record what PPO asks of it; the native objective has its own tests.
const { score } = vi.hoisted(() => ({ score: vi.fn() }));
vi.mock('../../lib/score.js', () => ({ score }));

const FORK = { name: 'fork', close: vi.fn(async () => {}) };
const MODEL = { name: 'model' };
const PROMPT = 3;
let oldLogprob: (token: number) => number;
let steps: PolicyMinibatch[];
let klOld3: number[];

function fakePolicy(values?: (row: Int32Array) => Float32Array): Policy {
  const policy = {
    model: MODEL,
    fork: () => FORK,
    values: async (rows: Int32Array[]) => rows.map((row) => values!(row)),
    step: async (minibatch: PolicyMinibatch) => {
      steps.push(minibatch);
      const tokens = minibatch.rows.reduce((sum, row) => sum + row.tokens.length - row.promptLength, 0);
      const figures = { loss: tokens, policyLoss: 0, klLoss: 0, valueLoss: 0, entropy: 1, klReference1: 0 };
      const more = {
        klReference3: 0,
        klOld1: 0,
        klOld3: klOld3.shift() ?? 0,
        clipFraction: 0,
        gradNorm: steps.length,
      };
      return { ...figures, ...more, explainedVariance: 0.5, maxLogprobGap: 1e-6 * steps.length, tokens };
    },
  };
  return policy as unknown as Policy;
}

/** Rollouts whose tokens name them: row r has tokens 100 r + t. */
function rollouts(rewards: number[], lengths: number[], groups: number[], gap = 0): Rollout[] {
  return rewards.map((reward, row) => {
    const tokens = Int32Array.from({ length: PROMPT + lengths[row]! }, (_, t) => 100 * row + t);
    const samplerLogprobs = Float32Array.from(tokens.subarray(PROMPT), (token) => oldLogprob(token) + gap);
    return { group: groups[row]!, tokens, promptLength: PROMPT, samplerLogprobs, reward };
  });
}

const context = { seed: 1, round: 2, temperature: 0.7 };
const REWARDS = [1, 0, 0.5, 2, 4, 0];
const LENGTHS = [4, 1, 2, 3, 5, 2];
const GROUPS = [0, 0, 0, 1, 1, 1];
// One pass, one minibatch, no whitening: what goes in can be read off.
const PLAIN: Partial<PpoOptions> = { epochs: 1, minibatch: 6, whiten: false };
const rowNamed = (minibatch: PolicyMinibatch, row: number) =>
  minibatch.rows.find(({ tokens }) => Math.floor(tokens[0]! / 100) === row)!;
const actionsOf = (values: Float32Array | undefined) => Array.from(values!.subarray(PROMPT));

beforeEach(() => {
  steps = [];
  klOld3 = [];
  FORK.close.mockClear();
  oldLogprob = (token) => -1 - (token % 7) / 10;
  score.mockReset();
  score.mockImplementation(async (rows: ScoreRow[]) =>
    rows.map(({ fork, tokens }) => {
      const shift = (fork as unknown) === MODEL ? -0.25 : 0;
      const logprobs = Float32Array.from(tokens as Int32Array, (token) => oldLogprob(token) + shift);
      logprobs[0] = Number.NaN;
      return logprobs;
    }),
  );
});

describe('ppo', () => {
  it("scores the rollouts itself, on the policy and on the frozen base, at the sampler's temperature", async () => {
    await ppo(PLAIN).update(fakePolicy(), rollouts(REWARDS, LENGTHS, GROUPS), context);
    expect(score).toHaveBeenCalledTimes(2);
    for (const [call, fork] of [FORK, MODEL].entries()) {
      const [rows, options] = score.mock.calls[call]! as [ScoreRow[], { temperature: number }];
      expect(options.temperature).toBe(0.7);
      expect(rows).toHaveLength(6);
      for (const row of rows) expect(row.fork).toBe(fork);
    }
    expect(FORK.close).toHaveBeenCalledTimes(1);
    const row = rowNamed(steps[0]!, 4);
    expect(actionsOf(row.oldLogprobs)).toEqual(
      Array.from(row.tokens.subarray(PROMPT), (t) => Math.fround(oldLogprob(t))),
    );
    expect(row.referenceLogprobs![PROMPT]!).toBeCloseTo(row.oldLogprobs![PROMPT]! - 0.25, 6);
    expect(steps[0]!.temperature).toBe(0.7);
  });

  it('gives every token of an edit its leave-one-out advantage', async () => {
    await ppo(PLAIN).update(fakePolicy(), rollouts(REWARDS, LENGTHS, GROUPS), context);
    const row = rowNamed(steps[0]!, 3);
    expect(Array.from(row.advantages)).toEqual([0, 0, 0, 0, 0, 0]);
    expect(actionsOf(rowNamed(steps[0]!, 4).advantages)).toEqual([3, 3, 3, 3, 3]);
    expect(actionsOf(rowNamed(steps[0]!, 0).advantages)).toEqual([0.75, 0.75, 0.75, 0.75]);
    expect(row.returns).toBeUndefined();
    expect(row.importance).toBeUndefined();
  });

  it('takes the k1 estimate of the KL from the reward when asked, and not from the loss too', async () => {
    const options = { ...PLAIN, klCoefficient: 0.4, klIn: 'reward' as const };
    await ppo(options).update(fakePolicy(), rollouts(REWARDS, LENGTHS, GROUPS), context);
    expect(steps[0]!.klCoefficient).toBe(0);
    // old − reference is 0.25 a token, so an edit of T tokens loses 0.1 T.
    const totals = REWARDS.map((reward, row) => reward - 0.1 * LENGTHS[row]!);
    const expected = totals[4]! - (totals[3]! + totals[5]!) / 2;
    for (const advantage of actionsOf(rowNamed(steps[0]!, 4).advantages))
      expect(advantage).toBeCloseTo(expected, 6);
  });

  it('keeps the KL in the loss by default, with no reference pass at coefficient 0', async () => {
    await ppo(PLAIN).update(fakePolicy(), rollouts(REWARDS, LENGTHS, GROUPS), context);
    expect(steps[0]!.klCoefficient).toBe(PPO_DEFAULTS.klCoefficient);
    score.mockClear();
    const stats = await ppo({ ...PLAIN, klCoefficient: 0 }).update(
      fakePolicy(),
      rollouts(REWARDS, LENGTHS, GROUPS),
      context,
    );
    expect(score).toHaveBeenCalledTimes(1);
    expect(steps[1]!.rows[0]!.referenceLogprobs).toBeUndefined();
    expect(stats.klReference).toBeNaN();
  });

  it('uses the value head with GAE when asked', async () => {
    const policy = fakePolicy((row) => Float32Array.from(row, (token) => (token % 100) / 10));
    await ppo({ ...PLAIN, baseline: 'value', klCoefficient: 0 }).update(
      policy,
      rollouts(REWARDS, LENGTHS, GROUPS),
      context,
    );
    // λ = γ = 1: the return is the terminal reward at every token, the advantage is the return less the value.
    const row = rowNamed(steps[0]!, 4);
    for (const [a, advantage] of actionsOf(row.advantages).entries()) {
      expect(advantage).toBeCloseTo(4 - (PROMPT + a) / 10, 5);
    }
    for (const value of actionsOf(row.returns)) expect(value).toBeCloseTo(4, 5);
    expect(row.oldValues![PROMPT]).toBeCloseTo(0.3, 6);
  });

  it('whitens by sequence', async () => {
    await ppo({ ...PLAIN, whiten: true }).update(fakePolicy(), rollouts(REWARDS, LENGTHS, GROUPS), context);
    const advantages = [0, 1, 2, 3, 4, 5].map((row) => rowNamed(steps[0]!, row).advantages[PROMPT]!);
    const mean = advantages.reduce((sum, value) => sum + value, 0) / 6;
    const variance = advantages.reduce((sum, value) => sum + (value - mean) ** 2, 0) / 6;
    expect(mean).toBeCloseTo(0, 6);
    expect(variance).toBeCloseTo(1, 5);
  });

  it('weights tokens by min(exp(old − sampler), cap) only when the sampler is off by the stated gap', async () => {
    const near = await ppo(PLAIN).update(fakePolicy(), rollouts(REWARDS, LENGTHS, GROUPS, 9e-4), context);
    expect(near.samplerGap).toBeCloseTo(9e-4, 5);
    expect(near.importanceWeighted).toBe(false);
    expect(steps[0]!.rows.every(({ importance }) => importance === undefined)).toBe(true);
    const off = await ppo(PLAIN).update(fakePolicy(), rollouts(REWARDS, LENGTHS, GROUPS, 0.3), context);
    expect(off.importanceWeighted).toBe(true);
    expect(rowNamed(steps[1]!, 2).importance![PROMPT]).toBeCloseTo(Math.exp(-0.3), 5);
    await ppo(PLAIN).update(fakePolicy(), rollouts(REWARDS, LENGTHS, GROUPS, -3), context);
    expect(rowNamed(steps[2]!, 2).importance![PROMPT]).toBe(PPO_DEFAULTS.importanceCap);
  });

  it('visits every rollout once an epoch, in keyed order and even minibatches', async () => {
    const run = (round: number, seed: number) =>
      ppo({ epochs: 2, minibatch: 4 }).update(fakePolicy(), rollouts(REWARDS, LENGTHS, GROUPS), {
        ...context,
        seed,
        round,
      });
    const orderOf = () => steps.map(({ rows }) => rows.map(({ tokens }) => Math.floor(tokens[0]! / 100)));
    const stats = await run(2, 1);
    expect(stats.steps).toBe(4);
    expect(stats.epochs).toBe(2);
    const first = orderOf();
    expect(first.map(({ length }) => length)).toEqual([3, 3, 3, 3]);
    for (const epoch of [first.slice(0, 2), first.slice(2)]) {
      expect(epoch.flat().sort()).toEqual([0, 1, 2, 3, 4, 5]);
    }
    steps = [];
    await run(2, 1);
    expect(orderOf()).toEqual(first);
    const others = [];
    for (const [round, seed] of [
      [3, 1],
      [2, 5],
    ] as const) {
      steps = [];
      await run(round, seed);
      others.push(orderOf());
    }
    expect(others.some((order) => JSON.stringify(order) !== JSON.stringify(first))).toBe(true);
  });

  it("divides by a constant, not by the batch's own tokens", async () => {
    await ppo({ minibatch: 2, epochs: 1, maxTokens: 50 }).update(
      fakePolicy(),
      rollouts(REWARDS, LENGTHS, GROUPS),
      context,
    );
    expect(steps.map(({ normalizer }) => normalizer)).toEqual([100, 100, 100]);
    await ppo({ normalizer: 7 }).update(fakePolicy(), rollouts(REWARDS, LENGTHS, GROUPS), context);
    expect(steps.at(-1)!.normalizer).toBe(7);
  });

  it('stops early once the policy has moved too far', async () => {
    klOld3 = [0, 0.01, 0.06, 0];
    const stats = await ppo({ minibatch: 2, epochs: 5, klStop: 0.05 }).update(
      fakePolicy(),
      rollouts(REWARDS, LENGTHS, GROUPS),
      context,
    );
    expect(steps).toHaveLength(3);
    expect(stats).toMatchObject({ stoppedEarly: true, steps: 3, epochs: 1, klOldLargest: 0.06 });
  });

  it('adapts its KL coefficient after the update and gives it back on resume', async () => {
    const algorithm = ppo({ ...PLAIN, klCoefficient: 1, klTarget: 0.1 });
    const stats = await algorithm.update(fakePolicy(), rollouts(REWARDS, LENGTHS, GROUPS), context);
    expect(stats.klReference).toBeCloseTo(0.25, 5);
    expect(stats.klCoefficient).toBe(1);
    expect(algorithm.state()).toEqual({ klCoefficient: 1.02 });
    const resumed = ppo({ ...PLAIN, klCoefficient: 1, klTarget: 0.1 });
    resumed.restore(JSON.parse(JSON.stringify(algorithm.state())) as Record<string, number>);
    expect(
      (await resumed.update(fakePolicy(), rollouts(REWARDS, LENGTHS, GROUPS), context)).klCoefficient,
    ).toBe(1.02);
  });

  it('aggregates its statistics by tokens', async () => {
    const stats = await ppo({ minibatch: 3, epochs: 1 }).update(
      fakePolicy(),
      rollouts(REWARDS, LENGTHS, GROUPS),
      context,
    );
    const sizes = steps.map(({ rows }) => rows.reduce((sum, { tokens }) => sum + tokens.length - PROMPT, 0));
    expect(stats.loss).toBeCloseTo((sizes[0]! ** 2 + sizes[1]! ** 2) / 17, 10);
    expect(stats).toMatchObject({ tokens: 17, gradNormLargest: 2, explainedVariance: 0.5, trainerGap: 1e-6 });
    expect(stats.rewardMean).toBeCloseTo(1.25, 12);
  });

  it('refuses log-probs that are not finite, an edit without siblings, and options out of range', async () => {
    const broken = rollouts(REWARDS, LENGTHS, GROUPS, Number.NaN);
    await expect(ppo(PLAIN).update(fakePolicy(), broken, context)).rejects.toMatchObject({
      code: 'LOSS_NOT_FINITE',
    });
    await expect(ppo(PLAIN).update(fakePolicy(), rollouts([1], [2], [0]), context)).rejects.toMatchObject({
      code: 'OPTION_INVALID',
    });
    await expect(ppo(PLAIN).update(fakePolicy(), rollouts([1], [0], [0]), context)).rejects.toMatchObject({
      code: 'INPUT_INVALID',
    });
    expect(steps).toHaveLength(0);
    expect(() => ppo({ epochs: 0 })).toThrow(/ppo\.epochs is 0; expected a whole number of at least 1/);
    expect(() => ppo({ lambda: 1.5 })).toThrow(/ppo\.lambda/);
    expect(() => ppo({ klCoefficient: -1 })).toThrow(/ppo\.klCoefficient/);
  });
});
