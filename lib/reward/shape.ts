/**
 * The dual objective of a self-edit: better on the paying questions, unchanged elsewhere.
 *
 *   reward = mean_q (score_edited(q) − score_unedited(q)) − β · KL(edited ‖ unedited)
 *
 * with the KL in nats a token on retention texts that no edit has seen.
 */
export interface ShapeOptions {
  /** Weight of the KL. */
  readonly beta: number;
  /** Reward of an edit that cannot be applied; no edit gets less. */
  readonly floor: number;
}

export const SHAPE_DEFAULTS: Readonly<ShapeOptions> = { beta: 0.1, floor: -1 };

/** Every part of a reward. Means over questions; NaN where an edit could not be applied. */
export interface RewardParts {
  /** Mean score of the edited model on the paying questions. */
  readonly edited: number;
  /** The same of the unedited model. */
  readonly unedited: number;
  /** edited − unedited. */
  readonly gain: number;
  /** KL(edited ‖ unedited) on the retention texts, nats a token. */
  readonly kl: number;
  /** β · KL, as subtracted. */
  readonly klPenalty: number;
}

export interface ShapedReward {
  readonly reward: number;
  readonly parts: RewardParts;
}

/**
 * Reward of one applied edit from its scores on the paying questions and its divergence. Scores that are not finite
 * mean a broken edit: the floor.
 */
export function shapeReward(
  measured: { readonly edited: readonly number[]; readonly unedited: readonly number[]; readonly kl: number },
  options: ShapeOptions = SHAPE_DEFAULTS,
): ShapedReward {
  const edited = meanOf(measured.edited);
  const unedited = meanOf(measured.unedited);
  const gain = edited - unedited;
  // With β = 0 the divergence may go unmeasured (NaN) without spoiling the reward.
  const klPenalty = options.beta === 0 ? 0 : options.beta * measured.kl;
  const raw = gain - klPenalty;
  const reward = Number.isFinite(raw) ? Math.max(raw, options.floor) : options.floor;
  return { reward, parts: { edited, unedited, gain, kl: measured.kl, klPenalty } };
}

/** Reward of an edit that was not applied. */
export function floorReward(unedited: readonly number[], options: ShapeOptions): ShapedReward {
  const parts = { edited: Number.NaN, unedited: meanOf(unedited), gain: Number.NaN, kl: Number.NaN };
  return { reward: options.floor, parts: { ...parts, klPenalty: Number.NaN } };
}

/** Mean of rewards over repeated inner trainings of one edit, part by part, with the spread of the reward. */
export function meanReward(rewards: readonly ShapedReward[]): ShapedReward & { readonly spread: number } {
  const part = (name: keyof RewardParts) => meanOf(rewards.map(({ parts }) => parts[name]));
  const values = rewards.map(({ reward }) => reward);
  const reward = meanOf(values);
  const squares = values.reduce((sum, value) => sum + (value - reward) ** 2, 0);
  return {
    reward,
    parts: {
      edited: part('edited'),
      unedited: part('unedited'),
      gain: part('gain'),
      kl: part('kl'),
      klPenalty: part('klPenalty'),
    },
    spread: values.length > 1 ? Math.sqrt(squares / (values.length - 1)) : Number.NaN,
  };
}

function meanOf(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
