/** The file operations of a run folder: everything is on disk when a call returns, or the file is as it was. */
import * as fs from 'node:fs/promises';
import { dirname } from 'node:path';
import { makeError, SelfeditError } from '../errors.js';

/** What a run needs of a file system; node's by default, another one in tests. */
export type Disk = Pick<
  typeof fs,
  'mkdir' | 'open' | 'readdir' | 'readFile' | 'rename' | 'rm' | 'stat' | 'truncate'
>;

export const realDisk: Disk = fs;

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
export async function writeSynced(disk: Disk, path: string, text: string): Promise<void> {
  const file = await disk.open(path, 'w');
  try {
    await file.writeFile(text);
    await file.sync();
  } finally {
    await file.close();
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

/** Whether a path exists. */
export async function exists(disk: Disk, path: string): Promise<boolean> {
  return disk.stat(path).then(
    () => true,
    () => false,
  );
}
