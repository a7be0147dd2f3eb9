import { open, rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { makeError } from './errors.js';

/**
 * Writes a whole file or nothing: temporary name in the same folder, fsync, rename, fsync of the folder. An earlier file
 * stays as it was when this fails. Errors: `WorkError` (`IO`).
 */
export async function writeAtomically(path: string, text: string): Promise<void> {
  const temporary = `${path}.${process.pid}.tmp`;
  try {
    const file = await open(temporary, 'w');
    try {
      await file.writeFile(text);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
    const folder = await open(dirname(path), 'r');
    try {
      await folder.sync();
    } finally {
      await folder.close();
    }
  } catch (error) {
    await rm(temporary, { force: true }).catch(() => {});
    throw makeError('IO', `cannot write ${path}: ${(error as Error).message}`, error);
  }
}
