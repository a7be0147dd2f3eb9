import { describe, expect, it } from 'vitest';
import { ranksFromEnvironment } from '../../lib/index.js';
import { firstHost } from '../../lib/ranks/environment.js';
import { groupDevice } from '../../lib/run/train-ranks.js';

const torchrun = {
  RANK: '5',
  WORLD_SIZE: '8',
  LOCAL_RANK: '1',
  LOCAL_WORLD_SIZE: '4',
  MASTER_ADDR: 'ten',
  MASTER_PORT: '29400',
  TORCHELASTIC_RESTART_COUNT: '2',
  TORCHELASTIC_USE_AGENT_STORE: 'True',
};
const slurm = {
  SLURM_PROCID: '0',
  SLURM_NTASKS: '5',
  SLURM_STEP_ID: '0',
  SLURM_LOCALID: '0',
  SLURM_NODEID: '0',
  SLURM_JOB_ID: '41234',
  SLURM_JOB_NODELIST: 'gpu[07-08,11]',
  SLURM_TASKS_PER_NODE: '2(x2),1',
};
const kubernetes = {
  PET_NNODES: '3',
  PET_NODE_RANK: '2',
  PET_MASTER_ADDR: 'job-worker-0',
  PET_MASTER_PORT: '23456',
  PET_NPROC_PER_NODE: '1',
};

