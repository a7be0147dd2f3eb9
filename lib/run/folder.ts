/** The run folder: made once, never overwritten, resumed only under the configuration that it was begun with. */
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { makeError } from '../errors.js';
import { type RunConfig, resolveConfig } from './config.js';
import { type Disk, exists, makeFolder, writeAtomic } from './disk.js';
import { isLockFile, lockRun, type RunLock } from './lock.js';

const CONFIG = 'config.json';
/** What changes no figure of a run, and may be another when it is resumed. */
const FREE: readonly string[] = ['keepCheckpoints', 'keepBest'];

/**
 * Makes a run folder with its resolved configuration, locked for this process. Throws `RUN_EXISTS` when the folder holds
 * anything but what a process killed in here has left, `RUN_LOCKED` when another one is at it.
 */
export async function createRun(disk: Disk, run: string, config: RunConfig): Promise<RunLock> {
  await checkEmpty(disk, run);
  await makeFolder(disk, run);
  const lock = await lockRun(disk, run);
  try {
    await checkEmpty(disk, run);
    await writeAtomic(disk, join(run, CONFIG), `${JSON.stringify(config, null, 2)}\n`);
    return lock;
  } catch (cause) {
    await lock.release();
    throw cause;
  }
}

async function checkEmpty(disk: Disk, run: string): Promise<void> {
  const contents = (await exists(disk, run)) ? await disk.readdir(run) : [];
  if (contents.every((name) => isLockFile(name) || name === `${CONFIG}.partial`)) return;
  const what = contents.includes(CONFIG) ? 'already holds a run' : 'is not empty';
  throw makeError('RUN_EXISTS', `${run} ${what}; expected a new folder, or resume the run that is there`);
}

/** Whether a run was begun in the folder. */
export async function holdsRun(disk: Disk, run: string): Promise<boolean> {
  return exists(disk, join(run, CONFIG));
}

/** The configuration that a run was begun with. Throws `RUN_INVALID` when there is none. */
export async function readRunConfig(
  disk: Disk,
  run: string,
  measures: readonly string[] = [],
): Promise<RunConfig> {
  const path = join(run, CONFIG);
  const text = await disk.readFile(path, 'utf8').catch((cause: unknown) => {
    throw makeError(
      'RUN_INVALID',
      `${run} holds no run: ${CONFIG} cannot be read; expected a run folder`,
      cause,
    );
  });
  try {
    // Runs from before there was a default have kept all checkpoints, and go on to.
    return resolveConfig({ keepCheckpoints: 'all', ...(JSON.parse(text) as object) }, path, measures);
  } catch (cause) {
    throw makeError('RUN_INVALID', (cause as Error).message, cause);
  }
}

/** Throws `RUN_INVALID` with the differences when `config` is not what the run was begun with. */
export async function checkSameConfig(disk: Disk, run: string, config: RunConfig): Promise<void> {
  // Through JSON, as the file has been: undefined keys are absent there.
  const fixed = (value: RunConfig): unknown =>
    Object.fromEntries(
      Object.entries(JSON.parse(JSON.stringify(value)) as object).filter(([key]) => !FREE.includes(key)),
    );
  const now = fixed(config);
  // Measures of graders and tasks that the caller brings are known to the caller.
  const { measure, report } = config.reward;
  const measures = [...(typeof measure === 'string' ? [measure] : Object.keys(measure)), ...report];
  const before = fixed(await readRunConfig(disk, run, measures));
  const differences = differencesOf(before, now);
  if (differences.length === 0) return;
  throw makeError(
    'RUN_INVALID',
    `run ${run} was begun with another configuration: ${differences.join('; ')}; ` +
      'resume with the original one, or start a new run',
  );
}

/** `path: before → now` for every leaf that differs. */
export function differencesOf(before: unknown, now: unknown, path = ''): string[] {
  if (isDeepStrictEqual(before, now)) return [];
  if (isMapping(before) && isMapping(now)) {
    return [...new Set([...Object.keys(before), ...Object.keys(now)])].flatMap((key) =>
      differencesOf(before[key], now[key], path === '' ? key : `${path}.${key}`),
    );
  }
  const text = (value: unknown) => (value === undefined ? 'absent' : JSON.stringify(value));
  return [`${path}: ${text(before)} → ${text(now)}`];
}

function isMapping(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
