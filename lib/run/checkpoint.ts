/**
 * Checkpoints of a run: `checkpoints/round-0003/` holds the policy after round 3 and what else the next round depends
 * on. A folder is built under a temporary name, every file of it synced and its SHA-256 written down, and renamed: one that
 * bears its final name is whole.
 */
import { join } from 'node:path';
import type { EditHead } from '../edit-head.js';
import { FileError, makeError } from '../errors.js';
import type { Policy } from '../policy.js';
import { checksumOf, sealLine } from './checksum.js';
import { type Disk, exists, fingerprint, ioError, makeFolder, syncFolder, writeSynced } from './disk.js';

/** What a run carries from round to round besides the policy's own file. */
export interface CheckpointState {
  readonly format: 1;
  readonly round: number;
  readonly policyVersion: number;
  readonly algorithm: { readonly name: string; readonly state: Readonly<Record<string, number>> };
  /** An alarm of the guards has ended the run with this round. */
  readonly halted?: 'stop' | 'rollback';
}

/** A checkpoint as its `state.json` has it. */
interface Checkpoint {
  readonly state: CheckpointState;
  /** Of every other file; absent in checkpoints of older versions. */
  readonly files?: Readonly<Record<string, { readonly bytes: number; readonly sha256: string }>>;
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
  return saveAs(disk, run, nameOf(state.round), policy, state, head);
}

/** Saves what a run begins with, for a rollback from its first rounds. Throws `IO`. */
export async function saveInitial(
  disk: Disk,
  run: string,
  policy: Pick<Policy, 'save'>,
  head?: Pick<EditHead, 'save'>,
): Promise<void> {
  await removeAside(disk, run, [INITIAL]);
  await saveAs(disk, run, INITIAL, policy, { format: 1, round: -1 }, head);
}

