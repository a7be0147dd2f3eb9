/** JSONL from a file or standard input, read as it comes, and collected into batches. */
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import type { Readable } from 'node:stream';
import { makeError } from '../errors.js';
import type { Session } from './session.js';

/** One line that is not blank. */
export interface InputLine {
  /** What errors call it, for example `edits.jsonl line 3`. */
  readonly where: string;
  /** Its index among the lines that are not blank, from 0. */
  readonly index: number;
  /** The object it holds. */
  readonly fields: Readonly<Record<string, unknown>>;
}

/** No honest line is longer; a binary file might be. */
const LONGEST_LINE = 64 * 2 ** 20;
/** A batch is not held back for longer than this when its next line is late (milliseconds). */
const IDLE_MS = 100;

/** Whether the input is a file that can be read twice. Errors: `FILE_NOT_FOUND`, `INPUT_INVALID`, `IO`. */
export async function isRegularFile(input: string | undefined): Promise<boolean> {
  if (input === undefined || input === '-') return false;
  try {
    const facts = await stat(input);
    if (facts.isDirectory()) throw Object.assign(new Error('it is a folder'), { code: 'EISDIR' });
    return facts.isFile();
  } catch (error) {
    throw readError(input, error);
  }
}

/** Number of lines that are not blank in a file that can be read twice, else undefined. */
export async function countLines(input: string | undefined, session: Session): Promise<number | undefined> {
  if (!(await isRegularFile(input))) return undefined;
  let count = 0;
  for await (const { text } of rawLines(openInput(input, session), nameOf(input), session)) {
    if (text.trim() !== '') count++;
  }
  return count;
}

/**
 * The lines of `input`, or of standard input when it is undefined or `-`. Blank lines are left out.
 * Errors: `FILE_NOT_FOUND`, `IO`, `INPUT_INVALID` naming the line, `ABORTED`.
 */
export async function* readLines(
  input: string | undefined,
  session: Session,
): AsyncGenerator<InputLine, void> {
  const name = nameOf(input);
  let index = 0;
  for await (const { text, number } of rawLines(openInput(input, session), name, session)) {
    if (text.trim() === '') continue;
    const where = `${name} line ${number}`;
    yield { where, index, fields: parseObject(text, where) };
    index++;
  }
}

function nameOf(input: string | undefined): string {
  return input === undefined || input === '-' ? 'standard input' : input;
}

function openInput(input: string | undefined, session: Session): Readable {
  if (input !== undefined && input !== '-') return createReadStream(input);
  if (process.stdin.isTTY) session.note('Reading JSONL from the terminal; Ctrl+D ends it.');
  return process.stdin;
}

async function* rawLines(
  stream: Readable,
  name: string,
  session: Session,
): AsyncGenerator<{ text: string; number: number }, void> {
  const stop = () => stream.destroy();
  session.signal.addEventListener('abort', stop, { once: true });
  const decoder = new TextDecoder('utf-8', { fatal: true });
  let number = 0;
  // Parts of the line that has not ended yet; joined once, so that a long line costs its length.
  let parts: Buffer[] = [];
  let size = 0;
  const take = () => {
    number++;
    const bytes = parts.length === 1 ? parts[0]! : Buffer.concat(parts);
    parts = [];
    size = 0;
    try {
      return { text: decoder.decode(bytes), number };
    } catch (error) {
      throw makeError('INPUT_INVALID', `${name} line ${number} is not UTF-8; expected a JSON object`, error);
    }
  };
  try {
    session.throwIfAborted();
    for await (const chunk of stream as AsyncIterable<Buffer>) {
      for (let start = 0; start < chunk.length; ) {
        const newline = chunk.indexOf(0x0a, start);
        const end = newline < 0 ? chunk.length : newline;
        parts.push(chunk.subarray(start, end));
        size += end - start;
        if (size > LONGEST_LINE) {
          throw makeError('INPUT_INVALID', `${name} line ${number + 1} is longer than ${LONGEST_LINE} bytes`);
        }
        if (newline >= 0) yield take();
        start = end + 1;
      }
    }
    session.throwIfAborted();
    if (size > 0) yield take();
  } catch (error) {
    session.throwIfAborted();
    throw readError(name, error);
  } finally {
    session.signal.removeEventListener('abort', stop);
    if (stream !== process.stdin) stream.destroy();
  }
}

function readError(name: string, error: unknown): unknown {
  const { code, message } = error as NodeJS.ErrnoException;
  switch (code) {
    case 'ENOENT':
    case 'ENOTDIR':
      return makeError(
        'FILE_NOT_FOUND',
        `there is no file ${name}; expected one with a JSON object a line`,
        error,
      );
    case 'EISDIR':
      return makeError(
        'INPUT_INVALID',
        `${name} is a folder; expected a file with a JSON object a line`,
        error,
      );
    case 'EACCES':
    case 'EPERM':
    case 'EIO':
      return makeError('IO', `cannot read ${name}: ${message}`, error);
    default:
      return error;
  }
}

function parseObject(text: string, where: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(text) as unknown;
  } catch (error) {
    throw makeError(
      'INPUT_INVALID',
      `${where} is not JSON (${(error as Error).message}); expected one JSON object a line`,
      error,
    );
  }
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) {
    return value as Record<string, unknown>;
  }
  const found = value === null ? 'null' : Array.isArray(value) ? 'an array' : `a ${typeof value}`;
  throw makeError('INPUT_INVALID', `${where} is ${found}; expected one JSON object a line`);
}

/**
 * Collects up to `size` items. A batch that has begun is given out when the next item is late, so that a program which
 * writes a line and waits for its answer is answered; and when the source fails, before its error is thrown.
 */
export async function* batches<T>(source: AsyncIterable<T>, size: number): AsyncGenerator<T[], void> {
  const iterator = source[Symbol.asyncIterator]();
  let batch: T[] = [];
  let failure: { error: unknown } | undefined;
  let next = iterator.next();
  try {
    for (;;) {
      let result: IteratorResult<T, unknown> | 'late';
      try {
        result = batch.length > 0 ? await orLate(next) : await next;
      } catch (error) {
        failure = { error };
        break;
      }
      if (result !== 'late') {
        if (result.done) break;
        batch.push(result.value);
        next = iterator.next();
        if (batch.length < size) continue;
      }
      // The next line is being read meanwhile; should that fail, it is seen when it is awaited.
      next.catch(() => {});
      const full = batch;
      batch = [];
      yield full;
    }
    if (batch.length > 0) yield batch;
    if (failure) throw failure.error;
  } finally {
    next.catch(() => {});
    // Not awaited: it queues behind a line that may never come.
    iterator.return?.().catch(() => {});
  }
}

async function orLate<T>(next: Promise<T>): Promise<T | 'late'> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<'late'>((resolve) => {
    timer = setTimeout(() => resolve('late'), IDLE_MS);
  });
  return Promise.race([next, late]).finally(() => clearTimeout(timer));
}
