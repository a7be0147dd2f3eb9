/** Which checkpoints are kept. */
import { pruneCheckpoints } from './checkpoint.js';
import type { RunConfig } from './config.js';
import type { Disk } from './disk.js';
import type { JournalLine } from './journal.js';

/** A round as the journal has it. */
export type Played = Omit<Extract<JournalLine, { type: 'round' }>, 'type' | 'policyVersion'>;

/** Removes the checkpoints that a configuration does not keep, after these rounds. Throws `IO`. */
export async function prune(
  disk: Disk,
  run: string,
  { keepCheckpoints, keepBest, guards }: Pick<RunConfig, 'keepCheckpoints' | 'keepBest' | 'guards'>,
  played: readonly Played[],
): Promise<void> {
  if (keepCheckpoints === 'all') return;
  // A rollback needs the one before the last, also when the last is damaged and its round is played again.
  const least = guards.onAlarm === 'rollback' ? 3 : 1;
  await pruneCheckpoints(disk, run, Math.max(keepCheckpoints, least), bestCheckpoints(played, keepBest));
}

type Rewarded = Pick<Played, 'round'> & {
  readonly reward: { readonly mean: number | null };
  readonly guards?: { readonly alarms: readonly unknown[] };
};

/**
 * Rounds of the `count` best checkpoints. The edits of a round are written by the policy of the checkpoint before it, so a
 * checkpoint's score is the mean reward of the next round; the newest has none yet. Rounds with an alarm of the guards, or
 * without a known reward, say nothing. Of equals the later one.
 */
export function bestCheckpoints(played: readonly Rewarded[], count: number): number[] {
  const scored = played.flatMap(({ round, reward, guards }) =>
    round > 0 && Number.isFinite(reward.mean) && !guards?.alarms.length
      ? [{ round: round - 1, score: reward.mean! }]
      : [],
  );
  scored.sort((left, right) => right.score - left.score || right.round - left.round);
  return scored.slice(0, count).map(({ round }) => round);
}
