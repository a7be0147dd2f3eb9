/**
 * From what was measured to the number that an algorithm learns from. Better on the paying questions, unchanged elsewhere:
 *
 *   reward = clip( mean_q (score_edited(q) − score_unedited(q)) + Σ weight · term
 *                  − β · KL(edited ‖ unedited) − λ · forgetting − length − format )
 *
 * with the KL in nats a token on retention texts that no edit has seen, and the forgetting on earlier contexts (SCoL, arXiv
 * 2605.07076). Every part is kept.
 */

import { average } from '../average.js';
import { makeError } from '../errors.js';

export interface ShapeOptions {
  /** Weight of the KL. */
  readonly beta: number;
  /** Reward of an edit that cannot be applied; no edit gets less. */
  readonly floor: number;
  /** λ: weight of the drop in score on the paying questions of earlier contexts. */
  readonly lambda?: number;
  /** Reward lost for every 100 tokens that were written beyond `lengthFree`. */
  readonly lengthPenalty?: number;
  readonly lengthFree?: number;
  /** Reward lost by an edit that was cut off by the token limit. */
  readonly cutOffPenalty?: number;
  /** Reward lost in proportion to the share of documents that repeat another one. */
  readonly repeatPenalty?: number;
  /** Least and largest reward; the floor of what cannot be applied stands apart. */
  readonly clip?: readonly [least: number, most: number] | undefined;
}

export const SHAPE_DEFAULTS = {
  beta: 0.1,
  floor: -1,
  lambda: 0,
  lengthPenalty: 0,
  lengthFree: 0,
  cutOffPenalty: 0,
  repeatPenalty: 0,
} as const satisfies ShapeOptions;

/** Every part of a reward. NaN where it was not measured, or where an edit could not be applied. */
export interface RewardParts {
  /** Mean score of the edited model on the paying questions; the weighted sum, where several measures pay. */
  readonly edited: number;
  /** The same of the unedited model. */
  readonly unedited: number;
  /** edited − unedited, mean over the questions of which both are known. */
  readonly gain: number;
  /** Values of the terms of the caller's own, by name, before their weights. */
  readonly terms?: Readonly<Record<string, number>>;
  /** KL(edited ‖ unedited) on the retention texts, nats a token. */
  readonly kl: number;
  /** β · KL, as subtracted. */
  readonly klPenalty: number;
  /** Mean drop in score on earlier contexts, at least 0; NaN where none were asked. */
  readonly forgetting: number;
  /** What was subtracted for it, and for the length and the form of the text. */
  readonly forgettingPenalty: number;
  readonly lengthPenalty: number;
  readonly formatPenalty: number;
  /** The sum before it was clipped and held to the floor. */
  readonly total: number;
}

export interface ShapedReward {
  /** NaN: unknown. */
  readonly reward: number;
  readonly parts: RewardParts;
  /** Why the reward is unknown. */
  readonly unknown?: string;
}

/** What was measured of an applied edit. */
export interface Measured {
  /** Score by question, of the edited and of the unedited model; NaN: unknown. Empty where no question pays. */
  readonly edited: readonly number[];
  readonly unedited: readonly number[];
  readonly kl: number;
  /** Undefined where no earlier context was asked; NaN: unknown. */
  readonly forgetting?: number | undefined;
  /** Terms of the caller's own, by name. */
  readonly terms?: Readonly<Record<string, { readonly value: number; readonly weight: number }>>;
  /** The text, for the terms of length and form. */
  readonly written?: WrittenShape;
  /** Why a score or a term is unknown, where it is. */
  readonly cause?: string | undefined;
}

/** Length and form of what was written. */
export interface WrittenShape {
  readonly tokens: number;
  readonly cutOff: boolean;
  /** Share of the documents that repeat another one, in [0, 1]. */
  readonly repeats: number;
}

/** Throws `OPTION_INVALID` for a weight below 0, or bounds that are none. */
export function checkShape(options: ShapeOptions): void {
  const { floor, clip } = options;
  for (const name of [
    'beta',
    'lambda',
    'lengthPenalty',
    'lengthFree',
    'cutOffPenalty',
    'repeatPenalty',
  ] as const) {
    const value = options[name] ?? 0;
    if (value >= 0 && Number.isFinite(value)) continue;
    throw makeError('OPTION_INVALID', `reward ${name} is ${value}; expected a number of at least 0`);
  }
  if (!Number.isFinite(floor)) {
    throw makeError('OPTION_INVALID', `reward floor is ${floor}; expected a finite number`);
  }
  if (clip && !(clip[0] < clip[1])) {
    throw makeError('OPTION_INVALID', `reward clip is [${clip.join(', ')}]; expected the smaller one first`);
  }
}

/**
 * Reward of one applied edit. Scores or a KL that are infinite mean a broken edit: the floor. A question whose score is
 * unknown takes no part; where all are, or a term is, the reward is unknown.
 */
