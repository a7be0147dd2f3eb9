import { makeError } from '../errors.js';

/** Settings of PPO; the defaults suit one terminal reward an edit. */
export interface PpoOptions {
  /** 'group': leave-one-out mean of the context's other edits. 'value': the policy's value head, with GAE. */
  baseline: 'group' | 'value';
  discount: number;
  lambda: number;
  /** Scale advantages to unit variance, each sequence counting once. */
  whiten: boolean;
  /** Passes over the rollouts. */
  epochs: number;
  /** Rollouts of one optimizer step. */
  minibatch: number;
  clipLow: number;
  clipHigh: number;
  learningRate: number;
  valueLearningRate: number;
  valueCoefficient: number;
  valueClip: number;
  entropyCoefficient: number;
  maxGradNorm: number;
  weightDecay: number;
  /** Coefficient of KL(policy ‖ base model); 0 switches the reference pass off. */
  klCoefficient: number;
  /** 'loss': the k2 estimate in the loss. 'reward': the k1 estimate, detached, taken from the reward. */
  klIn: 'loss' | 'reward';
  /** KL in nats a token that the coefficient is steered to; undefined leaves it fixed. */
  klTarget?: number | undefined;
  /** Stop the update when the k3 estimate of KL(old ‖ new), nats a token, exceeds this. */
  klStop: number;
  /** Gap between the sampler's log-probs and the first pass from which importance weights are used. */
  importanceGap: number;
  /** Largest importance weight. */
  importanceCap: number;
  /** Constant that sums over tokens are divided by; undefined: `minibatch` × the longest edit allowed. */
  normalizer?: number | undefined;
  /** Longest edit, tokens: only for the default `normalizer`. */
  maxTokens: number;
}

export const PPO_DEFAULTS: Readonly<PpoOptions> = {
  baseline: 'group',
  discount: 1,
  lambda: 1,
  whiten: true,
  epochs: 2,
  minibatch: 8,
  clipLow: 0.2,
  clipHigh: 0.2,
  learningRate: 1e-4,
  valueLearningRate: 1e-3,
  valueCoefficient: 0.5,
  valueClip: 0.2,
  entropyCoefficient: 0,
  maxGradNorm: 1,
  weightDecay: 0,
  klCoefficient: 0.02,
  klIn: 'loss',
  klStop: 0.05,
  importanceGap: 1e-3,
  importanceCap: 2,
  maxTokens: 256,
};

/** @internal Throws `OPTION_INVALID` for a number out of range. */
export function checkPpoOptions(options: PpoOptions): PpoOptions {
  const positive: (keyof PpoOptions)[] = [
    'epochs',
    'minibatch',
    'learningRate',
    'maxTokens',
    'klStop',
    'importanceCap',
  ];
  const notNegative: (keyof PpoOptions)[] = [
    'klCoefficient',
    'clipLow',
    'clipHigh',
    'maxGradNorm',
    'weightDecay',
  ];
  const shares: (keyof PpoOptions)[] = ['discount', 'lambda'];
  const check = (names: (keyof PpoOptions)[], holds: (value: number) => boolean, expected: string) => {
    for (const name of names) {
      const value = options[name];
      if (typeof value !== 'number' || !holds(value)) {
        throw makeError('OPTION_INVALID', `ppo.${name} is ${value}; expected ${expected}`);
      }
    }
  };
  check(positive, (value) => value > 0, 'a positive number');
  check(notNegative, (value) => value >= 0, 'a number of at least 0');
  check(shares, (value) => value >= 0 && value <= 1, 'a number from 0 to 1');
  return options;
}
