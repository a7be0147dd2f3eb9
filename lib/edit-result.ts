/** What a round tells about its edits, whichever kind they are. */
import type { UpdateStatistics } from './algorithm/algorithm.js';
import { average } from './average.js';
import type { Directives } from './edit/directives.js';
import type { TrainingDocument } from './edit/documents.js';
import { countInvalid, type InvalidCounts, type InvalidReason } from './edit/edit.js';
import { isOverflow, makeError } from './errors.js';
import type { RoundGuards } from './guard/guards.js';
import type { ContextAnswers } from './reward/ask-forks.js';
import type { ForkReward } from './reward/evaluate.js';
import type { MeasureName } from './reward/measure.js';
import { measuresOf, type RewardOptions } from './reward/options.js';
import { scoresOf, weightedScores } from './reward/scores.js';
import { floorReward, meanReward, type RewardParts, whitenRewards } from './reward/shape.js';
import type { Phase, RoundRanks } from './round.js';

/** Mean scores of the edited and the unedited model by one measure. */
export interface ScorePair {
  readonly edited: number;
  readonly unedited: number;
}

/** One edit and what became of it. */
export interface EditResult {
  readonly round: number;
  /** Id and title of the context, and the index of the edit within it. */
  readonly context: string;
  readonly title: string;
  readonly sample: number;
  readonly text: string;
  readonly documents: readonly TrainingDocument[];
  /** Length of a weight edit's vector. */
  readonly vectorNorm?: number;
  /** How the edit wanted to be trained, where it said so. */
  readonly directives?: Directives;
  readonly invalid?: InvalidReason;
  /** What was wrong with it, in words. */
  readonly detail?: string;
  /** What the algorithm learns from; NaN where it is unknown: the edit takes no part in the update. */
  readonly reward: number;
  /** Why the reward is unknown. */
  readonly unknown?: string;
  /** The reward before whitening, where rewards are whitened. */
  readonly unwhitened?: number;
  /** Standard deviation of the reward over repeated inner trainings; NaN for one. */
  readonly spread: number;
  /** The reward of each inner training, where there were several. */
  readonly rewards?: readonly number[];
  readonly parts: RewardParts;
  /** Mean score by measure, on the questions that pay and on those that only report. */
  readonly scores: {
    readonly paying: Readonly<Record<MeasureName, ScorePair>>;
    readonly report: Readonly<Record<MeasureName, ScorePair>>;
  };
  /** Tokens written, and why writing ended. */
  readonly tokens: number;
  readonly finish: 'length' | 'stop' | 'context';
  /** Loss of the first and the last step of the inner training; NaN without one. */
  readonly loss: { readonly first: number; readonly last: number };
}

export interface RoundResult {
  readonly round: number;
  readonly edits: readonly EditResult[];
  /** Of the update; empty when an alarm has stopped the loop before it, and when it was skipped. */
  readonly update: UpdateStatistics;
  /** Why there was no update: a loss that is not finite. Nothing was changed, and the loop goes on. */
  readonly skipped?: string;
  /** Mean and best of the rewards that are known. */
  readonly reward: {
    readonly mean: number;
    readonly best: number;
    readonly invalid: number;
    readonly invalidBy: InvalidCounts;
    readonly unknown: number;
  };
  readonly guards: RoundGuards;
  /** An alarm has ended the loop with this round. */
  readonly halted?: 'stop' | 'rollback';
  /** Seconds by phase. */
  readonly timings: Readonly<Record<Phase, number>>;
  /** Where several ranks made the round. */
  readonly ranks?: RoundRanks;
}

/** @internal What is known of an edit before it is judged. */
export type EditIdentity = Omit<
  EditResult,
  'reward' | 'unknown' | 'unwhitened' | 'spread' | 'rewards' | 'parts' | 'scores' | 'loss'
>;

/** @internal What became of one edit, from all its trials; none when it was invalid. */
export function judgeEdit(
  { invalid: unfit, ...identity }: EditIdentity,
  baseline: ContextAnswers,
  trials: readonly (ForkReward & { readonly loss?: Float32Array })[],
  options: RewardOptions,
): EditResult {
  const diverged = trials.length > 0 && trials.every((trial) => trial.diverged);
  const outcome =
    trials.length > 0
      ? meanReward(trials)
      : { ...floorReward(weightedScores(baseline.paying, options), options), spread: Number.NaN };
  const invalid = unfit ?? (diverged ? 'diverged' : undefined);
  const loss = trials[0]?.loss;
  const pairs = (side: 'paying' | 'report') =>
    Object.fromEntries(
      measuresOf(options).map((measure): [MeasureName, ScorePair] => {
        const edited = trials.flatMap(({ answers }) => scoresOf(answers[side], measure));
        const unedited = scoresOf(baseline[side], measure);
        const known = (scores: number[]) => average(scores.filter((score) => !Number.isNaN(score)));
        return [measure, { edited: known(edited), unedited: known(unedited) }];
      }),
    );
  return {
    ...identity,
    ...(invalid ? { invalid } : {}),
    reward: outcome.reward,
    ...(outcome.unknown === undefined ? {} : { unknown: outcome.unknown }),
    spread: outcome.spread,
    ...('rewards' in outcome && trials.length > 1 ? { rewards: outcome.rewards } : {}),
    parts: outcome.parts,
    scores: { paying: pairs('paying'), report: pairs('report') },
    loss: { first: loss?.[0] ?? Number.NaN, last: loss?.[loss.length - 1] ?? Number.NaN },
  };
}

/** @internal The rewards of a round, whitened where the options ask for it. */
export function settleRewards(edits: readonly EditResult[], { whiten }: RewardOptions): EditResult[] {
  if (!whiten) return [...edits];
  const rewards = whitenRewards(edits.map(({ reward }) => reward));
  return edits.map((edit, index) => ({ ...edit, unwhitened: edit.reward, reward: rewards[index]! }));
}

/** @internal The statistics of an update, or why it was skipped. */
export async function updateOrSkip(
  update: () => Promise<UpdateStatistics>,
): Promise<Pick<RoundResult, 'update' | 'skipped'>> {
  try {
    return { update: await update() };
  } catch (error) {
    if (!isOverflow(error)) throw error;
    return { update: {}, skipped: error.message };
  }
}

/** @internal The summary of a round. */
export function rewardSummary(edits: readonly EditResult[]): RoundResult['reward'] {
  const known = edits.map(({ reward }) => reward).filter((reward) => !Number.isNaN(reward));
  return {
    mean: average(known),
    best: Math.max(...known),
    invalid: edits.filter(({ invalid }) => invalid).length,
    invalidBy: countInvalid(edits),
    unknown: edits.length - known.length,
  };
}

/**
 * @internal Indices of the edits that an algorithm can learn from: those whose reward is known, and of whose group there are
 * at least two such, as they are compared. Throws `REWARD_UNKNOWN` when there is none.
 */
export function learnable(
  edits: readonly Pick<EditResult, 'reward' | 'unknown'>[],
  groups: readonly number[],
  round: number,
): number[] {
  const known = [...edits.keys()].filter((index) => !Number.isNaN(edits[index]!.reward));
  const kept = known.filter((index) => known.filter((other) => groups[other] === groups[index]).length > 1);
  if (kept.length > 0) return kept;
  const cause = edits.find(({ unknown }) => unknown !== undefined)?.unknown ?? 'no score is known';
  throw makeError(
    'REWARD_UNKNOWN',
    `round ${round}: the rewards of ${edits.length - known.length} of ${edits.length} edits are unknown, ` +
      `which leaves none to compare with another of its context: ${cause}`,
  );
}