export function shapeReward(measured: Measured, options: ShapeOptions = SHAPE_DEFAULTS): ShapedReward {
  const { edited, unedited, kl, forgetting, terms = {}, written } = measured;
  const known = edited.flatMap((score, q) =>
    Number.isNaN(score) || Number.isNaN(unedited[q]!) ? [] : [[score, unedited[q]!] as const],
  );
  const means = {
    edited: average(known.map(([after]) => after)),
    unedited: average(known.map(([, before]) => before)),
  };
  // Without paying questions the terms alone pay.
  const gain = edited.length === 0 ? 0 : means.edited - means.unedited;
  const added = Object.values(terms).reduce(
    (sum, { value, weight }) => (weight === 0 ? sum : sum + weight * value),
    0,
  );
  const penalties = {
    // With a weight of 0 the divergence may go unmeasured (NaN) without spoiling the reward.
    klPenalty: options.beta === 0 ? 0 : options.beta * kl,
    // The first round has no earlier contexts.
    forgettingPenalty: forgetting === undefined || !options.lambda ? 0 : options.lambda * forgetting,
    ...textPenalties(written, options),
  };
  const total = gain + added - Object.values(penalties).reduce((sum, penalty) => sum + penalty, 0);
  const values = Object.entries(terms).map(([name, { value }]) => [name, value] as const);
  const parts: RewardParts = {
    ...means,
    gain,
    ...(values.length > 0 ? { terms: Object.fromEntries(values) } : {}),
    kl,
    ...penalties,
    forgetting: forgetting ?? Number.NaN,
    total,
  };
  if (Number.isNaN(gain) || Number.isNaN(added) || Number.isNaN(penalties.forgettingPenalty)) {
    return { reward: Number.NaN, parts, unknown: measured.cause ?? 'no paying question has a known score' };
  }
  if (!Number.isFinite(total)) return { reward: options.floor, parts };
  const [least, most] = options.clip ?? [Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY];
  return { reward: Math.max(Math.min(Math.max(total, least), most), options.floor), parts };
}

function textPenalties(
  written: WrittenShape | undefined,
  options: ShapeOptions,
): Pick<RewardParts, 'lengthPenalty' | 'formatPenalty'> {
  if (!written) return { lengthPenalty: 0, formatPenalty: 0 };
  const { lengthPenalty = 0, lengthFree = 0, cutOffPenalty = 0, repeatPenalty = 0 } = options;
  return {
    lengthPenalty: (lengthPenalty * Math.max(0, written.tokens - lengthFree)) / 100,
    formatPenalty: (written.cutOff ? cutOffPenalty : 0) + repeatPenalty * written.repeats,
  };
}

/** Reward of an edit that was not applied. */
export function floorReward(unedited: readonly number[], { floor }: ShapeOptions): ShapedReward {
  const nothing = Number.NaN;
  const parts: RewardParts = {
    edited: nothing,
    unedited: average(unedited),
    gain: nothing,
    kl: nothing,
    klPenalty: nothing,
    forgetting: nothing,
    forgettingPenalty: nothing,
    lengthPenalty: nothing,
    formatPenalty: nothing,
    total: nothing,
  };
  return { reward: floor, parts };
}

/** Mean of rewards over repeated inner trainings of one edit, part by part, with the spread of the reward; of those known. */
export function meanReward(
  rewards: readonly ShapedReward[],
): ShapedReward & { readonly spread: number; readonly rewards: readonly number[] } {
  const known = rewards.filter(({ reward }) => !Number.isNaN(reward));
  const counted = known.length > 0 ? known : rewards;
  const values = counted.map(({ reward }) => reward);
  const reward = average(values);
  const squares = values.reduce((sum, value) => sum + (value - reward) ** 2, 0);
  const { unknown } = counted[0]!;
  return {
    reward,
    parts: meanParts(counted.map(({ parts }) => parts)),
    spread: values.length > 1 ? Math.sqrt(squares / (values.length - 1)) : Number.NaN,
    rewards: rewards.map((one) => one.reward),
    ...(known.length === 0 && unknown !== undefined ? { unknown } : {}),
  };
}

function meanParts(parts: readonly RewardParts[]): RewardParts {
  const { terms: _, ...numbers } = parts[0]!;
  // A trial that broke has no parts; the others do.
  const terms = parts.find((part) => part.terms)?.terms;
  const mean = (of: (part: RewardParts) => number) =>
    average(parts.map(of).filter((value) => !Number.isNaN(value)));
  const names = Object.keys(numbers) as (keyof typeof numbers)[];
  const own = Object.keys(terms ?? {}).map((name) => {
    return [name, mean((part) => part.terms?.[name] ?? Number.NaN)] as const;
  });
  return {
    ...(Object.fromEntries(names.map((name) => [name, mean((part) => part[name])])) as typeof numbers),
    ...(terms ? { terms: Object.fromEntries(own) } : {}),
  };
}

/**
 * Rewards of a round at zero mean and unit variance; those that are unknown (NaN) stay so and do not count. Rewards that
 * differ by rounding alone become 0.
 */
export function whitenRewards(rewards: readonly number[]): number[] {
  const known = rewards.filter((reward) => !Number.isNaN(reward));
  const mean = average(known);
  const deviation = Math.sqrt(average(known.map((reward) => (reward - mean) ** 2)));
  const flat = !(deviation > 1e-6 * Math.max(1, Math.abs(mean)));
  return rewards.map((reward) => {
    if (Number.isNaN(reward)) return reward;
    return flat ? 0 : (reward - mean) / deviation;
  });
}
