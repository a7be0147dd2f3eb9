/** Reading and checking the JSON files of a model: sizes first, then syntax, then the schema. */
import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { basename } from 'node:path';
import { z } from 'zod';
import { type ErrorCode, makeError } from '../errors.js';

const MEBIBYTE = 1024 * 1024;
/** Largest accepted sizes in bytes: small settings, and vocabularies. */
export const SETTINGS_LIMIT = 4 * MEBIBYTE;
export const VOCABULARY_LIMIT = 256 * MEBIBYTE;

const INTEGER = 'a positive integer below 2^31';
/** A size or number of things: what native code counts in 32 bits. */
export const count = z
  .int(INTEGER)
  .positive(INTEGER)
  .max(2 ** 31 - 1, INTEGER);
/** Far above any model's; lists of one entry a layer are made before the weights show that a file lies. */
const MOST_LAYERS = 10_000;
const LAYERS = `a positive integer of at most ${MOST_LAYERS}`;
export const layerCount = z.int(LAYERS).positive(LAYERS).max(MOST_LAYERS, LAYERS);
const POSITIVE = 'a positive number';
export const positive = z.number(POSITIVE).positive(POSITIVE);

/** `undefined` when there is no such file. Errors: `FILE_FORMAT` (too large, not a file), `IO`. */
export async function readTextIfPresent(path: string, limit = SETTINGS_LIMIT): Promise<string | undefined> {
  return (await readBytesIfPresent(path, limit))?.toString('utf8');
}

/** The same as bytes. */
export async function readBytesIfPresent(path: string, limit = SETTINGS_LIMIT): Promise<Buffer | undefined> {
  let file: Awaited<ReturnType<typeof open>>;
  try {
    // A pipe must not wait for its writer.
    file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (error) {
    if (isCode(error, 'ENOENT') || isCode(error, 'ENOTDIR')) return undefined;
    throw makeError('IO', `cannot read ${path}: ${messageOf(error)}`, error);
  }
  try {
    const facts = await file.stat();
    if (!facts.isFile()) throw makeError('FILE_FORMAT', `${path} is not a regular file`);
    if (facts.size > limit) {
      throw makeError('FILE_FORMAT', `${path} has ${facts.size} bytes, expected at most ${limit}`);
    }
    return await file.readFile();
  } finally {
    await file.close();
  }
}

/**
 * Parsed JSON, or `undefined` when there is no such file. Errors: as above, and `code` when it is not JSON.
 */
export async function readJsonIfPresent(
  path: string,
  limit = SETTINGS_LIMIT,
  code: ErrorCode = 'FILE_FORMAT',
): Promise<unknown> {
  const text = await readTextIfPresent(path, limit);
  if (text === undefined) return undefined;
  try {
    return JSON.parse(text) as unknown;
  } catch (error) {
    throw makeError(code, `${path} is not valid JSON: ${messageOf(error)}`, error);
  }
}

/**
 * `value` as the schema describes it. Each rule of a schema carries the words that complete "expected …",
 * so the error names the key (after `prefix`), what was found and what was expected.
 */
export function check<T extends z.ZodType>(
  schema: T,
  value: unknown,
  source: string,
  code: ErrorCode = 'CONFIG_INVALID',
  prefix = '',
): z.infer<T> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  if (issue === undefined) throw makeError(code, `${source} is not valid`, result.error);
  const key = prefix + issue.path.map(String).join('.');
  const found = issue.path.reduce<unknown>(
    (at, step) =>
      typeof at === 'object' && at !== null ? (at as Record<PropertyKey, unknown>)[step] : undefined,
    value,
  );
  throw makeError(
    code,
    `${describe(source, key)} is ${show(found)}, expected ${issue.message}`,
    result.error,
  );
}

/** `config.json: "hidden_size"`, or the source alone when the whole value is meant. */
export function describe(source: string, key: string): string {
  return key === '' ? source : `${source}: "${key}"`;
}

const MOST_SHOWN = 60;

/** A value for an error message: one short line, made in a time that does not depend on the value's size. */
export function show(value: unknown): string {
  if (value === undefined) return 'missing';
  const text = startOf(value, MOST_SHOWN + 1);
  return text.length > MOST_SHOWN ? `${text.slice(0, MOST_SHOWN - 3)}…` : text;
}

/** The first `room` characters, and perhaps more, of a value as JSON. Every level of nesting takes one of them. */
function startOf(value: unknown, room: number): string {
  if (typeof value === 'string') return JSON.stringify(value.slice(0, room));
  if (typeof value === 'bigint') return String(value);
  if (typeof value !== 'object' || value === null) return JSON.stringify(value) ?? String(value);
  const isList = Array.isArray(value);
  let text = isList ? '[' : '{';
  for (const key of isList ? value.keys() : Object.keys(value)) {
    if (text.length > 1) text += ',';
    if (text.length >= room) return text;
    if (!isList) text += `${startOf(key, room)}:`;
    text += startOf((value as Record<PropertyKey, unknown>)[key] ?? null, room - text.length);
  }
  return text + (isList ? ']' : '}');
}

export function isCode(error: unknown, code: string): boolean {
  return error instanceof Error && 'code' in error && error.code === code;
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** Last part of a path, for messages where the folder is already known. */
export function nameOf(path: string): string {
  return basename(path) || path;
}
