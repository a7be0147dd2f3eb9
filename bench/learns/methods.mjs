// The methods that `npm run bench:learns` compares. A method trains a policy and says how it is examined; one that edits
// weights is an entry like the others.
import { grpo, ppo, restem, rloo } from 'selfedit';
import { trainTextEdits } from './text-edits.mjs';

const GRADIENT = {
  epochs: 2,
  minibatch: 16,
  learningRate: 2e-3,
  klCoefficient: 0.01,
  klStop: 0.2,
  maxTokens: 34,
};

/**
 * `name`, `title`; `expect`: 'up' where the score on unseen contexts must rise, 'flat' where it must not; `train(world)` →
 * {curve, trained, untrained, lines}, see text-edits.mjs. `world` is one seed's: model, task, seed, and the sizes of the run.
 */
export const METHODS = [
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
].map((method) => ({ ...method, train: (world) => trainTextEdits(world, method) }));
