/** The file operations of a run folder: everything is on disk when a call returns, or the file is as it was. */
import { createHash } from 'node:crypto';
import * as fs from 'node:fs/promises';
import { dirname } from 'node:path';
import { makeError, SelfeditError } from '../errors.js';

/** What a run needs of a file system; node's by default, another one in tests. */
export type Disk = Pick<
  typeof fs,
  'link' | 'mkdir' | 'open' | 'readdir' | 'readFile' | 'rename' | 'rm' | 'stat' | 'truncate'
>;

/** A plain object, so that a test can make single calls of it fail. */
export const realDisk: Disk = { ...fs };

/** `IO` (or the typed error that `cause` already is), naming what was being done. */
export function ioError(doing: string, cause: unknown): SelfeditError {
  if (cause instanceof SelfeditError) return cause;
  const { code, message } = cause as NodeJS.ErrnoException;
  const reason = code === 'ENOSPC' ? 'no space left on the device' : message;
  return makeError('IO', `${doing}: ${reason}${code ? ` (${code})` : ''}`, cause);
}

/** Writes a file so that it is there whole or not at all: temporary name, fsync, rename, fsync of the folder. */
export async function writeAtomic(disk: Disk, path: string, text: string): Promise<void> {
  const temporary = `${path}.partial`;
  try {
    await writeSynced(disk, temporary, text);
    await disk.rename(temporary, path);
    await syncFolder(disk, dirname(path));
  } catch (cause) {
    await disk.rm(temporary, { force: true }).catch(() => {});
    throw ioError(`saving ${path}`, cause);
  }
}

/** Writes a file and waits until it is on disk. */
export async function writeSynced(disk: Disk, path: string, text: string, flags = 'w'): Promise<void> {
  const file = await disk.open(path, flags);
  try {
    await writeAll(file, Buffer.from(text));
    await file.sync();
  } finally {
    await file.close();
  }
}

/** Writes all bytes: a call may write fewer than it is given. */
export async function writeAll(file: Pick<fs.FileHandle, 'write'>, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    const { bytesWritten } = await file.write(bytes, done, bytes.length - done);
    if (bytesWritten === 0) throw new Error(`only ${done} of ${bytes.length} bytes could be written`);
    done += bytesWritten;
  }
}

/** Makes renames within a folder durable. */
export async function syncFolder(disk: Disk, path: string): Promise<void> {
  const folder = await disk.open(path, 'r');
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

/** Makes a folder and those above it, durably. Throws `IO`. */
export async function makeFolder(disk: Disk, path: string): Promise<void> {
  try {
    const first = await disk.mkdir(path, { recursive: true });
    if (first === undefined) return;
    for (let made = path; made.length >= first.length; made = dirname(made)) {
      await syncFolder(disk, dirname(made));
    }
  } catch (cause) {
    throw ioError(`making ${path}`, cause);
  }
}

/**
 * `write` fills a new folder, which then takes its name from an earlier one: there is a whole one at any time but between two
 * renames. Throws `IO`, and what `write` throws.
 */
export async function replaceFolder(
  disk: Disk,
  path: string,
  write: (path: string) => Promise<void>,
): Promise<void> {
  const [temporary, old] = [`${path}.partial`, `${path}.deleted`];
  try {
    for (const left of [temporary, old]) await disk.rm(left, { recursive: true, force: true });
    await write(temporary);
    await syncFolder(disk, temporary);
    if (await exists(disk, path)) await disk.rename(path, old);
    await disk.rename(temporary, path);
    await syncFolder(disk, dirname(path));
    await disk.rm(old, { recursive: true, force: true });
  } catch (cause) {
    throw ioError(`saving ${path}`, cause);
  }
}

/** Removes a file that may be there. Throws `IO`. */
export async function removeFile(disk: Disk, path: string): Promise<void> {
  await disk.rm(path, { force: true }).catch((cause: unknown) => {
    throw ioError(`removing ${path}`, cause);
  });
}

/** Size and SHA-256 of a file, read piece by piece. */
export async function fingerprint(disk: Disk, path: string): Promise<{ bytes: number; sha256: string }> {
  const hash = createHash('sha256');
  const buffer = Buffer.allocUnsafe(1 << 20);
  const file = await disk.open(path, 'r');
  try {
    for (let bytes = 0; ; ) {
      const { bytesRead } = await file.read(buffer, 0, buffer.length);
      if (bytesRead === 0) return { bytes, sha256: hash.digest('hex') };
      hash.update(buffer.subarray(0, bytesRead));
      bytes += bytesRead;
    }
  } finally {
    await file.close();
  }
}

/** Whether a path exists. */
export async function exists(disk: Disk, path: string): Promise<boolean> {
  return disk.stat(path).then(
    () => true,
    () => false,
  );
}
