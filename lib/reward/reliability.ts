/**
 * How far a reward can be trusted: how much of what differs between the edits of a context belongs to the edits, and how
 * much to the seed that each was trained under.
 *
 *   reward of edit e of context c under seed s = context_c + edit_ce + seed_ces
 *
 * The variances are those of a nested analysis of variance by the method of moments (Searle, Casella & McCulloch 1992), edits
 * within contexts, any number of edits and seeds:
 *
 *   betweenSeeds = MS_seeds,   betweenEdits = (MS_edits − MS_seeds) / n₀,   n₀ = Σ_c (N_c − Σ_e n_ce² / N_c) / df_edits
 *
 * The reliability of the mean of n seeds is the share of its variance that belongs to the edits (Spearman 1910, Brown 1910):
 *
 *   reliability(n) = betweenEdits / (betweenEdits + betweenSeeds / n)
 */
import { average } from '../average.js';
import { makeError } from '../errors.js';
import { deriveKey } from '../random.js';
import { resampledSums } from './statistics.js';

/** The reward of one edit under one seed. NaN: unknown, which takes no part. */
export interface RewardSample {
  readonly context: string;
  /** Within its context. */
  readonly edit: string;
  readonly reward: number;
}

export interface ReliabilityOptions {
  /** Numbers of seeds to report on; 1, 3, 5, 10. */
  readonly seeds?: readonly number[];
  /** The reliability that is wanted, between 0 and 1; 0.8. */
  readonly wanted?: number;
  /** Of the bootstrap over contexts. */
  readonly seed?: number | bigint;
  /** 10,000. */
  readonly resamples?: number;
  /** 0.95. */
  readonly level?: number;
}

/** An estimate with its interval by bootstrap over contexts; NaN where it cannot be told. */
export interface Estimate {
  readonly value: number;
  readonly low: number;
  readonly high: number;
}

export interface RewardReliability {
  /** What took part. */
  readonly contexts: number;
  readonly edits: number;
  readonly rewards: number;
  /** Rewards that are unknown. */
  readonly unknown: number;
  /** Variance between the edits of a context, and between the seeds of an edit, in squared units of the reward. */
  readonly betweenEdits: number;
  readonly betweenSeeds: number;
  /** The estimate of `betweenEdits` was below 0, which no variance is, and stands as 0. */
  readonly negative: boolean;
  /** n₀: seeds an edit, on average, as they count. */
  readonly seedsPerEdit: number;
  /** Reliability of the mean of n seeds. */
  readonly of: readonly ({ readonly n: number } & Estimate)[];
  /** Seeds an edit for the wanted reliability; infinite where no number will do. `high` is the careful choice. */
  readonly advice: { readonly wanted: number } & Estimate;
}

/** What a context adds to the sums: SS_edits, df_edits, SS_seeds, df_seeds, and N − Σ n² / N. */
type Sums = readonly [ssEdits: number, dfEdits: number, ssSeeds: number, dfSeeds: number, size: number];

/**
 * Splits rewards into their parts. Rewards of one context are compared with each other only. Errors: `OPTION_INVALID` for options
 * out of range, `INPUT_INVALID` where no context has two edits, or no edit two known rewards.
 */
