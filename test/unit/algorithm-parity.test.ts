// Whole updates of every algorithm against independent float64 ones (scripts/fixtures/algorithms.py).
import { describe, expect, it, vi } from 'vitest';
import { type AlgorithmName, algorithmNamed, Model, Policy, type Rollout } from '../../lib/index.js';
import { fixture, readJson, relativeDifference } from '../support/fixtures.js';

interface Fixture {
  model: string;
  algorithm: AlgorithmName;
  options: Record<string, number | string | boolean>;
  temperature: number;
  policy: { rank: number; alpha: number; targets: string[] };
  parameters: string;
  rollouts: {
    group: number;
    tokens: number[];
    promptLength: number;
    reward: number;
    invalid: boolean;
    samplerLogprobs: number[];
  }[];
  advantages: (number | null)[];
  losses: [number, number];
  gradNorms: [number, number];
  klReference: number | null;
  updated: string;
}

const CASES = ['ppo', 'ppo-reward', 'grpo', 'grpo-none', 'rloo', 'restem', 'restem-threshold'];

function floats(base64: string): Float32Array {
  return new Float32Array(Uint8Array.from(Buffer.from(base64, 'base64')).buffer);
}
const near = (found: unknown, expected: number) =>
  expect(Math.abs(Number(found) - expected)).toBeLessThan(3e-4 * Math.max(1, Math.abs(expected)));

describe.each(CASES)('an update by %s', (name) => {
  const data = readJson<Fixture>('algorithms', `${name}.json`);
  const rollouts = data.rollouts.map((rollout): Rollout => {
    return {
      ...rollout,
      tokens: Int32Array.from(rollout.tokens),
      samplerLogprobs: Float32Array.from(rollout.samplerLogprobs),
    };
  });

  it('has the advantages, losses, gradients and parameters of the float64 twin', async () => {
    await using model = await Model.load(fixture('algorithms', data.model));
    await using policy = Policy.create(model, data.policy);
    const start = floats(data.parameters);
    policy.setParameters(start);
    const step = vi.spyOn(policy, 'step');
    const algorithm = algorithmNamed(data.algorithm, data.options);
    const stats = await algorithm.update(policy, rollouts, { temperature: data.temperature });

    const rows = step.mock.calls[0]![0].rows;
    const learnt = rollouts.filter((_, index) => data.advantages[index] !== null);
    expect(rows).toHaveLength(learnt.length);
    for (const [index, { tokens, promptLength }] of rollouts.entries()) {
      const expected = data.advantages[index];
      const row = rows.find((one) => one.tokens === tokens);
      expect(row === undefined).toBe(expected === null);
      for (const advantage of row?.advantages.subarray(promptLength) ?? []) near(advantage, expected!);
    }
    expect(stats).toMatchObject({ steps: 2, epochs: 2, stoppedEarly: false, importanceWeighted: false });
    near(stats.loss, (data.losses[0] + data.losses[1]) / 2);
    near(stats.gradNorm, (data.gradNorms[0] + data.gradNorms[1]) / 2);
    near(stats.gradNormLargest, Math.max(...data.gradNorms));
    if (data.klReference === null) expect(stats.klReference).toBeNaN();
    else near(stats.klReference, data.klReference);
    expect(stats.samplerGap).toBeLessThan(1e-4);
    const moved = policy.parameters().map((value, i) => value - start[i]!);
    const wanted = floats(data.updated).map((value, i) => value - start[i]!);
    expect(relativeDifference(moved, wanted)).toBeLessThan(1e-2);
  });
});
