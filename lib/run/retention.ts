/** Which checkpoints are kept for their rewards. */
import type { RoundResult } from '../edit-result.js';

type Played = Pick<RoundResult, 'round'> & {
  readonly reward: { readonly mean: number | null };
  readonly guards?: { readonly alarms: readonly unknown[] };
};

/**
 * Rounds of the `count` best checkpoints. The edits of a round are written by the policy of the checkpoint before it, so a
 * checkpoint's score is the mean reward of the next round; the newest has none yet. Rounds with an alarm of the guards, or
 * without a known reward, say nothing. Of equals the later one.
 */
export function bestCheckpoints(played: readonly Played[], count: number): number[] {
  const scored = played.flatMap(({ round, reward, guards }) =>
    round > 0 && Number.isFinite(reward.mean) && !guards?.alarms.length
      ? [{ round: round - 1, score: reward.mean! }]
      : [],
  );
  scored.sort((left, right) => right.score - left.score || right.round - left.round);
  return scored.slice(0, count).map(({ round }) => round);
}
