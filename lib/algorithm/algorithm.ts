import type { Policy } from '../policy.js';
import type { Ranks } from '../ranks/ranks.js';

/** One sampled self-edit and its reward. */
export interface Rollout {
  /** Rollouts of one context form a group; the group baseline compares within it. */
  readonly group: number;
  /** Prompt and edit, the end-of-text token included where the policy chose it. */
  readonly tokens: Int32Array;
  /** The first `promptLength` tokens are the prompt; the others are the policy's actions. */
  readonly promptLength: number;
  /** The sampler's log-prob of each action (tokens.length − promptLength entries). */
  readonly samplerLogprobs: Float32Array;
  /** Terminal reward of the whole edit. */
  readonly reward: number;
  /** The edit could not be applied; its reward is the floor. */
  readonly invalid?: boolean;
}

/** What an update needs beyond the rollouts. */
export interface UpdateContext {
  /** Philox seed of the run and the round: an update is a pure function of (policy, rollouts, seed, round, state). */
  readonly seed?: number | bigint;
  readonly round?: number;
  /** Temperature at which the rollouts were sampled (1): log-probs are of the scaled distribution. */
  readonly temperature?: number;
  readonly signal?: AbortSignal | undefined;
  /** The processes that make the update together; each is given the same policy, rollouts and options. */
  readonly ranks?: Ranks | undefined;
  /** Gradients are summed in the order of the contexts, so that the number of ranks does not show in any bit. */
  readonly deterministic?: boolean | undefined;
}

/** @internal A context with its defaults filled in. */
export type SettledContext = Required<Pick<UpdateContext, 'seed' | 'round' | 'temperature'>> &
  Pick<UpdateContext, 'signal' | 'ranks' | 'deterministic'>;

/** Figures of one update; NaN where a figure does not apply. */
export type UpdateStatistics = Readonly<Record<string, number | boolean>>;

/** What turns rewards into a policy update. */
export interface Algorithm {
  readonly name: string;
  update(policy: Policy, rollouts: readonly Rollout[], context?: UpdateContext): Promise<UpdateStatistics>;
  /** Everything that the next update depends on besides the policy, for checkpoints. */
  state(): Readonly<Record<string, number>>;
  restore(state: Readonly<Record<string, number>>): void;
}
