/** Games of tokens on a tiny random model: what a policy must learn without any edit, task or reward model. */
import { expect } from 'vitest';
import type { Algorithm, Rollout } from '../../../lib/algorithm/algorithm.js';
import type { ModelConfig } from '../../../lib/binding.js';
import { type Generation, generate } from '../../../lib/generate.js';
import { Model, setThreads } from '../../../lib/model.js';
import { Policy, type PolicyOptions } from '../../../lib/policy.js';
import { deriveKey, permutation } from '../../../lib/random.js';

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
const SAMPLES = 16;
const FRESH = 64;

/** What is rewarded: `length` sampled tokens after one of `prompts`. */
export interface Game {
  readonly prompts: readonly Int32Array[];
  readonly length: number;
  reward(tokens: Int32Array, prompt: number): number;
}

export async function gameModel(): Promise<Model> {
  // A model this small gains nothing from threads, and much of its time would go into waking them.
  setThreads(1);
  return Model.random(CONFIG, { seed: 17, std: 0.2 });
}

const draw = (seed: number, purpose: string, n: number) =>
  permutation(deriveKey(seed, purpose), CONFIG.vocabSize).subarray(0, n);

/** 1 for six tokens that contain token X, else 0: by chance about one sample of six. */
export function containsToken(seed: number): Game {
  const wanted = draw(seed, 'wanted', 1)[0]!;
  const prompts = Array.from({ length: 4 }, (_, prompt) => draw(seed, `prompt ${prompt}`, 4));
  return { prompts, length: 6, reward: (tokens) => (tokens.includes(wanted) ? 1 : 0) };
}

/** One token after one prompt; the arms pay 0, 1/31, …, 1 in keyed order. */
export function bandit(seed: number): Game {
  const pay = permutation(deriveKey(seed, 'arms'), CONFIG.vocabSize);
  const arms = CONFIG.vocabSize - 1;
  return { prompts: [draw(seed, 'prompt', 4)], length: 1, reward: ([token]) => pay[token!]! / arms };
}

function play(policy: Policy, game: Game, key: bigint, samples: number): Promise<Generation[]> {
  const fork = policy.fork();
  const rows = game.prompts.map((prompt, row) => {
    return { fork, prompt, samples, seed: deriveKey(key, 'row', [row]) };
  });
  const options = { maxTokens: game.length, temperature: 1, stopTokens: [] };
  return generate(rows, options).finally(() => fork.close());
}

/** Mean reward of fresh samples before and after `rounds` updates, and the policy's figures of the last. */
export async function learn(
  model: Model,
  game: Game,
  algorithm: Algorithm,
  { seed, rounds, ...policyOptions }: { seed: number; rounds: number } & PolicyOptions,
) {
  await using policy = Policy.create(model, { rank: 8, seed, ...policyOptions });
  const rewardOf = ({ tokens, row }: Generation) => game.reward(tokens, row);
  const test = async (purpose: string) => {
    const rewards = (await play(policy, game, deriveKey(seed, purpose), FRESH)).map(rewardOf);
    return rewards.reduce((sum, reward) => sum + reward, 0) / rewards.length;
  };
  const before = await test('before');
  for (let round = 0; round < rounds; round++) {
    const played = await play(policy, game, deriveKey(seed, 'play', [round]), SAMPLES);
    const rollouts = played.map((generation): Rollout => {
      const { prompt, tokens, logprobs, row } = generation;
      const joined = Int32Array.from([...prompt, ...tokens]);
      const reward = rewardOf(generation);
      return { group: row, tokens: joined, promptLength: prompt.length, samplerLogprobs: logprobs, reward };
    });
    const stats = await algorithm.update(policy, rollouts, { seed, round });
    // What the sampler, the first pass and the step say of the same tokens must agree.
    expect(stats.samplerGap).toBeLessThan(1e-3);
    expect(stats.trainerGap).toBeLessThan(1e-4);
  }
  return { before, after: await test('after') };
}
