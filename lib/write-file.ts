import { dirname } from 'node:path';
import { makeError } from './errors.js';
import { realDisk, syncFolder, writeSynced } from './run/disk.js';

/**
 * Writes a whole file or nothing: temporary name in the same folder, fsync, rename, fsync of the folder. An earlier file
 * stays as it was when this fails. Errors: `WorkError` (`IO`).
 */
export async function writeAtomically(path: string, text: string): Promise<void> {
  const temporary = `${path}.${process.pid}.tmp`;
  try {
    await writeSynced(realDisk, temporary, text);
    await realDisk.rename(temporary, path);
    await syncFolder(realDisk, dirname(path));
  } catch (error) {
    await realDisk.rm(temporary, { force: true }).catch(() => {});
    throw makeError('IO', `cannot write ${path}: ${(error as Error).message}`, error);
  }
}
