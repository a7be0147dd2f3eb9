/** Reading JSON that a user wrote: what is wrong is named by its place, what was found and what is expected. */
import { readFile } from 'node:fs/promises';
import { makeError } from '../errors.js';

/** The bytes of a file. Throws `FILE_NOT_FOUND`, or `IO`. */
export async function readBytes(path: string): Promise<Buffer> {
  try {
    return await readFile(path);
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    const missing = code === 'ENOENT';
    throw makeError(
      missing ? 'FILE_NOT_FOUND' : 'IO',
      `${path}: ${missing ? 'no such file' : message}`,
      cause,
    );
  }
}

/** The text of a file in UTF-8. Throws `FILE_NOT_FOUND`, or `IO`. */
export async function readText(path: string): Promise<string> {
  return (await readBytes(path)).toString('utf8');
}

/** The value of a JSON text; `where` is what errors call it. Throws `INPUT_INVALID` with the line. */
export function parseJson(source: string, where: string): unknown {
  try {
    return JSON.parse(source);
  } catch (cause) {
    const { message } = cause as Error;
    const position = /at position (\d+)/.exec(message)?.[1];
    const line =
      position === undefined ? '' : ` line ${source.slice(0, Number(position)).split('\n').length}`;
    const place = where.includes(' line ') ? where : where + line;
    throw invalid(place, `is not JSON (${message})`, 'valid JSON', cause);
  }
}

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

export function asObject(value: unknown, where: string): Record<string, unknown> {
  if (isObject(value)) return value;
  throw invalid(where, `is ${kindOf(value)}`, 'an object');
}

export function asList(value: unknown, where: string): unknown[] {
  if (Array.isArray(value)) return value;
  throw invalid(where, `is ${kindOf(value)}`, 'an array');
}

export function asString(value: unknown, where: string): string {
  if (typeof value === 'string') return value;
  throw invalid(where, `is ${kindOf(value)}`, 'a string');
}

/** A string with something in it. */
export function asText(value: unknown, where: string): string {
  const text = asString(value, where);
  if (text.trim() !== '') return text;
  throw invalid(where, 'is empty', 'a string that is not empty');
}

/** What a value is, in words. */
export function kindOf(value: unknown): string {
  if (value === undefined) return 'missing';
  if (value === null) return 'null';
  return Array.isArray(value) ? 'an array' : `${/^[aeiou]/.test(typeof value) ? 'an' : 'a'} ${typeof value}`;
}

export function invalid(where: string, found: string, expected: string, cause?: unknown): Error {
  return makeError('INPUT_INVALID', `${where} ${found}; expected ${expected}`, cause);
}
