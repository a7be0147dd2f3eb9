/**
 * `lock`: a run folder belongs to one process. The file names it; it is refreshed while the run works and removed at its end.
 * A lock whose process is gone is taken over: at once on the same machine, elsewhere when it has not been refreshed for a minute.
 */
import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import { makeError, type SelfeditError } from '../errors.js';
import { type Disk, ioError, writeSynced } from './disk.js';
import { isRunning, ownIdentity, type ProcessIdentity } from './process-identity.js';

/** What the file holds. */
export interface LockOwner extends ProcessIdentity {
  readonly id: string;
  readonly started: string;
}

export interface LockTimes {
  /** Seconds from one refresh of a held lock to the next. 10. */
  readonly refresh?: number;
  /** A lock that was not refreshed for so many seconds has lost its process. 60. */
  readonly stale?: number;
}

/** A held lock. */
export interface RunLock {
  /** Throws `RUN_LOCKED` when another process has taken the folder over, because this one was taken for gone. */
  check(): Promise<void>;
  release(): Promise<void>;
}

const NAME = 'lock';
/** Locks that this process gave up and whose files it could not remove. */
const givenUp = new Set<string>();
/** A file system that has no hard links. */
const NO_LINKS: readonly unknown[] = ['EPERM', 'ENOSYS', 'ENOTSUP', 'EOPNOTSUPP'];

/** Whether a file of a run folder belongs to its lock. */
export function isLockFile(name: string): boolean {
  return /^lock(\.[\w-]+(\.taken)?)?$/.test(name);
}

/** Takes a folder for this process. Throws `RUN_LOCKED`, naming the process that has it, or `IO`. */
export async function lockRun(disk: Disk, run: string, times: LockTimes = {}): Promise<RunLock> {
  const { refresh = 10, stale = 60 } = times;
  const own: LockOwner = { ...ownIdentity(), id: randomUUID(), started: new Date().toISOString() };
  const text = `${JSON.stringify(own)}\n`;
  const candidate = join(run, `${NAME}.${own.id}`);
  try {
    await acquire(disk, run, { own, text, candidate, stale });
    return await held(disk, run, own, text, refresh);
  } catch (cause) {
    await giveUp(disk, run, own.id);
    throw ioError(`locking ${run}`, cause);
  } finally {
    await disk.rm(candidate, { force: true }).catch(() => {});
  }
}

async function isOurs(disk: Disk, run: string, id: string): Promise<boolean> {
  const text = await disk.readFile(join(run, NAME), 'utf8').catch(() => '');
  return ownerOf(text)?.id === id;
}

async function giveUp(disk: Disk, run: string, id: string): Promise<void> {
  if (!(await isOurs(disk, run, id))) return;
  await disk.rm(join(run, NAME), { force: true }).catch(() => givenUp.add(id));
}

interface Attempt {
  readonly own: LockOwner;
  readonly text: string;
  /** A file with `text`: what becomes the lock, under a name of its own. */
  readonly candidate: string;
  readonly stale: number;
}

async function acquire(disk: Disk, run: string, attempt: Attempt): Promise<void> {
  const { own, text, candidate } = attempt;
  const path = join(run, NAME);
  for (let attempts = 0; attempts < 100; attempts++) {
    await writeSynced(disk, candidate, text);
    // By a link, the lock has its contents from the start, whenever this process is killed.
    if (await makeOnce(disk, candidate, path, text)) return clear(disk, run, own.id);
    const found = await readLock(disk, path, candidate);
    if (found && (await takeOver(disk, run, found, attempt))) return clear(disk, run, own.id);
  }
  throw makeError('RUN_LOCKED', `${run} changes hands all the time; expected a folder that one process uses`);
}

/**
 * Only one process may replace a lock: the one that makes `lock.<its id>.taken`, which stays until the lock is replaced. Should
 * it be killed before that, its claim can be claimed in turn. False: the lock is no longer the one that was found.
 */
