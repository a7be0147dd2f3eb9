/** Tiny seeded models, token rows and deltas for tests, and comparisons to the bit. */
import {
  Delta,
  Model,
  type ModelConfig,
  type RandomOptions,
  resolveTargets,
  SelfeditError,
} from '../../lib/index.js';

/** Odd sizes on purpose: no dimension is a multiple of a vector or of a block. */
export function tinyConfig(overrides: Partial<ModelConfig> = {}): ModelConfig {
  return {
    architecture: 'llama',
    vocabSize: 331,
    hiddenSize: 48,
    intermediateSize: 76,
    layers: 3,
    heads: 4,
    kvHeads: 2,
    headDim: 10,
    maxPositions: 192,
    rmsEps: 1e-5,
    ropeTheta: 10_000,
    ropeScaling: null,
    qkvBias: false,
    outputBias: false,
    mlpBias: false,
    tied: false,
    ...overrides,
  };
}

export function tinyModel(options: RandomOptions = {}, overrides: Partial<ModelConfig> = {}): Promise<Model> {
  return Model.random(tinyConfig(overrides), { seed: 7, std: 0.15, ...options });
}

/** Numbers of a linear congruential generator in [0, 1): another source than the package's own. */
export function draws(count: number, seed: number): Float64Array {
  let state = (seed * 2654435761 + 12345) >>> 0;
  return Float64Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  });
}

export function tokensOf(length: number, seed: number, vocabSize = 331): Int32Array {
  return Int32Array.from(draws(length, seed), (draw) => Math.floor(draw * vocabSize));
}

export function floatsOf(count: number, seed: number, size = 1): Float32Array {
  return Float32Array.from(draws(count, seed), (draw) => (2 * draw - 1) * size);
}

/** A delta whose both factors are filled, so that it changes what the model says. */
export function deltaOf(
  model: Model,
  {
    targets = ['q_proj', 'v_proj'],
    rank = 3,
    scale = 0.7,
    seed = 1,
    size = 0.4,
  }: {
    targets?: readonly string[];
    rank?: number;
    scale?: number;
    seed?: number;
    size?: number;
  } = {},
): Delta {
  const parts = Array.from(resolveTargets(model, targets), (matrix) => {
    const { out, in: width } = model.matrices[matrix]!;
    return {
      matrix,
      rank,
      scale,
      a: floatsOf(rank * width, seed * 1000 + matrix, size),
      b: floatsOf(out * rank, seed * 1000 + matrix + 500, size),
    };
  });
  return Delta.fromFactors(model, parts);
}

/** W + scale · B A in float64, computed here. */
export function addProduct(
  weight: ArrayLike<number>,
  part: { rank: number; scale: number },
  { a, b }: { a: Float32Array; b: Float32Array },
): Float64Array {
  const result = Float64Array.from(weight);
  const width = a.length / part.rank;
  const out = b.length / part.rank;
  for (let o = 0; o < out; o++) {
    for (let r = 0; r < part.rank; r++) {
      const factor = part.scale * b[o * part.rank + r]!;
      for (let i = 0; i < width; i++) result[o * width + i]! += factor * a[r * width + i]!;
    }
  }
  return result;
}

/** The bits of an array as text: equal texts, equal bits (NaN included). */
export function bits(values: Float32Array | Float64Array | Int32Array): string {
  return Buffer.from(values.buffer, values.byteOffset, values.byteLength).toString('base64');
}

/** The error that the work ends with; fails when it ends well. */
export async function failureOf(work: Promise<unknown> | (() => unknown)): Promise<SelfeditError> {
  try {
    await (typeof work === 'function' ? work() : work);
  } catch (error) {
    if (error instanceof SelfeditError) return error;
    throw new Error(`not a typed error: ${error instanceof Error ? error.stack : String(error)}`);
  }
  throw new Error('expected an error, but the call succeeded');
}
