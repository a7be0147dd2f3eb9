/** Folders that appear under their name whole, or not at all. */
import { rmSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, rename, rm } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { makeError, SelfeditError } from '../errors.js';
import { isCode, messageOf } from '../format/json.js';
import { realDisk, syncFolder } from '../run/disk.js';

/** Runs something should the process end before the returned function is called. */
export type OnExit = (cleanup: () => void) => () => void;

/**
 * `write` fills a new folder beside `path`, which then takes its name. Errors: `INPUT_INVALID` when there is anything at
 * `path` but an empty folder; `IO`; those of `write`.
 */
export async function writeWholeFolder(
  path: string,
  write: (folder: string) => Promise<void>,
  onExit?: OnExit,
): Promise<void> {
  const target = resolve(path);
  await refuseOccupied(path);
  let work: string | undefined;
  let forget: (() => void) | undefined;
  try {
    await mkdir(dirname(target), { recursive: true });
    const made = await mkdtemp(join(dirname(target), `.${basename(target)}.partial-`));
    work = made;
    forget = onExit?.(() => rmSync(made, { recursive: true, force: true }));
    const folder = join(made, 'out');
    await mkdir(folder);
    await write(folder);
    await syncFolder(realDisk, folder);
    // Onto an empty folder too; onto one that has got contents meanwhile it fails.
    await rename(folder, target);
    await syncFolder(realDisk, dirname(target));
  } catch (error) {
    if (error instanceof SelfeditError) throw error;
    throw makeError('IO', `cannot write ${path}: ${messageOf(error)}`, error);
  } finally {
    forget?.();
    if (work !== undefined) await rm(work, { recursive: true, force: true });
  }
}

/** Errors: `INPUT_INVALID` when there is anything at `path` but an empty folder; `IO`. */
export async function refuseOccupied(path: string): Promise<void> {
  try {
    if ((await readdir(path)).length === 0) return;
  } catch (error) {
    if (isCode(error, 'ENOENT')) return;
    if (!isCode(error, 'ENOTDIR')) {
      throw makeError('IO', `cannot write to ${path}: ${messageOf(error)}`, error);
    }
  }
  throw makeError('INPUT_INVALID', `${path} is not empty; expected a new or empty folder`);
}