export function reliability(
  samples: readonly RewardSample[],
  options: ReliabilityOptions = {},
): RewardReliability {
  const { seeds = [1, 3, 5, 10], wanted = 0.8, seed = 0, resamples, level } = options;
  if (!(wanted > 0 && wanted < 1)) {
    throw makeError('OPTION_INVALID', `wanted reliability is ${wanted}; expected a number between 0 and 1`);
  }
  const odd = seeds.find((n) => !(Number.isInteger(n) && n >= 1));
  if (odd !== undefined) {
    throw makeError('OPTION_INVALID', `number of seeds is ${odd}; expected whole numbers from 1`);
  }
  const contexts = grouped(samples);
  const rows = contexts.map(sumsOf);
  const total = [0, 1, 2, 3, 4].map((column) => rows.reduce((sum, row) => sum + row[column]!, 0));
  const [, dfEdits = 0, , dfSeeds = 0] = total;
  if (dfEdits === 0 || dfSeeds === 0) {
    const edits = contexts.reduce((sum, context) => sum + context.length, 0);
    const lack = dfEdits === 0 ? 'two edits of one context' : 'two rewards of one edit, under two seeds';
    throw makeError(
      'INPUT_INVALID',
      `found ${edits} edits of ${contexts.length} contexts with a known reward, but nowhere ${lack}; expected some`,
    );
  }
  const parts = varianceParts(total);
  const single = resampledSums(rows, (sums) => reliabilityOf(varianceParts(sums), 1), {
    key: deriveKey(seed, 'reliability'),
    ...(resamples === undefined ? {} : { resamples }),
    ...(level === undefined ? {} : { level }),
  });
  // Everything below is a rising or falling function of the reliability of one seed, so intervals go through it.
  const bounds = rows.length > 1 ? { low: single.low, high: single.high } : { low: 0, high: 1 };
  return {
    contexts: contexts.length,
    edits: contexts.reduce((sum, context) => sum + context.length, 0),
    rewards: contexts.flat(2).length,
    unknown: samples.filter(({ reward }) => Number.isNaN(reward)).length,
    betweenEdits: Math.max(0, parts.edits),
    betweenSeeds: parts.seeds,
    negative: parts.edits < 0,
    seedsPerEdit: parts.n0,
    of: seeds.map((n) => ({
      n,
      value: spearmanBrown(single.mean, n),
      low: spearmanBrown(bounds.low, n),
      high: spearmanBrown(bounds.high, n),
    })),
    advice: {
      wanted,
      value: seedsFor(wanted, single.mean),
      low: seedsFor(wanted, bounds.high),
      high: seedsFor(wanted, bounds.low),
    },
  };
}

/** Known rewards by context and edit. */
function grouped(samples: readonly RewardSample[]): number[][][] {
  const contexts = new Map<string, Map<string, number[]>>();
  for (const { context, edit, reward } of samples) {
    if (Number.isNaN(reward)) continue;
    if (!Number.isFinite(reward)) {
      throw makeError(
        'INPUT_INVALID',
        `reward of edit ${edit} of context ${context} is ${reward}; expected a number`,
      );
    }
    const edits = contexts.get(context) ?? new Map<string, number[]>();
    contexts.set(context, edits);
    const rewards = edits.get(edit);
    if (rewards) rewards.push(reward);
    else edits.set(edit, [reward]);
  }
  return [...contexts.values()].map((edits) => [...edits.values()]);
}

function sumsOf(rewards_ES: readonly (readonly number[])[]): Sums {
  const all = rewards_ES.flat();
  const mean = average(all);
  let ssEdits = 0;
  let ssSeeds = 0;
  let squares = 0;
  for (const rewards_S of rewards_ES) {
    const own = average(rewards_S);
    ssEdits += rewards_S.length * (own - mean) ** 2;
    ssSeeds += rewards_S.reduce((sum, reward) => sum + (reward - own) ** 2, 0);
    squares += rewards_S.length ** 2;
  }
  return [
    ssEdits,
    rewards_ES.length - 1,
    ssSeeds,
    all.length - rewards_ES.length,
    all.length - squares / all.length,
  ];
}

function varianceParts(sums: ArrayLike<number>): { edits: number; seeds: number; n0: number } {
  const seeds = sums[2]! / sums[3]!;
  const n0 = sums[4]! / sums[1]!;
  return { edits: (sums[0]! / sums[1]! - seeds) / n0, seeds, n0 };
}

function reliabilityOf({ edits, seeds }: { edits: number; seeds: number }, n: number): number {
  const between = Math.max(0, edits);
  return between / (between + seeds / n);
}

/** Reliability of the mean of n parallel measurements from that of one (Spearman 1910, Brown 1910). */
export function spearmanBrown(single: number, n: number): number {
  return (n * single) / (1 + (n - 1) * single);
}

/** The least n whose mean has the wanted reliability. */
function seedsFor(wanted: number, single: number): number {
  if (Number.isNaN(single)) return Number.NaN;
  if (single <= 0) return Number.POSITIVE_INFINITY;
  const exact = (wanted * (1 - single)) / ((1 - wanted) * single);
  // A whole number that rounding has lifted a little stays what it is.
  return Math.max(1, Math.ceil(exact * (1 - 1e-12)));
}
