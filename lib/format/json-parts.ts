/**
 * JSON whose lists or objects are large: a vocabulary of 262,144 tokens. They are cut out of the text and parsed piece by
 * piece when they are walked through, so that nothing of their size is ever made at once.
 */
import { every, type Work } from '../slices.js';

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const COMMA = 0x2c;
const COLON = 0x3a;
const LIST = 0x5b;
const isOpening = (byte: number) => byte === LIST || byte === 0x7b;
const isClosing = (byte: number) => byte === 0x5d || byte === 0x7d;
/** Bytes of a piece, and of what is small enough to be parsed with the rest. */
const PIECE = 1 << 14;
const SMALL = 1 << 16;

/** A list or object that is still text. */
export class JsonPart {
  readonly isList: boolean;
  readonly #text: Buffer;
  readonly #start: number;
  readonly #end: number;
  readonly #fail: () => Error;

  /** Bytes `start` to `end` of `text`, brackets included; `fail` makes the error of what is no JSON. */
  constructor(text: Buffer, start: number, end: number, fail: () => Error) {
    this.isList = text[start] === LIST;
    this.#text = text;
    this.#start = start;
    this.#end = end;
    this.#fail = fail;
  }

  /** Consecutive lists (objects) that together are this one. */
  *pieces(): Generator<unknown, void, void> {
    const text = this.#text;
    const last = this.#end - 1;
    let start = this.#start + 1;
    let depth = 0;
    for (let at = start; at <= last; at++) {
      const byte = text[at]!;
      if (byte === QUOTE) at = endOfString(text, at);
      else if (isOpening(byte)) depth++;
      else if (at < last && isClosing(byte)) depth--;
      else if (at === last || (byte === COMMA && depth === 0 && at - start >= PIECE)) {
        yield this.#parse(start, at, start > this.#start + 1 || at < last);
        start = at + 1;
      }
    }
  }

  #parse(start: number, end: number, mustHaveSome: boolean): unknown {
    const text = this.#text.toString('utf8', start, end);
    try {
      // A comma with nothing beside it would go unnoticed.
      if (mustHaveSome && text.trim() === '') throw new SyntaxError('expected a value');
      return JSON.parse(this.isList ? `[${text}]` : `{${text}}`) as unknown;
    } catch {
      throw this.#fail();
    }
  }
}

/** The entries of a list, whichever form it has. */
export function* eachOf(
  list: readonly unknown[] | JsonPart,
  take: (value: unknown, index: number) => void,
): Work<void> {
  let index = 0;
  if (list instanceof JsonPart) {
    for (const piece of list.pieces()) {
      for (const value of piece as unknown[]) take(value, index++);
      yield;
    }
    return;
  }
  const due = every(1024);
  for (const value of list) {
    take(value, index++);
    if (due()) yield;
  }
}

/** The entries of an object, whichever form it has. A key that is there twice may come twice; the later one counts. */
export function* eachEntry(
  object: Readonly<Record<string, unknown>> | JsonPart,
  take: (key: string, value: unknown) => void,
): Work<void> {
  const objects = object instanceof JsonPart ? object.pieces() : [object];
  const due = every(1024);
  for (const one of objects as Iterable<Record<string, unknown>>) {
    for (const key of Object.keys(one)) {
      take(key, one[key]);
      if (due()) yield;
    }
    yield;
  }
}

/** Where one of the wanted values lies. */
interface Span {
  path: readonly string[];
  start: number;
  end: number;
}

/**
 * Parses `text`. Values at `paths` (keys from the top) that are lists or objects of more than 64 KiB become a `JsonPart`.
 * `fail` makes the error of what is no JSON from what `JSON.parse` says of the whole.
 */
export function* parseInParts(
  text: Buffer,
  paths: readonly (readonly string[])[],
  fail: (error: unknown) => Error,
): Work<unknown> {
  const whole = (): Error => {
    try {
      JSON.parse(text.toString('utf8'));
      return fail(new SyntaxError('it cannot be read in parts'));
    } catch (error) {
      return fail(error);
    }
  };
  if (text.length <= SMALL) {
    try {
      return JSON.parse(text.toString('utf8')) as unknown;
    } catch (error) {
      throw fail(error);
    }
  }
  const spans = yield* findSpans(text, paths);
  const rest: Buffer[] = [];
  let reached = 0;
  for (const { start, end } of spans) {
    rest.push(text.subarray(reached, start), Buffer.from('null'));
    reached = end;
  }
  rest.push(text.subarray(reached));
  let value: unknown;
  try {
    value = JSON.parse(Buffer.concat(rest).toString('utf8'));
  } catch {
    throw whole();
  }
  for (const { path, start, end } of spans) {
    const within = path
      .slice(0, -1)
      .reduce<unknown>((at, key) => (isObject(at) ? at[key] : undefined), value);
    // Of two values under one key the later counts; where that is a small one, it is there.
    if (isObject(within) && within[path.at(-1)!] === null)
      within[path.at(-1)!] = new JsonPart(text, start, end, whole);
  }
  return value;
}

/** In their order; of two values at one path the later counts, as in `JSON.parse`. */
function* findSpans(text: Buffer, paths: readonly (readonly string[])[]): Work<Span[]> {
  const deepest = Math.max(...paths.map((path) => path.length));
  const spans: Span[] = [];
  /** The key at every depth, and where the string before a colon began. */
  const keys: string[] = [];
  let lastString = 0;
  let lastEnd = 0;
  let depth = 0;
  let open: { path: readonly string[]; start: number; depth: number } | undefined;
  const due = every(1 << 15);
  for (let at = 0; at < text.length; at++) {
    const byte = text[at]!;
    if (byte === QUOTE) {
      lastString = at;
      at = endOfString(text, at);
      lastEnd = at + 1;
    } else if (byte === COLON && depth >= 1 && depth <= deepest) {
      keys.length = depth;
      keys[depth - 1] = keyOf(text.toString('utf8', lastString, lastEnd));
    } else if (isOpening(byte)) {
      if (open === undefined && depth >= 1 && keys.length === depth) {
        const path = paths.find(
          (wanted) => wanted.length === depth && wanted.every((key, i) => key === keys[i]),
        );
        if (path) open = { path, start: at, depth };
      }
      depth++;
      // Values of a list have no keys.
      if (depth <= deepest) keys.length = Math.min(keys.length, depth - 1);
    } else if (isClosing(byte)) {
      // Not JSON: what reads the rest will say so.
      if (--depth < 0) return [];
      if (open !== undefined && depth === open.depth) {
        const { path, start } = open;
        const isMatched = byte - text[start]! === 2;
        if (isMatched && at + 1 - start > SMALL) spans.push({ path, start, end: at + 1 });
        open = undefined;
      }
    }
    if (due()) yield;
  }
  return spans.filter(({ path }, i) => !spans.some((other, j) => j > i && other.path === path));
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null;
}

function keyOf(text: string): string {
  try {
    return String(JSON.parse(text));
  } catch {
    return '';
  }
}

/** Where the string that begins at `start` ends: at its closing quote, or with the text. */
function endOfString(text: Buffer, start: number): number {
  let at = start + 1;
  for (; at < text.length && text[at] !== QUOTE; at++) if (text[at] === BACKSLASH) at++;
  return at;
}
