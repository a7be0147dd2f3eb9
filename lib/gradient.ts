import { native } from './binding.js';
import { Delta } from './delta.js';
import { makeError } from './errors.js';
import type { Fork } from './fork.js';
import { type CallOptions, runJob } from './native-job.js';
import { ForkTable, splitBy, type TokenInput, toRagged, toTokens } from './rows.js';

export interface GradientRow {
  /** Holds the delta that is differentiated. */
  fork: Fork;
  tokens: TokenInput;
  /**
   * dLoss / dlogprob of each token; the first is not used. By default −1 / (tokens − 1): the loss is the row's mean
   * negative log-likelihood.
   */
  weights?: Float32Array;
}

export interface GradientOptions extends CallOptions {
  /** Which delta of each fork's list, 0 the first applied; the last one by default. */
  depth?: number;
  /** Log-probs are of softmax(logits / temperature). */
  temperature?: number;
  maxBatchTokens?: number;
}

export interface Gradient {
  fork: Fork;
  /** Parts like the delta's, with gradients in the place of the values. */
  gradient: Delta;
}

/**
 * Gradient of a loss of edited models, Σ weights[t] · logprob[t] over a fork's rows, with respect to the values of one of
 * the fork's deltas, through the whole model; one gradient for each distinct fork, in the order of first appearance.
 * Works for every kind of delta. Also gives the log-probs, as `score` does. Errors as `score`.
 */
export async function gradient(
  rows: readonly GradientRow[],
  options: GradientOptions = {},
): Promise<{ gradients: Gradient[]; logprobs: Float32Array[] }> {
  const first = rows[0];
  if (!first) return { gradients: [], logprobs: [] };
  const { depth, temperature = 1, maxBatchTokens = 0 } = options;
  const table = new ForkTable(first.fork);
  const { model } = table;
  const rowFork = Int32Array.from(rows, ({ fork }, r) => table.indexOf(fork, `row ${r}`));
  const ragged = toRagged(rows.map(({ tokens }, r) => toTokens(model, tokens, `row ${r}`)));
  const weights = new Float32Array(ragged.tokens.length);
  for (const [r, row] of rows.entries()) {
    const begin = ragged.offsets[r]!;
    const length = ragged.offsets[r + 1]! - begin;
    if (row.weights && row.weights.length !== length) {
      throw makeError('INPUT_INVALID', `row ${r} has ${row.weights.length} weights for ${length} tokens`);
    }
    if (row.weights) weights.set(row.weights, begin);
    else weights.fill(-1 / Math.max(1, length - 1), begin, begin + length);
  }
  const forks = table.resources as Fork[];
  const level = Int32Array.from(table.natives, (fork) => depth ?? fork.depth - 1);
  const spec = { ...ragged, forks: table.natives, rowFork, level, weights, temperature, maxBatchTokens };
  const result = await runJob((onProgress) => native().gradient(spec, onProgress), options, table.resources);
  return {
    gradients: result.gradients.map((handle, f) => ({ fork: forks[f]!, gradient: new Delta(model, handle) })),
    logprobs: splitBy(result.logprobs, ragged.offsets),
  };
}
