/** Code of the user's own that a configuration names. */
import { pathToFileURL } from 'node:url';
import { makeError } from '../errors.js';

/**
 * The function that a module exports under `key`. `what` is what errors call it. Throws `FILE_NOT_FOUND`, or `INPUT_INVALID`
 * for a module that cannot be loaded or exports something else.
 */
export async function loadFunction(
  what: string,
  module: string,
  key: string,
): Promise<(...args: never[]) => unknown> {
  let found: Record<string, unknown>;
  try {
    found = (await import(pathToFileURL(module).href)) as Record<string, unknown>;
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    throw makeError(
      code === 'ERR_MODULE_NOT_FOUND' ? 'FILE_NOT_FOUND' : 'INPUT_INVALID',
      `${what}: ${module} cannot be loaded (${message.split('\n')[0]})`,
      cause,
    );
  }
  const value = found[key];
  if (typeof value === 'function') return value as (...args: never[]) => unknown;
  throw makeError(
    'INPUT_INVALID',
    `${what}: ${module} exports ${typeof value} as "${key}"; expected a function`,
  );
}
