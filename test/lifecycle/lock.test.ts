/** A run folder belongs to one process: with real processes, one of them killed, and many that race for what it left. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { packageRoot } from '../../lib/load.js';
import { realDisk } from '../../lib/run/disk.js';
import { type LockOwner, lockRun } from '../../lib/run/lock.js';

let run: string;
const started: ChildProcess[] = [];
beforeEach(() => {
  run = mkdtempSync(join(tmpdir(), 'selfedit-lock-'));
});
afterEach(() => {
  for (const child of started.splice(0)) child.kill('SIGKILL');
  rmSync(run, { recursive: true });
});

const moduleOf = (name: string) =>
  JSON.stringify(pathToFileURL(join(packageRoot, 'dist', 'run', `${name}.js`)).href);

/** A process that waits for a line, takes the lock, says how that went, and holds it until it gets another line. */
function locker() {
  const source = `
    import { lockRun } from ${moduleOf('lock')};
    import { realDisk } from ${moduleOf('disk')};
    import { createInterface } from 'node:readline';
    const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
    console.log('ready');
    await lines.next();
    try {
      const lock = await lockRun(realDisk, process.argv[1]);
      console.log('held');
      await lines.next();
      await lock.release();
      console.log('released');
    } catch (error) {
      console.log(error.code, error.message);
    }
    process.exit();
  `;
  const child = spawn(process.execPath, ['--input-type=module', '-e', source, run], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  started.push(child);
  const lines: string[] = [];
  child.stdout.on('data', (chunk: Buffer) => lines.push(...chunk.toString().trim().split('\n')));
  return {
    child,
    go: () => child.stdin.write('\n'),
    async line(index: number): Promise<string> {
      while (lines.length <= index) await once(child.stdout, 'data');
      return lines[index]!;
    },
  };
}

const ownerOf = () => JSON.parse(readFileSync(join(run, 'lock'), 'utf8')) as LockOwner;

describe('a lock', () => {
  it('names its process, refuses others, and goes when it is released', async () => {
    const first = locker();
    first.go();
    expect(await first.line(1)).toBe('held');
    expect(ownerOf()).toMatchObject({ pid: first.child.pid, host: hostname() });
    const failure = await lockRun(realDisk, run).catch((error: Error) => error as Error);
    expect(failure).toMatchObject({ code: 'RUN_LOCKED', exitCode: 1 });
    expect((failure as Error).message).toContain(
      `${run} is in use by process ${first.child.pid} on ${hostname()}, since ${ownerOf().started}`,
    );
    first.go();
    expect(await first.line(2)).toBe('released');
    expect(readdirSync(run)).toEqual([]);
    await (await lockRun(realDisk, run)).release();
  });

  it('of a process that was killed is taken over at once', async () => {
    const first = locker();
    first.go();
    await first.line(1);
    const closed = once(first.child, 'exit');
    first.child.kill('SIGKILL');
    await closed;
    expect(ownerOf().pid).toBe(first.child.pid);
    const lock = await lockRun(realDisk, run);
    expect(ownerOf().pid).toBe(process.pid);
    expect(readdirSync(run)).toEqual(['lock']);
    await lock.release();
  });

  it('is won by one of eight that race for what a killed one left', async () => {
    const first = locker();
    first.go();
    await first.line(1);
    const closed = once(first.child, 'exit');
    first.child.kill('SIGKILL');
    await closed;
    const others = Array.from({ length: 8 }, locker);
    for (const other of others) await other.line(0);
    for (const other of others) other.go();
    const said = await Promise.all(others.map((other) => other.line(1)));
    expect(said.filter((text) => text === 'held')).toHaveLength(1);
    expect(said.filter((text) => text.startsWith('RUN_LOCKED'))).toHaveLength(7);
    const winner = others[said.indexOf('held')]!;
    expect(ownerOf().pid).toBe(winner.child.pid);
    winner.go();
    expect(await winner.line(2)).toBe('released');
    expect(readdirSync(run)).toEqual([]);
  });

  it('whose number has gone to another process is stale', async () => {
    const lock = await lockRun(realDisk, run);
    const owner = ownerOf();
    await lock.release();
    // The process that started this one runs, but did not start then.
    writeFileSync(join(run, 'lock'), JSON.stringify({ ...owner, pid: process.ppid, start: 1 }));
    await (await lockRun(realDisk, run)).release();
  });
});

describe('a lock of another machine', () => {
  const elsewhere = {
    id: 'abc',
    host: 'elsewhere',
    pid: 1,
    start: 1,
    boot: 'x',
    namespace: 'y',
    started: 's',
  };
  const leave = (name: string, secondsAgo: number, owner: object = elsewhere) => {
    writeFileSync(join(run, name), JSON.stringify(owner));
    const then = Date.now() / 1000 - secondsAgo;
    utimesSync(join(run, name), then, then);
  };

  it('holds while it is refreshed, and is taken over after a minute without', async () => {
    leave('lock', 50);
    await expect(lockRun(realDisk, run)).rejects.toThrow(
      /in use by process 1 on elsewhere, since s \(refreshed (50|51) s ago\)/,
    );
    expect(readdirSync(run)).toEqual(['lock']);
    leave('lock', 61);
    await (await lockRun(realDisk, run)).release();
    expect(readdirSync(run)).toEqual([]);
  });

  it('that was being taken over belongs to who has the claim, until that is stale too', async () => {
    leave('lock', 100);
    leave('lock.abc.taken', 30, { ...elsewhere, id: 'def', pid: 7 });
    await expect(lockRun(realDisk, run)).rejects.toThrow('in use by process 7 on elsewhere');
    leave('lock.abc.taken', 70, { ...elsewhere, id: 'def', pid: 7 });
    const lock = await lockRun(realDisk, run);
    expect(readdirSync(run)).toEqual(['lock']);
    await lock.release();
  });

  it.each(['rename', 'rm'] as const)(
    'that could not be taken over for a failing %s can be later',
    async (call) => {
      leave('lock', 100);
      let failures = call === 'rm' ? 9 : 1;
      const fail = (...args: unknown[]) => {
        if (failures-- > 0) return Promise.reject(Object.assign(new Error('EIO: injected'), { code: 'EIO' }));
        return (realDisk[call] as (...args: unknown[]) => Promise<void>)(...args);
      };
      await expect(lockRun({ ...realDisk, [call]: fail }, run)).rejects.toMatchObject({ code: 'IO' });
      failures = 0;
      await (await lockRun(realDisk, run)).release();
      expect(readdirSync(run)).toEqual([]);
    },
  );

  it('is won by one of many, whatever the order of their calls', async () => {
    for (let round = 0; round < 20; round++) {
      leave('lock', 100);
      if (round % 2) leave('lock.abc.taken', 100, { ...elsewhere, id: 'def' });
      const tried = await Promise.allSettled(Array.from({ length: 20 }, () => lockRun(realDisk, run)));
      const won = tried.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []));
      expect(won).toHaveLength(1);
      for (const one of tried)
        if (one.status === 'rejected') expect(one.reason).toMatchObject({ code: 'RUN_LOCKED' });
      await won[0]!.check();
      await won[0]!.release();
      expect(readdirSync(run)).toEqual([]);
    }
  });

  it('without contents is judged by its age', async () => {
    writeFileSync(join(run, 'lock'), '');
    await expect(lockRun(realDisk, run)).rejects.toThrow('in use by a process that its lock does not name');
    utimesSync(join(run, 'lock'), 0, 0);
    await (await lockRun(realDisk, run)).release();
  });

  it('on a file system without hard links works all the same', async () => {
    const link = () => Promise.reject(Object.assign(new Error('EPERM'), { code: 'EPERM' }));
    const disk = { ...realDisk, link };
    const lock = await lockRun(disk, run);
    expect(ownerOf().pid).toBe(process.pid);
    await expect(lockRun(disk, run)).rejects.toMatchObject({ code: 'RUN_LOCKED' });
    await lock.release();
    leave('lock', 61);
    await (await lockRun(disk, run)).release();
    expect(readdirSync(run)).toEqual([]);
  });

  it('is refreshed while it is held, and its loss is noticed', async () => {
    const lock = await lockRun(realDisk, run, { refresh: 0.02 });
    await lock.check();
    utimesSync(join(run, 'lock'), 0, 0);
    const refreshed = () => Date.now() - statSync(join(run, 'lock')).mtimeMs < 60_000;
    for (let tries = 0; tries < 500 && !refreshed(); tries++)
      await new Promise((done) => setTimeout(done, 10));
    expect(refreshed()).toBe(true);
    rmSync(join(run, 'lock'));
    leave('lock', 0);
    await expect(lock.check()).rejects.toMatchObject({
      code: 'RUN_LOCKED',
      message: expect.stringContaining('in use by process 1 on elsewhere') as unknown,
    });
    await lock.release();
    expect(ownerOf().host).toBe('elsewhere');
    rmSync(join(run, 'lock'));
    await expect(lock.check()).rejects.toThrow(/the lock of .* is gone/);
  });
});
