/** Rows of JavaScript callers as the ragged batches that the addon takes. */
import type { NativeFork } from './binding.js';
import { makeError } from './errors.js';
import { Fork } from './fork.js';
import { Model } from './model.js';

/** Text (encoded with the tokenizer's own special tokens) or token ids, used as they are. */
export type TokenInput = string | readonly number[] | Int32Array;

/** @internal Token ids of an input. `what` names it in errors. */
export function toTokens(model: Model, input: TokenInput, what: string): Int32Array {
  if (typeof input !== 'string' && !Array.isArray(input) && !ArrayBuffer.isView(input)) {
    throw makeError('INPUT_INVALID', `${what} is ${typeof input}; expected text or token ids`);
  }
  const tokens = typeof input === 'string' ? model.tokenizer.encode(input) : input;
  if (tokens.length === 0) throw makeError('PROMPT_EMPTY', `${what} has no tokens; expected at least one`);
  if (tokens instanceof Int32Array) return tokens;
  for (const [index, token] of tokens.entries()) {
    if (!Number.isInteger(token) || token < 0 || token > 0x7fffffff) {
      throw makeError('TOKEN_RANGE', `${what}, position ${index}: ${token} is not a token id`);
    }
  }
  return Int32Array.from(tokens);
}

/** @internal Rows end to end. */
export function toRagged(rows: readonly Int32Array[]): { tokens: Int32Array; offsets: Int32Array } {
  const offsets = new Int32Array(rows.length + 1);
  for (const [index, row] of rows.entries()) offsets[index + 1] = offsets[index]! + row.length;
  const tokens = new Int32Array(offsets[rows.length]!);
  for (const [index, row] of rows.entries()) tokens.set(row, offsets[index]);
  return { tokens, offsets };
}

/** @internal Splits a flat result by offsets; the parts are copies. */
export function splitBy<A extends Float32Array | Int32Array>(values: A, offsets: Int32Array): A[] {
  return Array.from({ length: offsets.length - 1 }, (_, r) => values.slice(offsets[r], offsets[r + 1]) as A);
}

/** @internal Splits a flat result into `count` rows of equal length. */
export function splitEvenly(flat: Float32Array, count: number): Float32Array[] {
  const size = flat.length / count;
  return splitBy(
    flat,
    Int32Array.from({ length: count + 1 }, (_, index) => index * size),
  );
}

/** @internal Rows end to end. */
export function joinFloats(rows: readonly Float32Array[]): Float32Array {
  const joined = new Float32Array(rows.reduce((sum, row) => sum + row.length, 0));
  let offset = 0;
  for (const row of rows) {
    joined.set(row, offset);
    offset += row.length;
  }
  return joined;
}

/**
 * @internal The distinct forks of a call and each row's index among them. A `Model` stands for an unedited fork of
 * itself.
 */
export class ForkTable {
  readonly natives: NativeFork[] = [];
  readonly resources: (Fork | Model)[] = [];
  readonly model: Model;
  readonly #index = new Map<Fork | Model, number>();

  constructor(first: Fork | Model) {
    // A first one that is neither is refused by indexOf.
    this.model = first instanceof Model ? first : first?.model;
  }

  /** Index of a fork, which must be of the same model as all others. */
  indexOf(fork: Fork | Model, what: string): number {
    const known = this.#index.get(fork);
    if (known !== undefined) return known;
    if (!(fork instanceof Fork) && !(fork instanceof Model)) {
      throw makeError('INPUT_INVALID', `${what}: expected a Fork or a Model`);
    }
    fork.assertOpen();
    const model = fork instanceof Model ? fork : fork.model;
    if (model !== this.model) {
      throw makeError('INPUT_INVALID', `${what} belongs to another model; all rows of a call share one`);
    }
    const index = this.natives.length;
    this.natives.push(fork instanceof Model ? fork.base : fork.handle);
    this.resources.push(fork);
    this.#index.set(fork, index);
    return index;
  }
}
