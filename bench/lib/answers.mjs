// What both sides computed: the same, as far as the rounding of the two allows.
import { largestDifference } from './statistics.mjs';

/** Of log-probs; bfloat16: the peer's activations and logits are bfloat16, ours are float32. */
const TOLERANCE = { float32: 5e-4, bfloat16: 0.3 };

/** The largest difference over rows of log-probs of given tokens. */
export function compareLogprobs(mine, theirs, dtype) {
  const value = Math.max(...theirs.map((row, r) => largestDifference(mine[r], row)));
  return [{ what: 'largest difference of a log-prob', value, tolerance: TOLERANCE[dtype] }];
}

/**
 * Rows are compared up to and including the first token that differs. Greedy picks the largest log-prob, so that one is
 * the same on both sides even where a tie in the last bits makes them pick different tokens; from there on the rows have
 * nothing to do with each other.
 */
export function compareAnswers(mine, theirs, dtype) {
  let largest = 0;
  let split = 0;
  for (const [r, ids] of theirs.tokens.entries()) {
    const { tokens, logprobs } = mine[r];
    if (tokens.length !== ids.length) return [{ what: 'tokens that are missing', value: 1, tolerance: 0 }];
    const first = ids.findIndex((id, i) => id !== tokens[i]);
    const end = first < 0 ? ids.length : first + 1;
    if (first >= 0) split++;
    for (let i = 0; i < end; i++) {
      const difference = Math.abs(logprobs[i] - theirs.logprobs[r][i]);
      largest = Number.isNaN(difference) ? Number.POSITIVE_INFINITY : Math.max(largest, difference);
    }
  }
  return [
    { what: 'largest difference of a log-prob', value: largest, tolerance: TOLERANCE[dtype] },
    // Rows that part at a tie; in bfloat16 ties are common.
    {
      what: 'share of rows that part at a tie',
      value: split / theirs.tokens.length,
      tolerance: dtype === 'float32' ? 0.2 : 1,
    },
  ];
}
