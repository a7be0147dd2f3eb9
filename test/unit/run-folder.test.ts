import * as fs from 'node:fs/promises';
import { mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  listCheckpoints,
  loadCheckpoint,
  pruneCheckpoints,
  saveCheckpoint,
} from '../../lib/run/checkpoint.js';
import { resolveConfig } from '../../lib/run/config.js';
import { type Disk, realDisk, writeAtomic } from '../../lib/run/disk.js';
import { recordSession, type Session } from '../../lib/run/environment.js';
import { checkSameConfig, createRun, differencesOf, readRunConfig } from '../../lib/run/folder.js';
import { appendJournal, type JournalLine, readJournal, truncateJournal } from '../../lib/run/journal.js';

let run: string;
beforeEach(async () => {
  run = await mkdtemp(join(tmpdir(), 'selfedit-run-'));
});
afterEach(() => rm(run, { recursive: true }));

const noSpace = () => Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC' });

/** A disk that is full for files whose path matches: opening works, writing does not. */
function fullDisk(matches: RegExp): Disk {
  const open = async (path: string, flags: string) => {
    const file = await fs.open(path, flags);
    if (!matches.test(path) || flags === 'r') return file;
    return new Proxy(file, {
      get: (target, key) => {
        if (key === 'writeFile') return () => Promise.reject(noSpace());
        const value = Reflect.get(target, key) as unknown;
        return typeof value === 'function' ? (value.bind(target) as unknown) : value;
      },
    });
  };
  return { ...fs, open: open as typeof fs.open };
}

const policy = (content: string) => ({
  save: (path: string) => writeFile(path, content),
  load: async (path: string) => {
    loaded.push(await readFile(path, 'utf8'));
  },
});
let loaded: string[] = [];
beforeEach(() => {
  loaded = [];
});
const state = (round: number) => ({
  format: 1 as const,
  round,
  policyVersion: round + 1,
  algorithm: { name: 'ppo', state: { klCoefficient: 0.5 + round } },
});

describe('checkpoints', () => {
  it('give back the newest policy and state', async () => {
    expect(await loadCheckpoint(realDisk, run, policy(''))).toBeUndefined();
    for (const round of [0, 1, 11]) await saveCheckpoint(realDisk, run, policy(`p${round}`), state(round));
    expect(await listCheckpoints(realDisk, run)).toEqual([0, 1, 11]);
    expect(await loadCheckpoint(realDisk, run, policy(''))).toEqual(state(11));
    expect(loaded).toEqual(['p11']);
  });

  it('keep the newest ones and clear away what a killed run left half-built', async () => {
    for (const round of [0, 1, 2]) await saveCheckpoint(realDisk, run, policy('p'), state(round));
    await fs.mkdir(join(run, 'checkpoints/round-0003.partial'));
    expect(await listCheckpoints(realDisk, run)).toEqual([0, 1, 2]);
    await pruneCheckpoints(realDisk, run, 2);
    expect((await readdir(join(run, 'checkpoints'))).sort()).toEqual(['round-0001', 'round-0002']);
    await pruneCheckpoints(realDisk, run, undefined);
    expect(await listCheckpoints(realDisk, run)).toEqual([1, 2]);
  });

  it.each([
    ['the state', /state\.json/],
    ['the policy', undefined],
  ])('on a disk that fills up while saving %s: IO, and the earlier ones intact', async (_, matches) => {
    await saveCheckpoint(realDisk, run, policy('p0'), state(0));
    const broken = matches ? policy('p1') : { ...policy('p1'), save: () => Promise.reject(noSpace()) };
    await expect(saveCheckpoint(fullDisk(matches ?? /$^/), run, broken, state(1))).rejects.toMatchObject({
      code: 'IO',
      exitCode: 1,
      message: expect.stringMatching(
        /saving checkpoint .*round-0001: no space left on the device \(ENOSPC\)/,
      ) as unknown,
    });
    expect(await readdir(join(run, 'checkpoints'))).toEqual(['round-0000']);
    expect(await loadCheckpoint(realDisk, run, policy(''))).toEqual(state(0));
    expect(loaded).toEqual(['p0']);
  });

  it('with a damaged state are refused by name', async () => {
    const path = await saveCheckpoint(realDisk, run, policy('p'), state(0));
    for (const text of ['{"format": 1', '{"format": 2, "round": 0}', 'null', '{"format": 1, "round": 5}']) {
      await writeFile(join(path, 'state.json'), text);
      await expect(loadCheckpoint(realDisk, run, policy(''))).rejects.toMatchObject({
        code: 'RUN_INVALID',
        message: expect.stringContaining('round-0000/state.json') as unknown,
      });
    }
  });
});

