import { native } from './binding.js';
import { makeError } from './errors.js';
import type { Fork } from './fork.js';
import type { Model } from './model.js';
import { type CallOptions, runJob } from './native-job.js';
import { ForkTable, splitBy, type TokenInput, toRagged, toTokens } from './rows.js';

export interface ScoreRow {
  fork: Fork | Model;
  tokens: TokenInput;
}

export interface ScoreOptions extends CallOptions {
  /** Log-probs are of softmax(logits / temperature). */
  temperature?: number;
  /** Most tokens of one forward pass; chosen when absent. Does not change results. */
  maxBatchTokens?: number;
}

/**
 * Natural log of the probability of each token given the ones before it in its row, float32, one array a row; the first
 * entry is NaN. Rows may belong to different forks of one model. Progress counts tokens.
 * Errors: `InputError` (empty row, token outside the vocabulary, row beyond the context), `ClosedError`.
 */
export async function score(rows: readonly ScoreRow[], options: ScoreOptions = {}): Promise<Float32Array[]> {
  const first = rows[0];
  if (!first) return [];
  const { temperature = 1, maxBatchTokens = 0 } = options;
  if (!(temperature > 0)) {
    throw makeError('OPTION_INVALID', `temperature is ${temperature}; score needs one above 0`);
  }
  const table = new ForkTable(first.fork);
  const rowFork = Int32Array.from(rows, ({ fork }, r) => table.indexOf(fork, `row ${r}`));
  const ragged = toRagged(rows.map(({ tokens }, r) => toTokens(table.model, tokens, `row ${r}`)));
  const spec = { ...ragged, forks: table.natives, rowFork, temperature, maxBatchTokens };
  const flat = await runJob((onProgress) => native().score(spec, onProgress), options, table.resources);
  return splitBy(flat, ragged.offsets);
}
