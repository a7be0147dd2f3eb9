/** The run folder: made once, never overwritten, resumed only under the configuration that it was begun with. */
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { makeError } from '../errors.js';
import { type RunConfig, resolveConfig } from './config.js';
import { type Disk, exists, ioError, writeAtomic } from './disk.js';

const CONFIG = 'config.json';

/** Makes a run folder with its resolved configuration. Throws `RUN_EXISTS` when the folder holds anything. */
export async function createRun(disk: Disk, run: string, config: RunConfig): Promise<void> {
  const contents = (await exists(disk, run)) ? await disk.readdir(run) : [];
  if (contents.length > 0) {
    const what = contents.includes(CONFIG) ? 'already holds a run' : 'is not empty';
    throw makeError('RUN_EXISTS', `${run} ${what}; expected a new folder, or resume the run that is there`);
  }
  try {
    await disk.mkdir(run, { recursive: true });
  } catch (cause) {
    throw ioError(`making ${run}`, cause);
  }
  await writeAtomic(disk, join(run, CONFIG), `${JSON.stringify(config, null, 2)}\n`);
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
    return resolveConfig(JSON.parse(text), path, measures);
  } catch (cause) {
    throw makeError('RUN_INVALID', (cause as Error).message, cause);
  }
}

/** Throws `RUN_INVALID` with the differences when `config` is not what the run was begun with. */
export async function checkSameConfig(disk: Disk, run: string, config: RunConfig): Promise<void> {
  // Through JSON, as the file has been: undefined keys are absent there.
  const now: unknown = JSON.parse(JSON.stringify(config));
  // Measures of graders and tasks that the caller brings are known to the caller.
  const { measure, report } = config.reward;
  const measures = [...(typeof measure === 'string' ? [measure] : Object.keys(measure)), ...report];
  const before: unknown = JSON.parse(JSON.stringify(await readRunConfig(disk, run, measures)));
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
