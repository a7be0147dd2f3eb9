/**
 * Rotary position embedding: the two ways in which config.json states it, and the factors that a GGUF
 * stores.
 */
import { z } from 'zod';
import type { ModelConfig } from '../binding.js';
import { makeError } from '../errors.js';
import { check, positive, show } from './json.js';

export type RopeScaling = ModelConfig['ropeScaling'];
export interface Rope {
  ropeTheta: number;
  ropeScaling: RopeScaling;
}

/**
 * transformers 4 writes `rope_scaling` beside `rope_theta`; transformers 5 writes both as
 * `rope_parameters`.
 */
export const ropeSchema = z.looseObject(
  {
    rope_type: z.string('a name').nullish(),
    type: z.string('a name').nullish(),
    rope_theta: positive.nullish(),
    factor: positive.nullish(),
    low_freq_factor: positive.nullish(),
    high_freq_factor: positive.nullish(),
    original_max_position_embeddings: positive.nullish(),
    partial_rotary_factor: positive.nullish(),
  },
  'an object',
);
export type RopeJson = z.infer<typeof ropeSchema>;

const SCALINGS = ['default', 'linear', 'llama3'];

/** The scaling that a `rope_scaling` or `rope_parameters` object states. */
export function readScaling(rope: RopeJson | null | undefined, source: string): RopeScaling {
  const type = rope?.rope_type ?? rope?.type ?? 'default';
  if (!rope || type === 'default') return null;
  if (type === 'linear') {
    return { type, ...check(z.object({ factor: positive }), rope, source) };
  }
  if (type === 'llama3') {
    const found = check(
      z.object({
        factor: positive,
        low_freq_factor: positive,
        high_freq_factor: positive,
        original_max_position_embeddings: positive,
      }),
      rope,
      source,
    );
    if (found.high_freq_factor <= found.low_freq_factor) {
      const expected = `more than low_freq_factor (${found.low_freq_factor})`;
      throw makeError(
        'CONFIG_INVALID',
        `${source}: "high_freq_factor" is ${found.high_freq_factor}, expected ${expected}`,
      );
    }
    return {
      type,
      factor: found.factor,
      lowFreqFactor: found.low_freq_factor,
      highFreqFactor: found.high_freq_factor,
      originalMaxPositions: found.original_max_position_embeddings,
    };
  }
  throw makeError(
    'UNSUPPORTED_ARCHITECTURE',
    `${source}: rope type ${show(type)} is not supported; supported: ${SCALINGS.join(', ')}`,
  );
}

/**
 * Factors by which Llama 3's scaling divides the frequencies, headDim / 2 values
 * (as in transformers' `_compute_llama3_parameters`, and as llama.cpp stores them in `rope_freqs.weight`).
 */
export function llama3Factors(
  theta: number,
  headDim: number,
  scaling: NonNullable<RopeScaling>,
): Float64Array {
  const { factor, lowFreqFactor = 1, highFreqFactor = 4, originalMaxPositions = 8192 } = scaling;
  return Float64Array.from({ length: headDim / 2 }, (_, i) => {
    const wavelength = 2 * Math.PI * theta ** ((2 * i) / headDim);
    if (wavelength < originalMaxPositions / highFreqFactor) return 1;
    if (wavelength > originalMaxPositions / lowFreqFactor) return factor;
    const smooth = (originalMaxPositions / wavelength - lowFreqFactor) / (highFreqFactor - lowFreqFactor);
    return 1 / ((1 - smooth) / factor + smooth);
  });
}

/**
 * The Llama 3 scaling behind stored factors. A GGUF keeps only the factors, so the published constants (1,
 * 4) are tried and must reproduce every one of them; anything else is refused rather than guessed.
 */
export function scalingFromFactors(
  factors: ArrayLike<number>,
  theta: number,
  headDim: number,
  originalMaxPositions: number,
  source: string,
): RopeScaling {
  const values = Array.from(factors);
  const name = `${source}: tensor "rope_freqs.weight"`;
  if (values.length !== headDim / 2) {
    throw makeError('TENSOR_SHAPE', `${name} has ${values.length} values, expected ${headDim / 2}`);
  }
  if (values.every((value) => value === 1)) return null;
  const scaling: RopeScaling = {
    type: 'llama3',
    factor: Math.max(...values),
    lowFreqFactor: 1,
    highFreqFactor: 4,
    originalMaxPositions,
  };
  const expected = llama3Factors(theta, headDim, scaling);
  if (values.every((value, i) => Math.abs(value - expected[i]!) <= 1e-4 * expected[i]!)) return scaling;
  throw makeError(
    'UNSUPPORTED_ARCHITECTURE',
    `${name} holds factors other than Llama 3's, which are not supported`,
  );
}
