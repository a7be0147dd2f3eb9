/** Rotary position embedding, as GGUF metadata and its tables of factors state it. */
import type { RopeScaling } from '../binding.js';
import { makeError } from '../errors.js';
import type { Architecture } from './architecture.js';
import type { GgufKeys } from './gguf.js';
import { show } from './json.js';
import { type Rope, reach } from './rope.js';
import { llama3Factors, longropeMagnitude, yarnMagnitude, yarnScaling } from './rope-factors.js';

/** Values of the small tensors in which a GGUF keeps divisors of the frequencies, headDim / 2 each. */
export interface RopeTables {
  /** `rope_freqs.weight`: Llama 3. */
  freqs?: ArrayLike<number>;
  /** `rope_factors_short.weight`: Phi-3. */
  short?: ArrayLike<number>;
}

/** Errors: `UNSUPPORTED_ARCHITECTURE`, `TENSOR_SHAPE`, `TENSOR_MISSING`. */
export function readGgufRope(
  keys: GgufKeys,
  headDim: number,
  entry: Architecture,
  tables: RopeTables,
  source: string,
): Rope {
  const theta = keys['rope.freq_base'] ?? entry.defaults.ropeTheta;
  const scaling = readScaling(keys, theta, headDim, tables, source);
  const { localRopeTheta } = entry.defaults;
  return {
    ropeTheta: theta,
    ropeScaling: scaling,
    ...(localRopeTheta !== undefined && {
      localRope: { ropeTheta: keys['rope.freq_base_swa'] ?? localRopeTheta, ropeScaling: null },
    }),
    maxPositions: reach(keys.context_length, scaling),
  };
}

function readScaling(
  keys: GgufKeys,
  theta: number,
  headDim: number,
  { freqs, short }: RopeTables,
  source: string,
): RopeScaling | null {
  const type = keys['rope.scaling.type'] ?? 'none';
  const original = keys['rope.scaling.original_context_length'];
  if (short) {
    const factors = checkTable(short, 'rope_factors_short.weight', headDim, source);
    return longrope(keys, factors, original ?? keys.context_length);
  }
  switch (type) {
    case 'none':
    case 'linear': {
      if (freqs) {
        const factors = checkTable(freqs, 'rope_freqs.weight', headDim, source);
        return scalingFromFactors(factors, theta, headDim, original ?? 8192);
      }
      const factor = keys['rope.scaling.factor'] ?? keys['rope.scale_linear'] ?? 1;
      return factor === 1 ? null : { type: 'linear', factor };
    }
    case 'yarn':
      return yarn(keys, theta, headDim, original ?? keys.context_length, source);
    case 'longrope':
      throw makeError(
        'TENSOR_MISSING',
        `${source} has no tensor "rope_factors_short.weight", which its longrope scaling needs`,
      );
    default:
      throw makeError(
        'UNSUPPORTED_ARCHITECTURE',
        `${source}: rope scaling ${show(type)} is not supported; supported: none, linear, yarn, longrope, Llama 3's factors`,
      );
  }
}

function longrope(keys: GgufKeys, factors: number[], originalMaxPositions: number): RopeScaling {
  const factor = keys.context_length / originalMaxPositions;
  return {
    type: 'longrope',
    factor,
    originalMaxPositions,
    factors,
    attentionFactor: keys['rope.scaling.attn_factor'] ?? longropeMagnitude(factor, originalMaxPositions),
  };
}

function yarn(
  keys: GgufKeys,
  theta: number,
  headDim: number,
  originalMaxPositions: number,
  source: string,
): RopeScaling {
  const extrapolation = keys['rope.scaling.yarn_ext_factor'] ?? 1;
  if (extrapolation !== 1) {
    throw makeError(
      'UNSUPPORTED_ARCHITECTURE',
      `${source}: "rope.scaling.yarn_ext_factor" is ${extrapolation}, expected 1`,
    );
  }
  const factor = keys['rope.scaling.factor'] ?? keys.context_length / originalMaxPositions;
  const magnitude = keys['rope.scaling.yarn_attn_factor'] ?? keys['rope.scaling.attn_factor'] ?? 1;
  return yarnScaling(theta, headDim, {
    factor,
    originalMaxPositions,
    betaFast: keys['rope.scaling.yarn_beta_fast'] ?? 32,
    betaSlow: keys['rope.scaling.yarn_beta_slow'] ?? 1,
    truncate: true,
    // llama.cpp multiplies what the paper gives.
    attentionFactor: magnitude * yarnMagnitude(factor, 1),
  });
}

function checkTable(table: ArrayLike<number>, name: string, headDim: number, source: string): number[] {
  const values = Array.from(table);
  const where = `${source}: tensor "${name}"`;
  if (values.length !== headDim / 2) {
    throw makeError('TENSOR_SHAPE', `${where} has ${values.length} values, expected ${headDim / 2}`);
  }
  const wrong = values.find((value) => !(value > 0) || !Number.isFinite(value));
  if (wrong !== undefined) {
    throw makeError('CONFIG_INVALID', `${where} holds ${wrong}, expected positive numbers`);
  }
  return values;
}

/**
 * The scaling behind the factors of `rope_freqs.weight`. The file keeps only the factors, in float32, so Llama
 * 3's published constants (1, 4) are tried: if they give every one of them, the exact values are computed anew;
 * otherwise the stored ones are taken as they are.
 */
export function scalingFromFactors(
  values: number[],
  theta: number,
  headDim: number,
  originalMaxPositions: number,
): RopeScaling | null {
  if (values.every((value) => value === 1)) return null;
  const factor = Math.max(...values);
  const scaling: RopeScaling = {
    type: 'llama3',
    factor,
    lowFreqFactor: 1,
    highFreqFactor: 4,
    originalMaxPositions,
  };
  const expected = llama3Factors(theta, headDim, scaling);
  if (values.every((value, i) => Math.abs(value - expected[i]!) <= 1e-4 * expected[i]!)) return scaling;
  return { type: 'longrope', factor, factors: values, attentionFactor: 1 };
}
