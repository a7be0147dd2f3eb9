import * as fs from 'node:fs/promises';
import { mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  clearLeftovers,
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

/** A disk that is full for files whose path matches: opening works, writing more than so many bytes does not. */
function fullDisk(matches: RegExp, room = 0): Disk {
  let left = room;
  const open = async (path: string, flags: string) => {
    const file = await fs.open(path, flags);
    if (!matches.test(path) || flags === 'r') return file;
    return new Proxy(file, {
      get: (target, key) => {
        if (key === 'write') {
          return (bytes: Uint8Array, from: number, count: number) => {
            if (left === 0) return Promise.reject(noSpace());
            const some = Math.min(left, count);
            left -= some;
            return target.write(bytes, from, some);
          };
        }
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
  it('give back policy and state', async () => {
    for (const round of [0, 1, 11]) await saveCheckpoint(realDisk, run, policy(`p${round}`), state(round));
    expect(await listCheckpoints(realDisk, run)).toEqual([0, 1, 11]);
    expect(await loadCheckpoint(realDisk, run, 11, policy(''))).toEqual(state(11));
    expect(loaded).toEqual(['p11']);
  });

  it('keep the newest ones and clear away what a killed run left half-built', async () => {
    for (const round of [0, 1, 2]) await saveCheckpoint(realDisk, run, policy('p'), state(round));
    await fs.mkdir(join(run, 'checkpoints/round-0003.partial'));
    await fs.mkdir(join(run, 'checkpoints/round-0004.deleted'));
    await writeFile(join(run, 'head.safetensors.71.0.tmp'), 'half');
    expect(await listCheckpoints(realDisk, run)).toEqual([0, 1, 2]);
    await clearLeftovers(realDisk, run);
    await pruneCheckpoints(realDisk, run, 2);
    expect((await readdir(join(run, 'checkpoints'))).sort()).toEqual(['round-0001', 'round-0002']);
    expect(await readdir(run)).toEqual(['checkpoints']);
    await pruneCheckpoints(realDisk, run, undefined);
    expect(await listCheckpoints(realDisk, run)).toEqual([1, 2]);
  });

  it('are removed under another name, so that half of one is never taken for a checkpoint', async () => {
    for (const round of [0, 1, 2]) await saveCheckpoint(realDisk, run, policy('p'), state(round));
    const removed: string[] = [];
    const rm = (path: string) => {
      removed.push(path.slice(run.length + 1));
      return Promise.reject(Object.assign(new Error('EIO: i/o error'), { code: 'EIO' }));
    };
    const broken: Disk = { ...fs, rm: rm as typeof fs.rm };
    await expect(pruneCheckpoints(broken, run, 1, [0])).rejects.toMatchObject({
      code: 'IO',
      message: expect.stringMatching(/removing old checkpoints/) as unknown,
    });
    expect(removed).toEqual(['checkpoints/round-0001.deleted']);
    expect(await listCheckpoints(realDisk, run)).toEqual([0, 2]);
  });

  it('are loaded only as they were written', async () => {
    const path = await saveCheckpoint(realDisk, run, policy('abc'), state(0));
    const written = await readFile(join(path, 'state.json'), 'utf8');
    expect(JSON.parse(written)).toMatchObject({
      round: 0,
      files: {
        'policy.safetensors': {
          bytes: 3,
          sha256: 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad',
        },
      },
    });
    const failure = async () =>
      (await loadCheckpoint(realDisk, run, 0, policy('')).catch((e: Error) => e)) as Error;
    await writeFile(join(path, 'policy.safetensors'), 'abd');
    expect(await failure()).toMatchObject({ code: 'RUN_INVALID' });
    expect((await failure()).message).toMatch(
      /policy\.safetensors is damaged: 3 bytes with SHA-256 a52d159f262b….*; expected 3 with ba7816bf8f01…/,
    );
    await writeFile(join(path, 'policy.safetensors'), 'abcd');
    expect((await failure()).message).toMatch(/4 bytes .* expected 3 /);
    await rm(join(path, 'policy.safetensors'));
    expect((await failure()).message).toMatch(/policy\.safetensors is missing/);
    expect(loaded).toEqual([]);
    await writeFile(join(path, 'policy.safetensors'), 'abc');
    await writeFile(join(path, 'state.json'), written.replace('0.5', '0.7'));
    expect((await failure()).message).toMatch(/state\.json is damaged: its CRC-32 is [0-9a-f]{8}; expected/);
    // Older versions wrote neither checksum.
    await writeFile(join(path, 'state.json'), JSON.stringify(state(0), null, 2));
    expect(await loadCheckpoint(realDisk, run, 0, policy(''))).toEqual(state(0));
    expect(loaded).toEqual(['abc']);
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
    expect(await loadCheckpoint(realDisk, run, 0, policy(''))).toEqual(state(0));
    expect(loaded).toEqual(['p0']);
  });

  it('with a damaged state are refused by name', async () => {
    const path = await saveCheckpoint(realDisk, run, policy('p'), state(0));
    for (const text of ['{"format": 1', '{"format": 2, "round": 0}', 'null', '{"format": 1, "round": 5}']) {
      await writeFile(join(path, 'state.json'), text);
      await expect(loadCheckpoint(realDisk, run, 0, policy(''))).rejects.toMatchObject({
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

  it('has the CRC-32 of each line as its last field', async () => {
    await appendJournal(realDisk, run, [line(0, '123'), line(0, 'é')]);
    const [first] = (await text()).split('\n');
    // Python's zlib.crc32 of the line without the field.
    expect(first).toBe('{"type":"edit","round":0,"text":"123","crc32":"4ed6f357"}');
    const damaged = (await text()).replace('"123"', '"124"');
    await writeFile(join(run, 'journal.jsonl'), damaged);
    await expect(readJournal(realDisk, run)).rejects.toMatchObject({
      code: 'RUN_INVALID',
      message: expect.stringMatching(
        /journal\.jsonl line 1 is damaged: its CRC-32 is [0-9a-f]{8}; expected 4ed6f357, which it states/,
      ) as unknown,
    });
    // As the last line it is a torn one, however whole it looks.
    await writeFile(join(run, 'journal.jsonl'), `${damaged.split('\n')[0]}\n`);
    expect(await readJournal(realDisk, run)).toMatchObject({ torn: true, lines: [] });
  });

  it('of an old run has no checksums; after a line with one, all must have one', async () => {
    const old = JSON.stringify(line(0, 'old'));
    await writeFile(join(run, 'journal.jsonl'), `${old}\n`);
    await appendJournal(realDisk, run, [line(1, 'new')]);
    expect((await readJournal(realDisk, run)).lines).toEqual([line(0, 'old'), line(1, 'new')]);
    await writeFile(join(run, 'journal.jsonl'), `${await text()}${old}\n${old}\n`);
    await expect(readJournal(realDisk, run)).rejects.toThrow(
      'line 3 is damaged: it has no "crc32"; expected one, as in the lines before it',
    );
  });

  it('takes back what it could write of lines that do not fit', async () => {
    await appendJournal(realDisk, run, [line(0)]);
    const whole = await text();
    await expect(appendJournal(fullDisk(/journal/, 20), run, [line(1)])).rejects.toMatchObject({
      code: 'IO',
    });
    expect(await text()).toBe(whole);
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
    const lock = await createRun(realDisk, path, config);
    await expect(createRun(realDisk, path, config)).rejects.toMatchObject({ code: 'RUN_EXISTS' });
    await lock.release();
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

  it('that a process killed at its very beginning has left is begun anew', async () => {
    await writeFile(join(run, 'lock'), '{"id": "a", "host": "elsewhere"}');
    await fs.utimes(join(run, 'lock'), 0, 0);
    await writeFile(join(run, 'config.json.partial'), '{"mod');
    await (await createRun(realDisk, run, config)).release();
    expect(await readdir(run)).toEqual(['config.json']);
  });

  it('may be resumed to keep other checkpoints; old runs kept all', async () => {
    await (await createRun(realDisk, run, config)).release();
    const more = resolveConfig({
      model: 'm',
      task: { data: '/d.json' },
      keepCheckpoints: 'all',
      keepBest: 3,
    });
    await checkSameConfig(realDisk, run, more);
    const { keepCheckpoints: _, keepBest: __, ...old } = config;
    await writeFile(join(run, 'config.json'), JSON.stringify(old));
    expect(await readRunConfig(realDisk, run)).toMatchObject({ keepCheckpoints: 'all' });
  });

  it('is resumed only under the same configuration, else the differences are named', async () => {
    await (await createRun(realDisk, run, config)).release();
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
    const inputs = { model: 'aa', data: 'bb', reward: 'dd' };
    expect(await recordSession(realDisk, run, inputs, session)).toEqual([]);
    const again = { ...session, started: 't' };
    expect(await recordSession(realDisk, run, inputs, again)).toEqual([]);
    expect(await recordSession(realDisk, run, inputs, { ...again, threads: 4 })).toEqual(['threads: 2 → 4']);
    const environment = JSON.parse(await readFile(join(run, 'environment.json'), 'utf8')) as {
      sessions: Session[];
    };
    expect(environment.sessions).toEqual([
      session,
      again,
      { ...again, threads: 4, differs: ['threads: 2 → 4'] },
    ]);
    for (const reward of ['ee', undefined]) {
      const other = { model: 'aa', data: 'bb', ...(reward ? { reward } : {}) };
      await expect(recordSession(realDisk, run, other, session)).rejects.toThrow('the reward of run');
    }
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
