import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Algorithm, Rollout } from '../../lib/algorithm/algorithm.js';
import { type PpoOptions, ppo } from '../../lib/algorithm/ppo.js';
import type { ModelConfig } from '../../lib/binding.js';
import { type Generation, generate } from '../../lib/generate.js';
import { Model, setThreads } from '../../lib/model.js';
import { Policy, type PolicyOptions } from '../../lib/policy.js';
import { deriveKey, permutation } from '../../lib/random.js';

// A sequence task on a tiny random model: the reward is 1 for six sampled tokens that contain token X, else 0. At the
// start that happens by chance, in about one sample of six; PPO must make it nearly certain.
const CONFIG: ModelConfig = {
  architecture: 'llama',
  vocabSize: 32,
  hiddenSize: 32,
  intermediateSize: 64,
  layers: 2,
  heads: 4,
  kvHeads: 2,
  headDim: 8,
  maxPositions: 32,
  rmsEps: 1e-5,
  ropeTheta: 10_000,
  ropeScaling: null,
  qkvBias: false,
  outputBias: false,
  mlpBias: false,
  tied: false,
};
const PROMPTS = 4;
const SAMPLES = 16;
const LENGTH = 6;
const UPDATES = 20;
const FRESH = 64;
const TEMPERATURE = 1;

interface Game {
  policy: Policy;
  algorithm: Algorithm;
  seed: number;
  wanted: number;
  prompts: Int32Array[];
}

async function play(
  { policy, seed, prompts }: Game,
  purpose: string,
  round: number,
  samples = SAMPLES,
): Promise<Generation[]> {
  const fork = policy.fork();
  const rows = prompts.map((prompt, group) => {
    return { fork, prompt, samples, seed: deriveKey(seed, purpose, [round, group]) };
  });
  const options = { maxTokens: LENGTH, temperature: TEMPERATURE, stopTokens: [] };
  return generate(rows, options).finally(() => fork.close());
}
const rewardOf = ({ tokens }: Generation, wanted: number) => (tokens.includes(wanted) ? 1 : 0);
const shareOf = (rewards: number[]) => rewards.reduce((sum, reward) => sum + reward, 0) / rewards.length;

async function improve(game: Game, round: number): Promise<void> {
  const rollouts = (await play(game, 'play', round)).map((generation): Rollout => {
    const { prompt, tokens, logprobs, row } = generation;
    const joined = Int32Array.from([...prompt, ...tokens]);
    const reward = rewardOf(generation, game.wanted);
    return { group: row, tokens: joined, promptLength: prompt.length, samplerLogprobs: logprobs, reward };
  });
  const context = { seed: game.seed, round, temperature: TEMPERATURE };
  const stats = await game.algorithm.update(game.policy, rollouts, context);
  // What the sampler, the first pass and the step say of the same tokens must agree.
  expect(stats.samplerGap).toBeLessThan(1e-3);
  expect(stats.trainerGap).toBeLessThan(1e-4);
}

/** Share of successes on fresh samples, before and after training. */
async function learn(
  model: Model,
  seed: number,
  options: Partial<PpoOptions>,
  policyOptions: PolicyOptions = {},
) {
  await using policy = Policy.create(model, { rank: 8, seed, ...policyOptions });
  const draw = (purpose: string, n: number) =>
    permutation(deriveKey(seed, purpose), CONFIG.vocabSize).subarray(0, n);
  const algorithm = ppo({
    minibatch: 16,
    learningRate: 5e-3,
    klCoefficient: 0,
    maxTokens: LENGTH,
    ...options,
  });
  const prompts = Array.from({ length: PROMPTS }, (_, group) => draw(`prompt ${group}`, 4));
  const game: Game = { policy, algorithm, seed, wanted: draw('wanted', 1)[0]!, prompts };
  const test = async (round: number) =>
    shareOf((await play(game, 'test', round, FRESH)).map((generation) => rewardOf(generation, game.wanted)));
  const before = await test(0);
  for (let round = 0; round < UPDATES; round++) await improve(game, round);
  return { before, after: await test(1) };
}

describe('PPO learns a reward', () => {
  let model: Model;
  beforeAll(async () => {
    // A model this small gains nothing from threads, and much of its time would go into waking them.
    setThreads(1);
    model = await Model.random(CONFIG, { seed: 17, std: 0.2 });
  });
  afterAll(() => model.close());

  it.each([1, 2, 3, 4, 5])('"contains token X" to 0.95 with the group baseline, seed %i', async (seed) => {
    const { before, after } = await learn(model, seed, {});
    expect(before).toBeLessThan(0.5);
    expect(after).toBeGreaterThanOrEqual(0.95);
  });

  it.each([1, 2, 3, 4, 5])('"contains token X" to 0.95 with the value head, seed %i', async (seed) => {
    const { before, after } = await learn(
      model,
      seed,
      { baseline: 'value' },
      { valueHead: true, valueBias: 0.2 },
    );
    expect(before).toBeLessThan(0.5);
    expect(after).toBeGreaterThanOrEqual(0.95);
  });

  it('and nothing from a reward that ignores the edit', async () => {
    const seed = 6;
    await using policy = Policy.create(model, { rank: 8, seed });
    const algorithm = ppo({ minibatch: 16, learningRate: 5e-3, klCoefficient: 0, maxTokens: LENGTH });
    const game: Game = {
      policy,
      algorithm,
      seed,
      wanted: 5,
      prompts: [Int32Array.of(1, 2), Int32Array.of(3, 4)],
    };
    for (let round = 0; round < 3; round++) {
      const rollouts = (await play(game, 'play', round)).map(({ prompt, tokens, logprobs, row }): Rollout => {
        const joined = Int32Array.from([...prompt, ...tokens]);
        return {
          group: row,
          tokens: joined,
          promptLength: prompt.length,
          samplerLogprobs: logprobs,
          reward: 0.7,
        };
      });
      await algorithm.update(policy, rollouts, { seed, round });
    }
    // Equal rewards have no advantage: not a single weight moves.
    await using untouched = Policy.create(model, { rank: 8, seed });
    expect(policy.version).toBeGreaterThan(0);
    expect(policy.parameters()).toEqual(untouched.parameters());
  });
});
