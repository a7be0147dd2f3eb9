// The methods that `npm run bench:learns` compares.
import { grpo, ppo, restem, rloo, weightGradient, weightPpo } from 'selfedit';
import { trainTextEdits } from './text-edits.mjs';
import { trainWeightEdits } from './weight-edits.mjs';

const GRADIENT = {
  epochs: 2,
  minibatch: 16,
  learningRate: 2e-3,
  klCoefficient: 0.01,
  klStop: 0.2,
  maxTokens: 34,
};

/** One step moves an entry of the mean by about a tenth of the noise. */
const HEAD = { learningRate: 0.1 };

const TEXT_EDITS = [
  { name: 'ppo', title: 'PPO, text edits', expect: 'up', algorithm: () => ppo(GRADIENT) },
  { name: 'grpo', title: 'GRPO, text edits', expect: 'up', algorithm: () => grpo(GRADIENT) },
  {
    name: 'rloo',
    title: 'RLOO, text edits',
    expect: 'up',
    algorithm: () => rloo({ ...GRADIENT, epochs: 1, minibatch: 32 }),
  },
  {
    name: 'restem',
    title: 'ReST-EM, text edits',
    expect: 'up',
    algorithm: () => restem({ keep: 'best', epochs: 2, minibatch: 8, learningRate: 2e-3 }),
  },
  {
    name: 'random-reward',
    title: 'PPO, random reward',
    expect: 'flat',
    algorithm: () => ppo(GRADIENT),
    randomReward: true,
  },
].map((method) => ({ ...method, chart: 'text', train: (world) => trainTextEdits(world, method) }));

const weightEdits = (space, kind, { title, ...method }) => {
  const full = { name: `${space}-${kind}`, title: `${title}, ${space} weight edits`, space, ...method };
  return { ...full, train: (world) => trainWeightEdits(world, full) };
};
const byPpo = { chart: 'weights-ppo', algorithm: () => weightPpo(HEAD) };
const byGradient = { chart: 'weights-gradient', algorithm: () => weightGradient(HEAD) };
const random = { title: 'PPO with a random reward', randomReward: true, expect: 'flat' };

/** Spaces that are told something of the passage must learn; `spectral` is told nothing but through the head. */
const WEIGHT_EDITS = [
  ['modulated', 'up'],
  ['gradient', 'up'],
  ['sparse', 'up'],
  ['spectral', 'report'],
].flatMap(([space, expect]) => [
  weightEdits(space, 'ppo', { title: 'PPO', expect, ...byPpo }),
  weightEdits(space, 'path', { title: 'gradient path', expect, ...byGradient }),
  ...(expect === 'up' ? [weightEdits(space, 'random', { ...byPpo, ...random })] : []),
]);

/**
 * `name`, `title`; `expect`: 'up' where the score on unseen contexts must rise, 'flat' where it must not, 'report' where either
 * is told and nothing demanded; `chart`: the file of its curves; `train(world)` → what `learn` in examine.mjs returns. `world` is
 * one seed's: model, task, seed, and the sizes of the run.
 * @typedef {{curve: number[][], trained: number[][], untrained: number[][], exact: {trained: number[][], untrained: number[][]}}} Run
 * @type {readonly {name: string, title: string, expect: string, chart: string, space?: string, train: (world: object) => Promise<Run>}[]}
 */
export const METHODS = [...TEXT_EDITS, ...WEIGHT_EDITS];