async function takeOver(disk: Disk, run: string, found: Found, attempt: Attempt): Promise<boolean> {
  const { candidate, text, stale } = attempt;
  const path = join(run, NAME);
  let claim: string;
  for (let target = found; ; ) {
    if (!isStale(target, stale)) throw lockedError(run, target);
    claim = join(run, `${NAME}.${target.id}.taken`);
    if (await makeOnce(disk, candidate, claim, text)) break;
    const other = await readLock(disk, claim, candidate);
    if (!other) return false;
    target = other;
  }
  try {
    const replaced = (await readLock(disk, path, candidate))?.id === found.id;
    if (replaced) await disk.rename(candidate, path);
    else await disk.rm(claim, { force: true });
    return replaced;
  } catch (cause) {
    // Else the claim would hold the folder for as long as this process lives.
    await disk.rm(claim, { force: true }).catch(() => givenUp.add(attempt.own.id));
    throw cause;
  }
}

/** Makes `path` with the contents of `candidate`; false when it is there already, or `candidate` is gone. */
async function makeOnce(disk: Disk, candidate: string, path: string, text: string): Promise<boolean> {
  try {
    await disk.link(candidate, path);
    return true;
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code === 'EEXIST' || code === 'ENOENT') return false;
    if (!NO_LINKS.includes(code)) throw cause;
  }
  try {
    await writeSynced(disk, path, text, 'wx');
    return true;
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw cause;
  }
}

interface Found {
  readonly id: string;
  /** Undefined for a file that cannot be read as a lock. */
  readonly owner: LockOwner | undefined;
  /** Seconds since it was refreshed, by the clock of the file system. */
  readonly age: number;
}

async function readLock(disk: Disk, path: string, candidate: string): Promise<Found | undefined> {
  try {
    const text = await disk.readFile(path, 'utf8');
    const [lock, now] = [await disk.stat(path), await disk.stat(candidate)];
    const owner = ownerOf(text);
    return { id: owner?.id ?? `inode-${lock.ino}`, owner, age: (now.mtimeMs - lock.mtimeMs) / 1000 };
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw cause;
  }
}

function ownerOf(text: string): LockOwner | undefined {
  try {
    const owner = JSON.parse(text) as LockOwner;
    return typeof owner.id === 'string' && /^[\w-]+$/.test(owner.id) ? owner : undefined;
  } catch {
    return undefined;
  }
}

function isStale({ owner, age }: Found, stale: number): boolean {
  if (owner && givenUp.has(owner.id)) return true;
  const running = owner && isRunning(owner);
  // A worker of this process that was ended leaves a lock whose process runs on.
  if (running === undefined || (running && owner?.pid === process.pid)) return age > stale;
  return !running;
}

function lockedError(run: string, { owner, age }: Found): SelfeditError {
  const who = owner
    ? `process ${owner.pid} on ${owner.host}, since ${owner.started}`
    : 'a process that its lock does not name';
  return makeError(
    'RUN_LOCKED',
    `${run} is in use by ${who} (refreshed ${Math.max(0, age).toFixed(0)} s ago); ` +
      `expected a folder that no other process uses (if it is gone, remove ${join(run, NAME)})`,
  );
}

/** Removes what earlier attempts left behind. */
async function clear(disk: Disk, run: string, id: string): Promise<void> {
  const others = (await disk.readdir(run)).filter((name) => isLockFile(name) && name !== NAME);
  for (const name of others) await disk.rm(join(run, name), { force: true });
  if (!(await isOurs(disk, run, id))) throw makeError('RUN_LOCKED', `${run} was taken by another process`);
}

async function held(disk: Disk, run: string, { id }: LockOwner, text: string, refresh: number) {
  const path = join(run, NAME);
  // Written to by its handle: should another process take over, this one writes to a file without a name.
  const file = await disk.open(path, 'r+');
  let refreshing: Promise<unknown> = Promise.resolve();
  const timer = setInterval(() => {
    refreshing = file.write(text, 0).catch(() => {});
  }, refresh * 1000).unref();
  let released = false;
  return {
    async check() {
      if (await isOurs(disk, run, id)) return;
      const now = await readLock(disk, path, path).catch(() => undefined);
      if (now) throw lockedError(run, now);
      throw makeError('RUN_LOCKED', `the lock of ${run} is gone; expected it to stay until the run ends`);
    },
    async release() {
      if (released) return;
      released = true;
      clearInterval(timer);
      await refreshing;
      await file.close().catch(() => {});
      await giveUp(disk, run, id);
    },
  } satisfies RunLock;
}
