import type { WrittenWeightEdit } from '../edit/weight.js';
import type { EditHead } from '../edit-head.js';
import type { UpdateContext, UpdateStatistics } from './algorithm.js';

/** What an edit earned; `invalid` says why a copy could not be tested. */
export interface WeightReward {
  readonly reward: number;
  readonly invalid?: string;
}

/** What turns weight edits and their rewards into an update of the edit head. */
export interface WeightAlgorithm {
  readonly name: string;
  /**
   * Whether the update takes the loss's own gradient through the edits, so that the loop must give it the rounds'
   * `objective`; otherwise rewards are enough.
   */
  readonly differentiates: boolean;
  update(
    head: EditHead,
    edits: readonly WrittenWeightEdit[],
    rewards: readonly WeightReward[],
    context?: WeightUpdateContext,
  ): Promise<UpdateStatistics>;
}

export interface WeightUpdateContext extends Omit<UpdateContext, 'temperature'> {
  /** The loss of edits and its gradient; needed by algorithms that differentiate. */
  readonly objective?: WeightObjective | undefined;
}

/** A loss of weight edits that can be differentiated. */
export interface WeightLoss {
  /** Of each edit; NaN where it has no gradient. */
  readonly losses: readonly number[];
  /** dLoss/dvector of each edit; undefined where what the edited model computes overflows: nothing is learnt from it. */
  readonly gradients: readonly (Float32Array | undefined)[];
  /** dLoss/dbasis summed over the edits that have a gradient, where the head's basis is learnt. */
  readonly basis?: Float32Array;
  /** Further figures of the loss, means over the edits that have a gradient. */
  readonly figures?: Readonly<Record<string, number>>;
}
export type WeightObjective = (edits: readonly WrittenWeightEdit[]) => Promise<WeightLoss>;
