/**
 * What the policy emits for a context: training documents that change the model through the inner loop.
 * `kind` leaves room for edits that are the weight change itself.
 */
export interface TextEdit {
  readonly kind: 'text';
  /** What the policy wrote, as generated. */
  readonly text: string;
  /** What the inner loop trains on, in order; the passage itself is the last one unless switched off. */
  readonly documents: readonly string[];
  /** Set when the text holds nothing to train on: the edit gets the floor reward and is not applied. */
  readonly invalid?: InvalidReason;
}

/** Why an edit cannot be applied. `diverged`: its inner training or its score was not finite. */
export type InvalidReason = 'empty' | 'diverged';

/** A self-edit of either kind (weight edits are to come). */
export type SelfEdit = TextEdit;
