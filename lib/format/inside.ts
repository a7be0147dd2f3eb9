/** Weight files that one file of a model names: they must lie in its folder, also after links are followed. */
import { realpath } from 'node:fs/promises';
import { basename, dirname, isAbsolute, join, relative, resolve, sep } from 'node:path';
import { makeError } from '../errors.js';
import { isCode, messageOf } from './json.js';

/**
 * Absolute path of a file in the folder. `namedBy` is what names it, for the message.
 * Errors: `FILE_UNSAFE`, `FILE_NOT_FOUND`, `IO`.
 */
export async function inside(
  folder: string,
  name: string,
  roots: readonly string[],
  namedBy = 'its index',
): Promise<string> {
  const path = resolve(folder, name);
  if (isAbsolute(name) || name.includes('\0') || name.includes('\\') || !isWithin(folder, path)) {
    throw makeError(
      'FILE_UNSAFE',
      `${folder}: weight file ${JSON.stringify(name)} lies outside of the model's folder`,
    );
  }
  let real: string;
  try {
    real = await realpath(path);
  } catch (error) {
    if (!isCode(error, 'ENOENT')) throw makeError('IO', `cannot read ${path}: ${messageOf(error)}`, error);
    throw makeError('FILE_NOT_FOUND', `${folder} lacks the weight file ${name} that ${namedBy} names`);
  }
  if (!roots.some((root) => isWithin(root, real))) {
    throw makeError('FILE_UNSAFE', `${path} is a link to ${real}, outside of the model's folder`);
  }
  return path;
}

/**
 * The folder itself; and for a snapshot in the hub's own cache, or a folder in one, the blobs beside the snapshots that their
 * links lead to.
 */
export async function allowedRoots(folder: string): Promise<string[]> {
  const root = await realpath(folder);
  for (let at = root; dirname(at) !== at; at = dirname(at)) {
    const repository = dirname(dirname(at));
    const isCached =
      basename(dirname(at)) === 'snapshots' && /^(models|datasets)--/.test(basename(repository));
    if (isCached) return [root, join(repository, 'blobs')];
  }
  return [root];
}

function isWithin(root: string, path: string): boolean {
  const way = relative(root, path);
  return way !== '' && way !== '..' && !way.startsWith(`..${sep}`) && !isAbsolute(way);
}
