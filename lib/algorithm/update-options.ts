/** Settings that the algorithms share, and how they are checked. */
import { makeError } from '../errors.js';

/** What every update needs to know. */
export interface UpdateOptions {
  /** Passes over the rollouts. */
  epochs: number;
  /** Rollouts of one optimizer step. */
  minibatch: number;
  learningRate: number;
  maxGradNorm: number;
  weightDecay: number;
  entropyCoefficient: number;
  /** Coefficient of KL(policy ‖ base model); 0 switches the reference pass off. */
  klCoefficient: number;
  /** KL in nats a token that the coefficient is steered to; undefined leaves it fixed. */
  klTarget?: number | undefined;
  /** Stop the update when the k3 estimate of KL(old ‖ new), nats a token, exceeds this; undefined: never. */
  klStop?: number | undefined;
}

/** What an update by a policy gradient needs beyond that. */
export interface PolicyGradientOptions extends UpdateOptions {
  klStop: number;
  /** 'loss': the k2 estimate in the loss. 'reward': the k1 estimate, detached, taken from the reward. */
  klIn: 'loss' | 'reward';
  /** Gap between the sampler's log-probs and the first pass from which importance weights are used. */
  importanceGap: number;
  /** Largest importance weight. */
  importanceCap: number;
  /** Constant that sums over tokens are divided by; undefined: `minibatch` × the longest edit allowed. */
  normalizer?: number | undefined;
  /** Longest edit, tokens: only for the default `normalizer`. */
  maxTokens: number;
}

export const GRADIENT_DEFAULTS: Readonly<PolicyGradientOptions> = {
  epochs: 2,
  minibatch: 8,
  learningRate: 1e-4,
  maxGradNorm: 1,
  weightDecay: 0,
  entropyCoefficient: 0,
  klCoefficient: 0.02,
  klIn: 'loss',
  klStop: 0.05,
  importanceGap: 1e-3,
  importanceCap: 2,
  maxTokens: 256,
};

/** The constant that sums over the tokens of a step are divided by. */
export function normalizerOf(options: PolicyGradientOptions): number {
  return options.normalizer ?? options.minibatch * options.maxTokens;
}

type Kind = 'count' | 'positive' | 'notNegative' | 'share' | 'finite';

const KINDS: Readonly<Record<Kind, { holds: (value: number) => boolean; expected: string }>> = {
  count: {
    holds: (value) => Number.isSafeInteger(value) && value >= 1,
    expected: 'a whole number of at least 1',
  },
  positive: { holds: (value) => value > 0, expected: 'a positive number' },
  notNegative: { holds: (value) => value >= 0, expected: 'a number of at least 0' },
  share: { holds: (value) => value >= 0 && value <= 1, expected: 'a number from 0 to 1' },
  finite: { holds: Number.isFinite, expected: 'a number' },
};

/** What each number must be; names that an algorithm does not have are passed over. */
const NUMBERS: Readonly<Record<string, Kind>> = {
  epochs: 'count',
  minibatch: 'count',
  learningRate: 'positive',
  maxTokens: 'count',
  klStop: 'positive',
  klTarget: 'positive',
  normalizer: 'positive',
  importanceCap: 'positive',
  importanceGap: 'notNegative',
  klCoefficient: 'notNegative',
  clipLow: 'notNegative',
  clipHigh: 'notNegative',
  maxGradNorm: 'notNegative',
  weightDecay: 'notNegative',
  discount: 'share',
  lambda: 'share',
  entropyCoefficient: 'finite',
  threshold: 'finite',
};

/** @internal Throws `OPTION_INVALID` for a number out of range, or one that is missing and has no meaning so. */
export function checkOptions<Options extends object>(algorithm: string, options: Options): Options {
  for (const [name, value] of Object.entries(options) as [string, unknown][]) {
    const kind = NUMBERS[name];
    if (kind === undefined || (value === undefined && OPTIONAL.includes(name))) continue;
    const { holds, expected } = KINDS[kind];
    if (typeof value !== 'number' || !holds(value)) {
      throw makeError('OPTION_INVALID', `${algorithm}.${name} is ${String(value)}; expected ${expected}`);
    }
  }
  return options;
}

const OPTIONAL: readonly string[] = ['klTarget', 'klStop', 'normalizer'];

/** @internal Throws `OPTION_INVALID` when `value` is not one of `names`. */
export function checkName(what: string, value: unknown, names: readonly string[]): void {
  if (names.includes(value as string)) return;
  throw makeError('OPTION_INVALID', `${what} is "${String(value)}"; expected one of ${names.join(', ')}`);
}
