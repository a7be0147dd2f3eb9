/** Which rank a process is, from the variables of what has started it: torchrun, Slurm or Kubernetes. */
import { makeError } from '../errors.js';

/** A process among those that work on one run. */
export interface RankPlace {
  readonly rank: number;
  readonly world: number;
  /** Rank among the ranks of this host, and how many these are. */
  readonly localRank: number;
  readonly localWorld: number;
  /** Where the store is. */
  readonly host: string;
  readonly port: number;
  /** Whether this process serves the store; torchrun's agent does it otherwise. */
  readonly hostsStore: boolean;
  /** Starts of this group so far: keys of an earlier one are not read. */
  readonly restart: number;
  readonly from: 'torchrun' | 'slurm' | 'kubernetes';
}

type Variables = Readonly<Record<string, string | undefined>>;

/**
 * The place of this process, or undefined where no variable says that there are others: a run by one process. torchrun's
 * variables (`RANK`, `WORLD_SIZE` …) come before Slurm's (`SLURM_PROCID` …), these before Kubernetes' (`PET_NODE_RANK` …).
 * Throws `RANKS_INVALID` for a set that is incomplete or contradicts itself.
 */
export function ranksFromEnvironment(
  env: Readonly<Record<string, string | undefined>>,
): RankPlace | undefined {
  if (has(env, 'RANK') || has(env, 'WORLD_SIZE')) return fromTorchrun(env);
  if (has(env, 'SLURM_PROCID') && has(env, 'SLURM_NTASKS')) return fromSlurm(env);
  if (has(env, 'PET_NODE_RANK') || has(env, 'PET_NNODES')) return fromKubernetes(env);
  return undefined;
}

function has(env: Variables, name: string): boolean {
  return env[name] !== undefined && env[name] !== '';
}

function fromTorchrun(env: Variables): RankPlace {
  const beside = 'torchrun sets it together with RANK and WORLD_SIZE';
  const world = whole(env, 'WORLD_SIZE', 1, beside);
  const rank = below(env, 'RANK', world, beside);
  const localWorld = has(env, 'LOCAL_WORLD_SIZE') ? whole(env, 'LOCAL_WORLD_SIZE', 1) : 1;
  if (localWorld > world) wrong('LOCAL_WORLD_SIZE', env.LOCAL_WORLD_SIZE, `at most WORLD_SIZE (${world})`);
  const localRank = has(env, 'LOCAL_RANK')
    ? below(env, 'LOCAL_RANK', localWorld > 1 ? localWorld : world)
    : 0;
  const agent = env.TORCHELASTIC_USE_AGENT_STORE;
  if (agent !== undefined && agent !== 'True' && agent !== 'False') {
    wrong('TORCHELASTIC_USE_AGENT_STORE', agent, 'True or False');
  }
  return {
    rank,
    world,
    localRank,
    localWorld,
    host: text(env, 'MASTER_ADDR', beside),
    port: port(env, 'MASTER_PORT', beside),
    hostsStore: agent !== 'True' && rank === 0,
    restart: has(env, 'TORCHELASTIC_RESTART_COUNT') ? whole(env, 'TORCHELASTIC_RESTART_COUNT', 0) : 0,
    from: 'torchrun',
  };
}

