/**
 * Checkpoints of a run: `checkpoints/round-0003/` holds the policy after round 3 and what else the next round depends
 * on. A folder is built under a temporary name and renamed, so one that bears its final name is whole.
 */
import { join } from 'node:path';
import type { EditHead } from '../edit-head.js';
import { makeError } from '../errors.js';
import type { Policy } from '../policy.js';
import { type Disk, exists, ioError, syncFolder, writeSynced } from './disk.js';

/** What a run carries from round to round besides the policy's own file. */
export interface CheckpointState {
  readonly format: 1;
  readonly round: number;
  readonly policyVersion: number;
  readonly algorithm: { readonly name: string; readonly state: Readonly<Record<string, number>> };
  /** An alarm of the guards has ended the run with this round. */
  readonly halted?: 'stop' | 'rollback';
}

const FOLDER = 'checkpoints';
const INITIAL = 'initial';
const POLICY = 'policy.safetensors';
const HEAD = 'head.safetensors';
const STATE = 'state.json';

function nameOf(round: number): string {
  return `round-${String(round).padStart(4, '0')}`;
}

/** Saves the policy, the edit head where there is one, and state after a round. Throws `IO`; earlier checkpoints stay as they are. */
export async function saveCheckpoint(
  disk: Disk,
  run: string,
  policy: Pick<Policy, 'save'>,
  state: CheckpointState,
  head?: Pick<EditHead, 'save'>,
): Promise<string> {
  const folder = join(run, FOLDER);
  const path = join(folder, nameOf(state.round));
  const temporary = `${path}.partial`;
  try {
    await disk.rm(temporary, { recursive: true, force: true });
    await disk.mkdir(temporary, { recursive: true });
    await policy.save(join(temporary, POLICY));
    await head?.save(join(temporary, HEAD));
    await writeSynced(disk, join(temporary, STATE), `${JSON.stringify(state, null, 2)}\n`);
    await syncFolder(disk, temporary);
    await disk.rename(temporary, path);
    await syncFolder(disk, folder);
  } catch (cause) {
    await disk.rm(temporary, { recursive: true, force: true }).catch(() => {});
    throw ioError(`saving checkpoint ${path}`, cause);
  }
  return path;
}

/** Saves what a run begins with, for a rollback from its first rounds. Throws `IO`. */
export async function saveInitial(
  disk: Disk,
  run: string,
  policy: Pick<Policy, 'save'>,
  head?: Pick<EditHead, 'save'>,
): Promise<void> {
  const path = join(run, FOLDER, INITIAL);
  try {
    await disk.mkdir(path, { recursive: true });
    await policy.save(join(path, POLICY));
    await head?.save(join(path, HEAD));
    await syncFolder(disk, path);
  } catch (cause) {
    throw ioError(`saving checkpoint ${path}`, cause);
  }
}

/** Loads the policy (and the head) as they were after `round`; before round 0: as the run began. Throws `RUN_INVALID`. */
export async function rollBack(
  disk: Disk,
  run: string,
  policy: Pick<Policy, 'load'>,
  round: number,
  head?: Pick<EditHead, 'load'>,
): Promise<void> {
  const path = join(run, FOLDER, round < 0 ? INITIAL : nameOf(round));
  if (!(await exists(disk, path))) {
    throw makeError('RUN_INVALID', `there is no ${path} to roll back to; expected a checkpoint`);
  }
  await policy.load(join(path, POLICY));
  await head?.load(join(path, HEAD));
}

/** The policy's file in the checkpoint of a round. */
export function checkpointPolicy(run: string, round: number): string {
  return join(run, FOLDER, nameOf(round), POLICY);
}

/** Rounds with a checkpoint, ascending. */
export async function listCheckpoints(disk: Disk, run: string): Promise<number[]> {
  const folder = join(run, FOLDER);
  if (!(await exists(disk, folder))) return [];
  const names = await disk.readdir(folder);
  return names
    .flatMap((name) => (/^round-\d{4,}$/.test(name) ? [Number(name.slice('round-'.length))] : []))
    .sort((left, right) => left - right);
}

/** Removes all but the `keep` newest checkpoints, and what a killed run left half-built. */
export async function pruneCheckpoints(disk: Disk, run: string, keep: number | undefined): Promise<void> {
  const folder = join(run, FOLDER);
  if (!(await exists(disk, folder))) return;
  for (const name of await disk.readdir(folder)) {
    if (name.endsWith('.partial')) await disk.rm(join(folder, name), { recursive: true, force: true });
  }
  if (keep === undefined) return;
  for (const round of (await listCheckpoints(disk, run)).slice(0, -keep)) {
    await disk.rm(join(folder, nameOf(round)), { recursive: true, force: true });
  }
}

/** Loads the newest checkpoint into `policy`, and `head` where the run has one; undefined when there is none. Throws `RUN_INVALID`. */
export async function loadCheckpoint(
  disk: Disk,
  run: string,
  policy: Pick<Policy, 'load'>,
  head?: Pick<EditHead, 'load'>,
): Promise<CheckpointState | undefined> {
  const round = (await listCheckpoints(disk, run)).at(-1);
  if (round === undefined) return undefined;
  const path = join(run, FOLDER, nameOf(round));
  const state = await readState(disk, join(path, STATE), round);
  await policy.load(join(path, POLICY));
  await head?.load(join(path, HEAD));
  return state;
}

async function readState(disk: Disk, path: string, round: number): Promise<CheckpointState> {
  let state: Partial<CheckpointState> | null;
  try {
    state = JSON.parse(await disk.readFile(path, 'utf8')) as Partial<CheckpointState> | null;
  } catch (cause) {
    throw makeError(
      'RUN_INVALID',
      `${path} cannot be read (${(cause as Error).message}); expected JSON`,
      cause,
    );
  }
  const { format, algorithm } = state ?? {};
  if (format !== 1 || state?.round !== round || typeof algorithm?.state !== 'object') {
    throw makeError('RUN_INVALID', `${path} does not describe round ${round} in format 1`);
  }
  return state as CheckpointState;
}
