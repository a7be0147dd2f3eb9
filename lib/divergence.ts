import { native } from './binding.js';
import type { Fork } from './fork.js';
import type { Model } from './model.js';
import { type CallOptions, runJob } from './native-job.js';
import { ForkTable, splitBy, type TokenInput, toRagged, toTokens } from './rows.js';

export interface DivergenceRow {
  fork: Fork | Model;
  reference: Fork | Model;
  tokens: TokenInput;
}

/**
 * KL(p_fork ‖ p_reference) over the whole vocabulary at every position of every row, in nats. The exact divergence of
 * the next-token distributions, not an estimate from samples. Errors as `score`.
 */
export async function divergence(
  rows: readonly DivergenceRow[],
  options: CallOptions & { maxBatchTokens?: number } = {},
): Promise<Float32Array[]> {
  const first = rows[0];
  if (!first) return [];
  const table = new ForkTable(first.fork);
  const rowFork = Int32Array.from(rows, ({ fork }, r) => table.indexOf(fork, `row ${r}`));
  const rowReference = Int32Array.from(rows, ({ reference }, r) => table.indexOf(reference, `row ${r}`));
  const ragged = toRagged(rows.map(({ tokens }, r) => toTokens(table.model, tokens, `row ${r}`)));
  const { maxBatchTokens = 0 } = options;
  const spec = { ...ragged, forks: table.natives, rowFork, rowReference, maxBatchTokens };
  const flat = await runJob((onProgress) => native().divergence(spec, onProgress), options, table.resources);
  return splitBy(flat, ragged.offsets);
}
