/**
 * `preferences.jsonl`: what people chose, a JSON object a line, appended only. Version 1:
 * `{"version": 1, "kind": "pair", "context", "a", "b", "choice": "a" | "b" | "tie"}`, `a` being the edit shown first, and
 * `{"version": 1, "kind": "rating", "context", "edit", "rating": 1 … 5}`. `context` is the id of a context of the run, `a`, `b` and
 * `edit` are the texts of edits. Other keys are left alone.
 */
import { makeError } from '../errors.js';
import { type Disk, ioError, realDisk } from '../run/disk.js';

/** A choice between two edits of one context; `a` was shown first. */
export interface PairChoice {
  readonly version: 1;
  readonly kind: 'pair';
  readonly context: string;
  readonly a: string;
  readonly b: string;
  readonly choice: 'a' | 'b' | 'tie';
}

/** A rating of one edit, 1 (bad) to 5 (good). */
export interface EditRating {
  readonly version: 1;
  readonly kind: 'rating';
  readonly context: string;
  readonly edit: string;
  readonly rating: number;
}

export type Preference = PairChoice | EditRating;

/** Records of a file. A last line that a kill cut short is left out. Errors: `FILE_NOT_FOUND`, `IO`, and as `parsePreferences`. */
export async function readPreferences(path: string): Promise<Preference[]> {
  const bytes = await realDisk.readFile(path).catch((cause: NodeJS.ErrnoException) => {
    if (cause.code !== 'ENOENT') throw ioError(`reading ${path}`, cause);
    throw makeError(
      'FILE_NOT_FOUND',
      `${path}: no such file; expected preferences, a JSON object a line`,
      cause,
    );
  });
  return parsePreferences(bytes.toString('utf8'), path);
}

/** Records of the text of a file; `name` is what errors call it. Throws `INPUT_INVALID` naming the line. */
export function parsePreferences(text: string, name: string): Preference[] {
  const lines = text.replace(/^\ufeff/, '').split('\n');
  return lines.flatMap((line, index) => {
    if (line.trim() === '') return [];
    const where = `${name} line ${index + 1}`;
    let value: unknown;
    try {
      value = JSON.parse(line);
    } catch (cause) {
      if (index === lines.length - 1) return [];
      throw invalid(where, `is not JSON (${(cause as Error).message})`, 'one JSON object a line', cause);
    }
    return [recordOf(value, where)];
  });
}

function recordOf(value: unknown, where: string): Preference {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw invalid(where, 'is no JSON object', 'one JSON object a line');
  }
  const fields = value as Record<string, unknown>;
  const found = (key: string) => `: "${key}" is ${JSON.stringify(fields[key]) ?? 'missing'}`;
  const textOf = (key: string): string => {
    const text = fields[key];
    if (typeof text === 'string') return text;
    throw invalid(where, found(key), 'a string');
  };
  if (fields.version !== 1) throw invalid(where, found('version'), '1');
  const context = textOf('context');
  if (fields.kind === 'pair') {
    const { choice } = fields;
    if (choice !== 'a' && choice !== 'b' && choice !== 'tie') {
      throw invalid(where, found('choice'), '"a", "b" or "tie"');
    }
    const pair = { version: 1, kind: 'pair', context, a: textOf('a'), b: textOf('b'), choice } as const;
    if (pair.a === pair.b) throw invalid(where, ' compares an edit with itself', 'two edits');
    return pair;
  }
  if (fields.kind !== 'rating') throw invalid(where, found('kind'), '"pair" or "rating"');
  const { rating } = fields;
  if (typeof rating !== 'number' || !(rating >= 1 && rating <= 5)) {
    throw invalid(where, found('rating'), 'a number from 1 to 5');
  }
  return { version: 1, kind: 'rating', context, edit: textOf('edit'), rating };
}

function invalid(where: string, found: string, expected: string, cause?: unknown): Error {
  const space = /^[: ]/.test(found) ? '' : ' ';
  return makeError('INPUT_INVALID', `${where}${space}${found}; expected ${expected}`, cause);
}

/**
 * Records of a file that will be appended to: none where there is no file yet. A last line without an end gets one when it is
 * whole, and is cut off when a kill cut it short, so that the next record begins a line; without `repair` the file stays as it is.
 * Errors: as `readPreferences`.
 */
export async function resumePreferences(
  disk: Disk,
  path: string,
  { repair = true } = {},
): Promise<Preference[]> {
  try {
    const bytes = await disk.readFile(path).catch((cause: NodeJS.ErrnoException) => {
      if (cause.code === 'ENOENT') return Buffer.alloc(0);
      throw cause;
    });
    const end = bytes.lastIndexOf(10) + 1;
    const whole = isJson(bytes.toString('utf8', end));
    const records = parsePreferences(bytes.toString('utf8', 0, whole ? bytes.length : end), path);
    if (repair && whole) await append(disk, path, '\n');
    else if (repair && end < bytes.length) await disk.truncate(path, end);
    return records;
  } catch (cause) {
    throw ioError(`reading ${path}`, cause);
  }
}

/** Appends a record and waits until it is on disk. Throws `IO`. */
export async function appendPreference(disk: Disk, path: string, record: Preference): Promise<void> {
  try {
    await append(disk, path, `${JSON.stringify(record)}\n`);
  } catch (cause) {
    throw ioError(`appending to ${path}`, cause);
  }
}

async function append(disk: Disk, path: string, text: string): Promise<void> {
  const file = await disk.open(path, 'a');
  try {
    await file.writeFile(text);
    await file.sync();
  } finally {
    await file.close();
  }
}

function isJson(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}