async function saveAs(
  disk: Disk,
  run: string,
  name: string,
  policy: Pick<Policy, 'save'>,
  state: object,
  head: Pick<EditHead, 'save'> | undefined,
): Promise<string> {
  const folder = join(run, FOLDER);
  const path = join(folder, name);
  const temporary = `${path}.partial`;
  try {
    await makeFolder(disk, folder);
    await disk.rm(temporary, { recursive: true, force: true });
    await disk.mkdir(temporary);
    await policy.save(join(temporary, POLICY));
    await head?.save(join(temporary, HEAD));
    const files: Record<string, object> = {};
    for (const file of head ? [POLICY, HEAD] : [POLICY]) {
      files[file] = await fingerprint(disk, join(temporary, file));
    }
    await writeSynced(disk, join(temporary, STATE), `${sealLine({ ...state, files })}\n`);
    await syncFolder(disk, temporary);
    await disk.rename(temporary, path);
    await syncFolder(disk, folder);
  } catch (cause) {
    await disk.rm(temporary, { recursive: true, force: true }).catch(() => {});
    throw ioError(`saving checkpoint ${path}`, cause);
  }
  return path;
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
  // What older versions began with has no state.
  if (await exists(disk, join(path, STATE))) await verified(disk, path, Math.max(round, -1));
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

/**
 * Removes all but the `keep` newest checkpoints (undefined: none) and those of the rounds `best`. One that is being removed
 * has another name first, so that half of it is never taken for a checkpoint. Throws `IO`.
 */
export async function pruneCheckpoints(
  disk: Disk,
  run: string,
  keep: number | undefined,
  best: readonly number[] = [],
): Promise<void> {
  if (keep === undefined) return;
  const old = (await listCheckpoints(disk, run)).slice(0, -keep);
  await removeAside(disk, run, old.filter((round) => !best.includes(round)).map(nameOf));
}

async function removeAside(disk: Disk, run: string, names: readonly string[]): Promise<void> {
  const folder = join(run, FOLDER);
  try {
    const there: string[] = [];
    for (const name of names) if (await exists(disk, join(folder, name))) there.push(name);
    for (const name of there) await disk.rename(join(folder, name), join(folder, `${name}.deleted`));
    // Else a power cut could undo the renaming, and not the removal.
    if (there.length > 0) await syncFolder(disk, folder);
    for (const name of there)
      await disk.rm(join(folder, `${name}.deleted`), { recursive: true, force: true });
  } catch (cause) {
    throw ioError(`removing old checkpoints from ${folder}`, cause);
  }
}

/** Moves the checkpoint of a round out of the way, whole. Returns its new path. Throws `IO`. */
export async function setAside(disk: Disk, run: string, round: number): Promise<string> {
  const path = join(run, FOLDER, nameOf(round));
  let target = `${path}.damaged`;
  for (let copy = 2; await exists(disk, target); copy++) target = `${path}.damaged-${copy}`;
  try {
    await disk.rename(path, target);
    await syncFolder(disk, join(run, FOLDER));
  } catch (cause) {
    throw ioError(`setting ${path} aside`, cause);
  }
  return target;
}

/**
 * Loads the checkpoint of a round into `policy`, and `head` where the run has one, once every file of it has been found to be
 * as it was written. Throws `RUN_INVALID` for one that is damaged.
 */
export async function loadCheckpoint(
  disk: Disk,
  run: string,
  round: number,
  policy: Pick<Policy, 'load'>,
  head?: Pick<EditHead, 'load'>,
): Promise<CheckpointState> {
  const path = join(run, FOLDER, nameOf(round));
  const { state, files } = await verified(disk, path, round);
  try {
    await policy.load(join(path, POLICY));
    await head?.load(join(path, HEAD));
  } catch (cause) {
    // Older versions have written no checksums; then this is how damage shows.
    if (files || !(cause instanceof FileError)) throw cause;
    throw makeError('RUN_INVALID', cause.message, cause);
  }
  return state;
}

async function verified(disk: Disk, path: string, round: number): Promise<Checkpoint> {
  const checkpoint = await readState(disk, join(path, STATE), round);
  for (const [name, expected] of Object.entries(checkpoint.files ?? {})) {
    const file = join(path, name);
    if (!(await exists(disk, file))) throw makeError('RUN_INVALID', `${file} is missing`);
    const { bytes, sha256 } = await fingerprint(disk, file);
    if (bytes === expected.bytes && sha256 === expected.sha256) continue;
    throw makeError(
      'RUN_INVALID',
      `${file} is damaged: ${bytes} bytes with SHA-256 ${sha256.slice(0, 12)}…; ` +
        `expected ${expected.bytes} with ${expected.sha256.slice(0, 12)}…`,
    );
  }
  return checkpoint;
}

async function readState(disk: Disk, path: string, round: number): Promise<Checkpoint> {
  let value: (Partial<CheckpointState> & Pick<Checkpoint, 'files'> & { crc32?: string }) | null;
  let text: string;
  try {
    text = (await disk.readFile(path, 'utf8')).trimEnd();
    value = JSON.parse(text) as typeof value;
  } catch (cause) {
    throw makeError(
      'RUN_INVALID',
      `${path} cannot be read (${(cause as Error).message}); expected JSON`,
      cause,
    );
  }
  const { files, crc32, ...state } = value ?? {};
  const checksum = checksumOf(text);
  if (checksum?.stated !== checksum?.found) {
    throw makeError(
      'RUN_INVALID',
      `${path} is damaged: its CRC-32 is ${checksum!.found}; expected ${checksum!.stated}, which it states`,
    );
  }
  const whole = crc32 === undefined ? files === undefined : typeof files === 'object' && checksum;
  const described = round < 0 || typeof state.algorithm?.state === 'object';
  if (state.format !== 1 || state.round !== round || !described || !whole) {
    throw makeError('RUN_INVALID', `${path} does not describe round ${round} in format 1`);
  }
  return { state: state as CheckpointState, ...(files ? { files } : {}) };
}

/** Removes what a killed run left half-built or half-removed. Throws `IO`. */
export async function clearLeftovers(disk: Disk, run: string): Promise<void> {
  for (const folder of [run, join(run, FOLDER), join(run, 'policy')]) {
    if (!(await exists(disk, folder))) continue;
    for (const name of await disk.readdir(folder)) {
      if (!/\.(partial|deleted|\d+(\.\d+)?\.tmp)$/.test(name)) continue;
      await disk.rm(join(folder, name), { recursive: true, force: true }).catch((cause: unknown) => {
        throw ioError(`removing ${join(folder, name)}`, cause);
      });
    }
  }
}
