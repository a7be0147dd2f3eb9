/** `environment.json`: what a run's result depends on beyond its configuration, and where each session of it ran. */
import { cpus } from 'node:os';
import { join } from 'node:path';
import { native } from '../binding.js';
import { makeError } from '../errors.js';
import { type Disk, exists, writeAtomic } from './disk.js';
import { differencesOf } from './folder.js';

/** Must be the same when a run is resumed. */
export interface Inputs {
  /** SHA-256 of each file that the reward names (functions, preferences), after spaces; absent in old runs. */
  readonly reward?: string;
  /** SHA-256 of the model's weights. */
  readonly model: string;
  /** SHA-256 of the data file; then, after a space, that of the retention texts where they have a file. */
  readonly data: string;
}

/** One start or resumption of a run. Bits are only promised to be equal at equal device, threads and libraries. */
export interface Session {
  readonly started: string;
  readonly node: string;
  readonly platform: string;
  readonly cpu: string;
  readonly version: string;
  readonly libtorch: string;
  readonly simd: string;
  readonly threads: number;
  readonly device: string;
  /** Processes that ran it together, where there were several. */
  readonly ranks?: number;
  /** What differs from the first session, as `threads: 2 → 4`: with it the bits of the result may, too. */
  readonly differs?: readonly string[];
}

export interface Environment {
  readonly inputs: Inputs;
  readonly sessions: readonly Session[];
}

const NAME = 'environment.json';

/** Describes this process. */
export function describeSession(device: string, ranks?: number): Session {
  const { version, torch, simd, threads } = native().info();
  return {
    started: new Date().toISOString(),
    node: process.version,
    platform: `${process.platform} ${process.arch}`,
    cpu: cpus()[0]?.model ?? 'unknown',
    version,
    libtorch: torch,
    simd,
    threads,
    device,
    ...(ranks ? { ranks } : {}),
  };
}

/**
 * Adds a session, and returns what differs from the first one. Throws `RUN_INVALID` when the run was begun with other weights,
 * other data or another reward.
 */
export async function recordSession(
  disk: Disk,
  run: string,
  inputs: Inputs,
  session: Session,
): Promise<readonly string[]> {
  const path = join(run, NAME);
  const sessions: Session[] = [];
  if (await exists(disk, path)) {
    const earlier = await readEnvironment(disk, path);
    for (const name of ['model', 'data', 'reward'] as const) {
      const [before, now] = [earlier.inputs[name], inputs[name]];
      if (before === undefined || before === now) continue;
      throw makeError(
        'RUN_INVALID',
        `the ${name} of run ${run} has changed: SHA-256 ${now?.slice(0, 12) ?? 'of nothing'}…, begun with ` +
          `${before.slice(0, 12)}…; a resumed run needs what it was begun with`,
      );
    }
    sessions.push(...earlier.sessions);
  }
  const differs = sessions[0] ? differencesOf(comparable(sessions[0]), comparable(session)) : [];
  const now = differs.length > 0 ? { ...session, differs } : session;
  const environment: Environment = { inputs, sessions: [...sessions, now] };
  await writeAtomic(disk, path, `${JSON.stringify(environment, null, 2)}\n`);
  return differs;
}

function comparable({ started: _, differs: __, ranks: ___, ...session }: Session): object {
  return session;
}

async function readEnvironment(disk: Disk, path: string): Promise<Environment> {
  try {
    const value = JSON.parse(await disk.readFile(path, 'utf8')) as Environment;
    if (typeof value.inputs.model === 'string' && Array.isArray(value.sessions)) return value;
  } catch {
    // Reported below.
  }
  throw makeError('RUN_INVALID', `${path} cannot be read; expected JSON with "inputs" and "sessions"`);
}