function fromSlurm(env: Variables): RankPlace | undefined {
  const world = whole(env, 'SLURM_NTASKS', 1);
  const rank = whole(env, 'SLURM_PROCID', 0);
  // The batch script itself is no task of a step: it has SLURM_NTASKS, but runs once.
  if (world === 1 || env.SLURM_STEP_ID === undefined) return undefined;
  if (rank >= world) wrong('SLURM_PROCID', env.SLURM_PROCID, `below SLURM_NTASKS (${world})`);
  const job = whole(env, 'SLURM_JOB_ID', 0, 'Slurm sets it for every step');
  const nodes = env.SLURM_STEP_NODELIST || env.SLURM_JOB_NODELIST;
  if (!nodes && !has(env, 'MASTER_ADDR')) {
    throw makeError(
      'RANKS_INVALID',
      'SLURM_JOB_NODELIST and MASTER_ADDR are missing; expected one of them, to know where rank 0 is',
    );
  }
  const perNode = env.SLURM_STEP_TASKS_PER_NODE ?? env.SLURM_TASKS_PER_NODE;
  const node = has(env, 'SLURM_NODEID') ? whole(env, 'SLURM_NODEID', 0) : 0;
  const localWorld = Math.min(perNode === undefined ? 1 : tasksOfNode(perNode, node), world);
  return {
    rank,
    world,
    localRank: has(env, 'SLURM_LOCALID') ? whole(env, 'SLURM_LOCALID', 0) : 0,
    localWorld,
    host: has(env, 'MASTER_ADDR') ? env.MASTER_ADDR! : firstHost(nodes!),
    // The same on all hosts, and another one for the next job.
    port: has(env, 'MASTER_PORT') ? port(env, 'MASTER_PORT') : 20_000 + (job % 10_000),
    hostsStore: rank === 0,
    restart: has(env, 'SLURM_RESTART_COUNT') ? whole(env, 'SLURM_RESTART_COUNT', 0) : 0,
    from: 'slurm',
  };
}

function fromKubernetes(env: Variables): RankPlace | undefined {
  const beside = 'expected together with PET_NNODES and PET_NODE_RANK';
  const world = whole(env, 'PET_NNODES', 1, beside);
  const rank = below(env, 'PET_NODE_RANK', world, beside);
  const perNode = env.PET_NPROC_PER_NODE;
  if (perNode !== undefined && perNode !== '1') {
    wrong(
      'PET_NPROC_PER_NODE',
      perNode,
      '1: this process is the only one of its pod (start it under torchrun --no-python for more)',
    );
  }
  if (world === 1) return undefined;
  return {
    rank,
    world,
    localRank: 0,
    localWorld: 1,
    host: text(env, 'PET_MASTER_ADDR', beside),
    port: port(env, 'PET_MASTER_PORT', beside),
    hostsStore: rank === 0,
    restart: 0,
    from: 'kubernetes',
  };
}

function wrong(name: string, found: string | undefined, expected: string): never {
  throw makeError(
    'RANKS_INVALID',
    `${name} is ${found === undefined ? 'missing' : `"${found}"`}; expected ${expected}`,
  );
}

function text(env: Variables, name: string, beside?: string): string {
  if (has(env, name)) return env[name]!;
  throw makeError('RANKS_INVALID', `${name} is missing${beside ? `; ${beside}` : ''}`);
}

function whole(env: Variables, name: string, least: number, beside?: string): number {
  const found = text(env, name, beside);
  if (/^\d{1,15}$/.test(found) && Number(found) >= least) return Number(found);
  return wrong(name, found, `a whole number from ${least}`);
}

function below(env: Variables, name: string, limit: number, beside?: string): number {
  const value = whole(env, name, 0, beside);
  return value < limit ? value : wrong(name, env[name], `a whole number from 0, below ${limit}`);
}

function port(env: Variables, name: string, beside?: string): number {
  const value = whole(env, name, 1, beside);
  return value < 65_536 ? value : wrong(name, env[name], 'a port from 1 to 65535');
}

/** Tasks of one node, from Slurm's short form: `4(x2),3` is 4, 4, 3. */
function tasksOfNode(list: string, node: number): number {
  let first = 0;
  for (const part of list.split(',')) {
    const match = /^(\d+)(?:\(x(\d+)\))?$/.exec(part.trim());
    if (!match) return wrong('SLURM_TASKS_PER_NODE', list, 'counts such as 4(x2),3');
    first += Number(match[2] ?? 1);
    if (node < first) return Number(match[1]);
  }
  return 1;
}

/** The first host of Slurm's list: `node[03-05,7],other` begins with node03. */
export function firstHost(list: string): string {
  const match = /^([^[\],]*)(?:\[(\d+)(?:-\d+)?(?:,\d+(?:-\d+)?)*\])?([^[\],]*)(?:,.*)?$/.exec(list.trim());
  const host = match ? `${match[1]}${match[2] ?? ''}${match[3]}` : '';
  if (host === '') wrong('SLURM_JOB_NODELIST', list, 'a list of hosts such as node[1-4]');
  return host;
}