describe('the journal', () => {
  const line = (round: number, text = '') => ({ type: 'edit', round, text }) as unknown as JournalLine;
  const text = () => readFile(join(run, 'journal.jsonl'), 'utf8');

  it('grows by whole lines; figures that do not apply are null', async () => {
    await appendJournal(realDisk, run, [line(0, 'a\nb'), { ...line(0), reward: Number.NaN } as JournalLine]);
    await appendJournal(realDisk, run, [line(1)]);
    expect((await text()).split('\n')).toHaveLength(4);
    const { lines, torn } = await readJournal(realDisk, run);
    expect(torn).toBe(false);
    expect(lines.map(({ round }) => round)).toEqual([0, 0, 1]);
    expect(lines[1]).toMatchObject({ reward: null });
  });

  it('drops a torn last line, whole by length or not', async () => {
    await appendJournal(realDisk, run, [line(0, 'é')]);
    const whole = await text();
    for (const torn of ['{"type":"edit","round":0,"te', '{"type":"edit","rou\n', '\u0000\u0000\u0000']) {
      await writeFile(join(run, 'journal.jsonl'), whole + torn);
      expect(await readJournal(realDisk, run)).toMatchObject({
        torn: true,
        lines: [{ round: 0, text: 'é' }],
      });
      expect(await truncateJournal(realDisk, run, 0)).toBe(0);
      expect(await text()).toBe(whole);
    }
  });

  it('is cut after the last round that has a checkpoint', async () => {
    await appendJournal(realDisk, run, [line(0), line(0), line(1)]);
    expect(await truncateJournal(realDisk, run, 0)).toBe(1);
    expect((await readJournal(realDisk, run)).lines.map(({ round }) => round)).toEqual([0, 0]);
    expect(await truncateJournal(realDisk, run, -1)).toBe(2);
    expect(await text()).toBe('');
  });

  it('of a run that has none is empty', async () => {
    expect(await readJournal(realDisk, run)).toEqual({ lines: [], ends: [], torn: false });
    expect(await truncateJournal(realDisk, run, -1)).toBe(0);
  });

  it('damaged in the middle is refused, naming the line', async () => {
    await appendJournal(realDisk, run, [line(0)]);
    await writeFile(join(run, 'journal.jsonl'), `${await text()}garbage\n${await text()}`);
    await expect(readJournal(realDisk, run)).rejects.toMatchObject({
      code: 'RUN_INVALID',
      message: expect.stringMatching(/journal\.jsonl line 2 is damaged/) as unknown,
    });
  });

  it.skipIf(process.platform !== 'linux')(
    'on a full device is IO (the kernel says so; needs /dev/full)',
    async () => {
      await symlink('/dev/full', join(run, 'journal.jsonl'));
      await expect(appendJournal(realDisk, run, [line(0)])).rejects.toMatchObject({
        code: 'IO',
        message: expect.stringMatching(/journal\.jsonl: no space left on the device \(ENOSPC\)/) as unknown,
      });
    },
  );
});

describe('the run folder', () => {
  const config = resolveConfig({ model: 'm', task: { data: '/d.json' } });

  it('is made once and never overwritten', async () => {
    const path = join(run, 'a/b');
    await createRun(realDisk, path, config);
    expect(await readRunConfig(realDisk, path)).toEqual(config);
    await expect(createRun(realDisk, path, config)).rejects.toMatchObject({
      code: 'RUN_EXISTS',
      exitCode: 2,
    });
    await writeFile(join(run, 'file'), '');
    await expect(createRun(realDisk, run, config)).rejects.toMatchObject({
      code: 'RUN_EXISTS',
      message: expect.stringContaining('is not empty') as unknown,
    });
  });

  it('is resumed only under the same configuration, else the differences are named', async () => {
    await createRun(realDisk, run, config);
    await checkSameConfig(realDisk, run, resolveConfig({ model: 'm', task: { data: '/d.json' } }));
    const other = resolveConfig({ model: 'm', seed: 7, task: { data: '/d.json' }, ppo: { klTarget: 0.1 } });
    await expect(checkSameConfig(realDisk, run, other)).rejects.toMatchObject({
      code: 'RUN_INVALID',
      message: expect.stringMatching(/: seed: 0 → 7; ppo\.klTarget: absent → 0\.1;/) as unknown,
    });
  });

  it('that holds no run, or a damaged one, is RUN_INVALID', async () => {
    await expect(readRunConfig(realDisk, run)).rejects.toMatchObject({ code: 'RUN_INVALID' });
    await writeFile(join(run, 'config.json'), '{"model": ');
    await expect(readRunConfig(realDisk, run)).rejects.toMatchObject({ code: 'RUN_INVALID' });
  });

  it('names nested differences by path', () => {
    expect(differencesOf({ a: { b: [1], c: 2 } }, { a: { b: [1, 2], c: 2 }, d: 'x' })).toEqual([
      'a.b: [1] → [1,2]',
      'd: absent → "x"',
    ]);
  });

  it('records sessions and refuses other weights or other data', async () => {
    const session = { started: 's', threads: 2 } as Session;
    await recordSession(realDisk, run, { model: 'aa', data: 'bb' }, session);
    await recordSession(realDisk, run, { model: 'aa', data: 'bb' }, { ...session, threads: 4 });
    const environment = JSON.parse(await readFile(join(run, 'environment.json'), 'utf8')) as {
      sessions: Session[];
    };
    expect(environment.sessions.map(({ threads }) => threads)).toEqual([2, 4]);
    await expect(recordSession(realDisk, run, { model: 'aa', data: 'cc' }, session)).rejects.toMatchObject({
      code: 'RUN_INVALID',
      message: expect.stringMatching(/the data of run .* has changed/) as unknown,
    });
  });
});

describe('atomic writing', () => {
  it('leaves the earlier file when the disk is full', async () => {
    const path = join(run, 'x.json');
    await writeAtomic(realDisk, path, 'before');
    await expect(writeAtomic(fullDisk(/x\.json/), path, 'after')).rejects.toMatchObject({ code: 'IO' });
    expect(await readFile(path, 'utf8')).toBe('before');
    expect(await readdir(run)).toEqual(['x.json']);
  });
});
