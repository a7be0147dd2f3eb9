/** What ranks of a run must have in common: rank 0 has the folder and decides, the others are told. */
import { createHash } from 'node:crypto';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { EditHead } from '../edit-head.js';
import { makeError } from '../errors.js';
import type { Policy } from '../policy.js';
import type { RankPlace } from '../ranks/environment.js';
import type { Ranks } from '../ranks/ranks.js';
import type { RunConfig } from './config.js';

/** Throws `RANKS_DIVERGED` unless all ranks have the same configuration, model and data. */
export async function checkSameInputs(
  ranks: Ranks | undefined,
  config: RunConfig,
  inputs: { readonly model: string; readonly data: string; readonly reward?: string },
): Promise<void> {
  if (!ranks) return;
  // Where things lie, and how fast a rank computes, may differ.
  const { model: _, device: __, threads: ___, ...rest } = config;
  const configuration = createHash('sha256')
    .update(JSON.stringify(withoutPaths(rest)))
    .digest('hex');
  const all = await ranks.gather('inputs of the run', { configuration, reward: '', ...inputs });
  const [first] = all as [(typeof all)[number]];
  for (const name of ['configuration', 'model', 'data', 'reward'] as const) {
    const other = all.findIndex((one) => one[name] !== first[name]);
    if (other < 0) continue;
    throw makeError(
      'RANKS_DIVERGED',
      `rank ${other} of ${ranks.world} has another ${name} than rank 0: SHA-256 ${all[other]![name].slice(0, 12)}… and ` +
        `${first[name].slice(0, 12)}…; expected the same on all ranks`,
    );
  }
}

/** Files are compared by what is in them. */
function withoutPaths(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withoutPaths);
  if (typeof value !== 'object' || value === null) return value;
  const named = [
    'data',
    'retentionData',
    'solutions',
    'evaluationData',
    'evaluationSolutions',
    'module',
    'file',
    'cache',
  ];
  return Object.fromEntries(
    Object.entries(value).flatMap(([key, item]) =>
      named.includes(key) && typeof item === 'string' ? [] : [[key, withoutPaths(item)]],
    ),
  );
}

/** Brings policy and head of all ranks to what rank 0 has, to the bit. No file system is shared for it. */
export async function sharePolicy(
  ranks: Ranks | undefined,
  phase: string,
  policy: Policy,
  head: EditHead | undefined,
): Promise<void> {
  if (!ranks) return;
  const folder = await mkdtemp(join(tmpdir(), 'selfedit-ranks-'));
  const paths = [join(folder, 'policy.safetensors'), ...(head ? [join(folder, 'head.safetensors')] : [])];
  const parts = [policy, ...(head ? [head] : [])];
  try {
    let own: Uint8Array[] | undefined;
    if (ranks.lead) {
      own = [];
      for (const [index, part] of parts.entries()) {
        await part.save(paths[index]!);
        const bytes = await readFile(paths[index]!);
        own.push(new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.length));
      }
    }
    const given = await ranks.broadcast(phase, own);
    if (ranks.lead) return;
    for (const [index, part] of parts.entries()) {
      await writeFile(paths[index]!, given[index]!);
      await part.load(paths[index]!);
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/**
 * Whose memory the ranks talk between: a GPU a rank (NCCL) where the configuration says `cuda` and the addon has NCCL, else the hosts'
 * (Gloo). `auto` may be one thing on one host and another elsewhere, so that it is Gloo.
 */
export function groupDevice(
  device: string,
  { localRank }: Pick<RankPlace, 'localRank'>,
  nccl: boolean,
  gpus: () => number,
): string {
  return device === 'cuda' && nccl && localRank < gpus() ? `cuda:${localRank}` : 'cpu';
}

/** The device of a rank: ranks of one host take its GPUs in turn. */
export function rankDevice(device: string, ranks: Ranks | undefined, gpus: () => number): string {
  if (!ranks || (device !== 'cuda' && device !== 'auto')) return device;
  const count = gpus();
  if (device === 'auto' && count === 0) return 'cpu';
  const { localRank } = ranks.place;
  if (localRank < Math.max(count, 1)) return `cuda:${localRank}`;
  throw makeError(
    'RANKS_INVALID',
    `${ranks.name} is number ${localRank} of its host, which has ${count} GPUs; expected a GPU a rank`,
  );
}