describe('the place of a process', () => {
  it('none without variables, and for a process alone in its job', () => {
    expect(ranksFromEnvironment({})).toBeUndefined();
    expect(ranksFromEnvironment({ RANK: '', PATH: '/bin' })).toBeUndefined();
    expect(ranksFromEnvironment({ ...kubernetes, PET_NNODES: '1', PET_NODE_RANK: '0' })).toBeUndefined();
    expect(ranksFromEnvironment({ ...slurm, SLURM_NTASKS: '1' })).toBeUndefined();
  });

  it('the batch script of a Slurm job is no rank: it is not run by srun', () => {
    const { SLURM_STEP_ID: _, ...batch } = slurm;
    expect(ranksFromEnvironment(batch)).toBeUndefined();
  });

  it('under torchrun, whose agent serves the store', () => {
    expect(ranksFromEnvironment(torchrun)).toEqual({
      rank: 5,
      world: 8,
      localRank: 1,
      localWorld: 4,
      host: 'ten',
      port: 29400,
      hostsStore: false,
      restart: 2,
      from: 'torchrun',
    });
  });

  it('under torchrun without the agent’s store rank 0 serves it', () => {
    const own = { ...torchrun, TORCHELASTIC_USE_AGENT_STORE: 'False' };
    expect(ranksFromEnvironment(own)).toMatchObject({ hostsStore: false });
    expect(ranksFromEnvironment({ ...own, RANK: '0', LOCAL_RANK: '0' })).toMatchObject({ hostsStore: true });
    const bare = { RANK: '0', WORLD_SIZE: '2', MASTER_ADDR: 'a', MASTER_PORT: '1' };
    expect(ranksFromEnvironment(bare)).toMatchObject({
      hostsStore: true,
      localRank: 0,
      localWorld: 1,
      restart: 0,
    });
  });

  it('of a Slurm step: the first host of the list, a port by the job', () => {
    expect(ranksFromEnvironment(slurm)).toEqual({
      rank: 0,
      world: 5,
      localRank: 0,
      localWorld: 2,
      host: 'gpu07',
      port: 21234,
      hostsStore: true,
      restart: 0,
      from: 'slurm',
    });
    const last = { ...slurm, SLURM_PROCID: '4', SLURM_NODEID: '2', SLURM_RESTART_COUNT: '1' };
    expect(ranksFromEnvironment(last)).toMatchObject({
      rank: 4,
      localWorld: 1,
      hostsStore: false,
      restart: 1,
    });
    const named = { ...slurm, MASTER_ADDR: 'head', MASTER_PORT: '1234', SLURM_STEP_NODELIST: 'other' };
    expect(ranksFromEnvironment(named)).toMatchObject({ host: 'head', port: 1234 });
    expect(ranksFromEnvironment({ ...slurm, SLURM_STEP_NODELIST: 'step[2-3]' })).toMatchObject({
      host: 'step2',
    });
  });

  it('of a Kubernetes pod', () => {
    expect(ranksFromEnvironment(kubernetes)).toEqual({
      rank: 2,
      world: 3,
      localRank: 0,
      localWorld: 1,
      host: 'job-worker-0',
      port: 23456,
      hostsStore: false,
      restart: 0,
      from: 'kubernetes',
    });
  });

  it('torchrun inside of a Slurm job or a pod counts', () => {
    expect(ranksFromEnvironment({ ...slurm, ...kubernetes, ...torchrun })).toMatchObject({
      from: 'torchrun',
    });
  });

  it.each([
    [{ ...torchrun, WORLD_SIZE: undefined }, /WORLD_SIZE is missing; torchrun sets it together/],
    [{ ...torchrun, RANK: undefined }, /RANK is missing/],
    [{ ...torchrun, MASTER_ADDR: '' }, /MASTER_ADDR is missing/],
    [{ ...torchrun, MASTER_PORT: '70000' }, /MASTER_PORT is "70000"; expected a port from 1 to 65535/],
    [{ ...torchrun, RANK: '8' }, /RANK is "8"; expected a whole number from 0, below 8/],
    [{ ...torchrun, RANK: '-1' }, /RANK is "-1"; expected a whole number from 0/],
    [{ ...torchrun, WORLD_SIZE: 'two' }, /WORLD_SIZE is "two"; expected a whole number from 1/],
    [{ ...torchrun, LOCAL_WORLD_SIZE: '9' }, /LOCAL_WORLD_SIZE is "9"; expected at most WORLD_SIZE \(8\)/],
    [{ ...torchrun, LOCAL_RANK: '4' }, /LOCAL_RANK is "4"; expected a whole number from 0, below 4/],
    [
      { ...torchrun, TORCHELASTIC_USE_AGENT_STORE: '1' },
      /TORCHELASTIC_USE_AGENT_STORE is "1"; expected True or False/,
    ],
    [{ ...slurm, SLURM_PROCID: '5' }, /SLURM_PROCID is "5"; expected below SLURM_NTASKS \(5\)/],
    [{ ...slurm, SLURM_JOB_ID: undefined }, /SLURM_JOB_ID is missing/],
    [{ ...slurm, SLURM_JOB_NODELIST: undefined }, /SLURM_JOB_NODELIST and MASTER_ADDR are missing/],
    [
      { ...slurm, SLURM_JOB_NODELIST: 'gpu[a]' },
      /SLURM_JOB_NODELIST is "gpu\[a\]"; expected a list of hosts/,
    ],
    [{ ...slurm, SLURM_TASKS_PER_NODE: '2x2' }, /SLURM_TASKS_PER_NODE is "2x2"; expected counts such as/],
    [{ ...kubernetes, PET_NODE_RANK: undefined }, /PET_NODE_RANK is missing/],
    [
      { ...kubernetes, PET_NPROC_PER_NODE: '8' },
      /PET_NPROC_PER_NODE is "8"; expected 1: .*torchrun --no-python/,
    ],
    [{ ...kubernetes, PET_MASTER_PORT: undefined }, /PET_MASTER_PORT is missing/],
  ])('a set that is incomplete or contradicts itself, %#', (env, message) => {
    expect(() => ranksFromEnvironment(env)).toThrow(
      expect.objectContaining({ code: 'RANKS_INVALID', message: expect.stringMatching(message) }),
    );
  });
});

describe('the first host of Slurm’s list', () => {
  it.each([
    ['one', 'one'],
    ['one,two', 'one'],
    ['node[1-4]', 'node1'],
    ['node[003-004,9],x', 'node003'],
    ['a-b[10,12].example.org,c', 'a-b10.example.org'],
    ['rack1-[7]', 'rack1-7'],
  ])('%s', (list, host) => expect(firstHost(list)).toBe(host));
});

describe('where ranks talk', () => {
  const on = (device: string, localRank = 1, nccl = true, gpus = 2) =>
    groupDevice(device, { localRank }, nccl, () => gpus);
  it('between GPUs where each rank has one and all are sure to agree; else between hosts', () => {
    expect(on('cuda')).toBe('cuda:1');
    expect([on('auto'), on('cpu'), on('cuda:1'), on('cuda', 1, false), on('cuda', 2)]).toEqual(
      Array(5).fill('cpu'),
    );
  });
});
