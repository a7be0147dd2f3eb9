/**
 * Files of the model cache: checksums, a lock between processes, and the rename that makes a file appear
 * whole.
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { link, mkdir, open, readFile, rename, rm, stat, unlink, utimes } from 'node:fs/promises';
import { hostname } from 'node:os';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { makeError } from '../errors.js';
import { isCode, messageOf } from '../format/json.js';

/** What a file must be. */
export interface FileFacts {
  bytes: number;
  /** Lower-case hex. */
  sha256: string;
}

export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw makeError('ABORTED', 'the download was stopped', signal.reason);
}

/**
 * Why the file is not the expected one; `undefined` when it is. Reads all of it only when its size is
 * right.
 */
export async function findFault(
  path: string,
  facts: FileFacts,
  signal?: AbortSignal,
): Promise<string | undefined> {
  let size: number;
  try {
    const found = await stat(path);
    if (!found.isFile()) return 'is not a file';
    size = found.size;
  } catch (error) {
    return isCode(error, 'ENOENT') || isCode(error, 'ENOTDIR') ? 'there is no such file' : messageOf(error);
  }
  if (size !== facts.bytes) return `has ${size} bytes, expected ${facts.bytes}`;
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) {
    throwIfAborted(signal);
    hash.update(chunk as Buffer);
  }
  const found = hash.digest('hex');
  return found === facts.sha256 ? undefined : `has SHA-256 ${found}, expected ${facts.sha256}`;
}

/** Size of a file; 0 when there is none. */
export async function sizeOf(path: string): Promise<number> {
  try {
    return (await stat(path)).size;
  } catch {
    return 0;
  }
}

/** Gives a complete file its name. After a crash there is the whole file or none. */
export async function publish(part: string, target: string): Promise<void> {
  for (const path of [part, dirname(target)]) {
    if (path !== part) await rename(part, target);
    const file = await open(path, 'r');
    try {
      await file.sync();
    } finally {
      await file.close();
    }
  }
}

const HEARTBEAT_MS = 5_000;
const STALE_MS = 60_000;
const POLL_MS = 100;

/**
 * Runs `work` while holding the lock file, so that processes that want the same model fetch it once. The
 * lock of a process that died is taken over. It saves work; what keeps the cache sound is the checksum and
 * the rename.
 */
export async function withLock<T>(
  path: string,
  signal: AbortSignal | undefined,
  onWait: () => void,
  work: () => Promise<T>,
): Promise<T> {
  await mkdir(dirname(path), { recursive: true }).catch((error: unknown) => {
    throw makeError('IO', `cannot write ${path}: ${messageOf(error)}`, error);
  });
  while (!(await acquire(path))) {
    throwIfAborted(signal);
    onWait();
    await sleep(POLL_MS);
  }
  const beat = setInterval(() => {
    const now = new Date();
    utimes(path, now, now).catch(() => {});
  }, HEARTBEAT_MS);
  try {
    return await work();
  } finally {
    clearInterval(beat);
    await rm(path, { force: true });
  }
}

async function acquire(path: string): Promise<boolean> {
  const own = JSON.stringify({ pid: process.pid, host: hostname() });
  try {
    const file = await open(path, 'wx');
    try {
      await file.writeFile(own);
    } finally {
      await file.close();
    }
    return true;
  } catch (error) {
    if (!isCode(error, 'EEXIST')) throw makeError('IO', `cannot write ${path}: ${messageOf(error)}`, error);
  }
  const stale = await readStale(path);
  if (stale === undefined) return false;
  // Renaming takes it away from everyone; if it was not the stale one after all, it goes back where it was.
  const aside = `${path}.${process.pid}.${Math.random().toString(36).slice(2)}`;
  try {
    await rename(path, aside);
  } catch {
    return false;
  }
  if ((await readFile(aside, 'utf8')) !== stale) await link(aside, path).catch(() => {});
  await unlink(aside);
  return false;
}

/** Text of a lock whose owner is gone; `undefined` for one that is held, or gone itself. */
async function readStale(path: string): Promise<string | undefined> {
  try {
    const { mtimeMs } = await stat(path);
    const text = await readFile(path, 'utf8');
    return Date.now() - mtimeMs > STALE_MS || isDead(text) ? text : undefined;
  } catch {
    return undefined;
  }
}

function isDead(text: string): boolean {
  try {
    const owner = JSON.parse(text) as { pid: number; host: string };
    if (owner.host !== hostname()) return false;
    process.kill(owner.pid, 0);
    return false;
  } catch (error) {
    // Text without an owner is a lock being written; EPERM is a process of someone else.
    return isCode(error, 'ESRCH');
  }
}
