import type { Directives } from './directives.js';
import type { TrainingDocument } from './documents.js';
import type { WeightEdit } from './weight.js';

/**
 * What the policy emits for a context: training documents that change the model through the inner loop.
 * Edits that are the weight change itself: `WeightEdit`.
 */
export interface TextEdit {
  readonly kind: 'text';
  /** What the policy wrote, as generated. */
  readonly text: string;
  /** What the inner loop trains on, in order; the passage itself is the last one unless switched off. */
  readonly documents: readonly TrainingDocument[];
  /** How the edit wants to be trained; where they are switched on and it says so. */
  readonly directives?: Directives;
  /** Set when the edit cannot be followed: it gets the floor reward and is not applied. */
  readonly invalid?: InvalidReason;
  /** What is wrong with it, in words, where there is more to say. */
  readonly detail?: string;
}

/** Why an edit cannot be applied. */
export const INVALID_REASONS = [
  /** It holds nothing to train on. */
  'empty',
  /** Its directives are no JSON object, or are missing where they are required. */
  'directives-not-json',
  /** Its directives name something unknown, or a value outside of the bounds. */
  'directives-out-of-bounds',
  /** Its inner training or its score was not finite. */
  'diverged',
] as const;
export type InvalidReason = (typeof INVALID_REASONS)[number];

/** How many edits are invalid, by reason. */
export type InvalidCounts = Readonly<Partial<Record<InvalidReason, number>>>;

export function countInvalid(edits: readonly { readonly invalid?: InvalidReason }[]): InvalidCounts {
  const counts: Partial<Record<InvalidReason, number>> = {};
  for (const { invalid } of edits) if (invalid) counts[invalid] = (counts[invalid] ?? 0) + 1;
  return counts;
}

/** A self-edit of either kind. */
export type SelfEdit = TextEdit | WeightEdit;
