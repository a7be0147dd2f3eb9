import { native } from './binding.js';
import { Delta } from './delta.js';
import { makeError } from './errors.js';
import type { Fork } from './fork.js';
import type { Model } from './model.js';
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
  /**
   * Adds klWeights[t] · KL(fork ‖ reference) over the whole vocabulary at the position of each token to the loss; the
   * reference is a constant. Such a row has no other term unless `weights` are given.
   */
  reference?: Fork | Model;
  /** dLoss / dKL at each position; by default 1 / tokens: the mean over the row. */
  klWeights?: Float32Array;
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
 * Gradient of a loss of edited models, Σ weights[t] · logprob[t] + Σ klWeights[t] · KL[t] over a fork's rows, with respect
 * to the values of one of the fork's deltas, through the whole model; one gradient for each distinct fork, in the order of
 * first appearance. Works for every kind of delta. Also gives the log-probs, as `score` does, and the divergences (NaN in
 * rows without a reference), as `divergence` does. Errors as `score`.
 */
export async function gradient(
  rows: readonly GradientRow[],
  options: GradientOptions = {},
): Promise<{ gradients: Gradient[]; logprobs: Float32Array[]; divergences: Float32Array[] }> {
  const first = rows[0];
  if (!first) return { gradients: [], logprobs: [], divergences: [] };
  const { depth, temperature = 1, maxBatchTokens = 0 } = options;
  const table = new ForkTable(first.fork);
  const { model } = table;
  const rowFork = Int32Array.from(rows, ({ fork }, r) => table.indexOf(fork, `row ${r}`));
  const compared = rows.some(({ reference }) => reference !== undefined);
  const trained = table.natives.length;
  const rowReference = Int32Array.from(compared ? rows : [], ({ reference }, r) =>
    reference === undefined ? -1 : table.indexOf(reference, `row ${r}: reference`),
  );
  const ragged = toRagged(rows.map(({ tokens }, r) => toTokens(model, tokens, `row ${r}`)));
  const weights = new Float32Array(ragged.tokens.length);
  const divergenceWeights = new Float32Array(compared ? ragged.tokens.length : 0);
  for (const [r, row] of rows.entries()) {
    const begin = ragged.offsets[r]!;
    const length = ragged.offsets[r + 1]! - begin;
    for (const own of [row.weights, row.klWeights]) {
      if (own === undefined || own.length === length) continue;
      throw makeError('INPUT_INVALID', `row ${r} has ${own.length} weights for ${length} tokens`);
    }
    if (row.weights) weights.set(row.weights, begin);
    else if (!row.reference) weights.fill(-1 / Math.max(1, length - 1), begin, begin + length);
    if (!row.reference) {
      if (row.klWeights) throw makeError('INPUT_INVALID', `row ${r} has klWeights but no reference`);
    } else if (row.klWeights) divergenceWeights.set(row.klWeights, begin);
    else divergenceWeights.fill(1 / length, begin, begin + length);
  }
  const forks = table.resources as Fork[];
  const level = Int32Array.from(table.natives, (fork, f) => (f < trained ? (depth ?? fork.depth - 1) : -1));
  const terms = { weights, rowReference, divergenceWeights };
  const spec = { ...ragged, ...terms, forks: table.natives, rowFork, level, temperature, maxBatchTokens };
  const result = await runJob((onProgress) => native().gradient(spec, onProgress), options, table.resources);
  return {
    gradients: result.gradients.flatMap((handle, f) =>
      handle ? [{ fork: forks[f]!, gradient: new Delta(model, handle) }] : [],
    ),
    logprobs: splitBy(result.logprobs, ragged.offsets),
    divergences: splitBy(result.divergence, ragged.offsets),
  };
}
