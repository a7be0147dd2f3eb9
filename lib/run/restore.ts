/** Where a run goes on: after the newest checkpoint that is whole, with the journal cut after it. */
import { join } from 'node:path';
import type { Algorithm } from '../algorithm/algorithm.js';
import type { WeightAlgorithm } from '../algorithm/weight-algorithm.js';
import type { EditHead } from '../edit-head.js';
import { FileError, makeError } from '../errors.js';
import type { Policy } from '../policy.js';
import {
  type CheckpointState,
  clearLeftovers,
  listCheckpoints,
  loadCheckpoint,
  setAside,
} from './checkpoint.js';
import { COMPARISON } from './comparison.js';
import type { RunConfig } from './config.js';
import { type Disk, removeFile } from './disk.js';
import { type JournalLine, lastWholeRound, readJournal, truncateJournal } from './journal.js';
import { prune } from './retention.js';

/** What has been read and is to be brought to where the run stopped. */
export interface Restored {
  readonly policy: Pick<Policy, 'load'>;
  readonly head?: Pick<EditHead, 'load'> | undefined;
  readonly algorithm: Algorithm | WeightAlgorithm;
}

type RoundLine = Extract<JournalLine, { type: 'round' }>;

/**
 * Loads the newest checkpoint that is whole and cuts the journal after it; the state is undefined for a run that has none.
 * Newer ones that are damaged, or of rounds that the journal lacks, are told to `warn` and set aside. Throws `RUN_INVALID` when
 * all are, and then changes nothing.
 */
export async function restore(
  disk: Disk,
  run: string,
  config: Pick<RunConfig, 'rounds' | 'keepCheckpoints' | 'keepBest' | 'guards'>,
  parts: Restored,
  warn: (message: string) => void = () => {},
): Promise<{ state: CheckpointState | undefined; rounds: RoundLine[] }> {
  const { lines } = await readJournal(disk, run);
  const { state, damaged } = await newest(disk, run, parts, lastWholeRound(lines));
  const { algorithm } = parts;
  if (state && state.algorithm.name !== algorithm.name) {
    throw makeError(
      'RUN_INVALID',
      `checkpoint of ${run} is of ${state.algorithm.name}; expected ${algorithm.name}`,
    );
  }
  if (state && 'restore' in algorithm) algorithm.restore(state.algorithm.state);
  for (const { round, why } of damaged) {
    warn(
      `${why}; going on from round ${state!.round + 1}, the checkpoint is kept as ${await setAside(disk, run, round)}`,
    );
  }
  await clearLeftovers(disk, run);
  const last = state?.round ?? -1;
  await truncateJournal(disk, run, last);
  const rounds = lines.filter((line): line is RoundLine => line.type === 'round' && line.round <= last);
  // A run may have been killed between a save and this.
  await prune(disk, run, config, rounds);
  // It is of a run that was done, and whose last rounds are now played again.
  if (!state?.halted && last + 1 < config.rounds) await removeFile(disk, join(run, COMPARISON));
  return { state, rounds };
}

async function newest(
  disk: Disk,
  run: string,
  { policy, head }: Pick<Restored, 'policy' | 'head'>,
  journalled: number,
): Promise<{ state: CheckpointState | undefined; damaged: { round: number; why: string }[] }> {
  const damaged: { round: number; why: string }[] = [];
  for (const round of (await listCheckpoints(disk, run)).reverse()) {
    try {
      if (round > journalled) {
        throw makeError(
          'RUN_INVALID',
          `the journal of ${run} ends with round ${journalled}; expected one up to the checkpoint of round ${round}`,
        );
      }
      return { state: await loadCheckpoint(disk, run, round, policy, head), damaged };
    } catch (cause) {
      if (!(cause instanceof FileError && cause.code === 'RUN_INVALID')) throw cause;
      damaged.push({ round, why: cause.message });
    }
  }
  if (damaged.length === 0) return { state: undefined, damaged };
  throw makeError(
    'RUN_INVALID',
    `${run} has no checkpoint that is whole: ${damaged.map(({ why }) => why).join('; ')}; ` +
      'expected at least one (to begin again with round 0, remove its checkpoints folder)',
  );
}
