/** Rotary position embedding, as config.json states it. */
import { z } from 'zod';
import type { ModelConfig, RopeScaling } from '../binding.js';
import { makeError } from '../errors.js';
import type { Architecture } from './architecture.js';
import { type ConfigJson, type RopeJson, ropeSchema } from './config-json.js';
import { check, positive, show } from './json.js';
import { longropeMagnitude, yarnMagnitude, yarnScaling } from './rope-factors.js';

/** `maxPositions` too: some scalings change how long a context may be. */
export type Rope = Pick<ModelConfig, 'ropeTheta' | 'ropeScaling' | 'localRope' | 'maxPositions'>;

/** What a scaling is computed from besides its own object. */
interface Shape {
  theta: number;
  headDim: number;
  /** `max_position_embeddings`. */
  maxPositions: number;
}

const LAYER_TYPES = ['full_attention', 'sliding_attention'] as const;
const byLayerType = z.looseObject({
  full_attention: ropeSchema.nullish(),
  sliding_attention: ropeSchema.nullish(),
});

/** Errors: `CONFIG_INVALID`, `UNSUPPORTED_ARCHITECTURE` (key, found, expected). */
export function readRope(json: ConfigJson, entry: Architecture, headDim: number, source: string): Rope {
  const maxPositions = json.max_position_embeddings ?? entry.defaults.maxPositions;
  if (entry.rope === 'byLayerType') return readByLayerType(json, entry, { headDim, maxPositions }, source);
  // transformers prefers the older key where a file has both.
  const older = json.rope_scaling != null && Object.keys(json.rope_scaling).length > 0;
  const stated = (older ? json.rope_scaling : json.rope_parameters) ?? {};
  const where = `${source}: "${older ? 'rope_scaling' : 'rope_parameters'}"`;
  const nested = LAYER_TYPES.find((type) => type in stated);
  if (nested !== undefined) {
    throw makeError('UNSUPPORTED_ARCHITECTURE', `${where} has ${show(nested)}, expected one for all layers`);
  }
  const theta = stated.rope_theta ?? json.rope_theta ?? entry.defaults.ropeTheta;
  const rope: RopeJson = { partial_rotary_factor: json.partial_rotary_factor, ...stated };
  // As in transformers, the length beside the object goes before the one in it; Phi-3 has it there.
  const original = json.original_max_position_embeddings ?? (entry.rope === 'phi3' ? 4096 : undefined);
  if (original !== undefined) rope.original_max_position_embeddings = original;
  const shape = { theta, headDim, maxPositions };
  const scaling =
    entry.rope === 'phi3' ? readPhi3Scaling(rope, shape, where) : readScaling(rope, shape, where);
  return { ropeTheta: theta, ropeScaling: scaling, maxPositions: reach(maxPositions, scaling) };
}

/** Gemma 3: `rope_scaling` and `rope_theta` are of the global layers, `rope_local_base_freq` of the local ones. */
function readByLayerType(
  json: ConfigJson,
  entry: Architecture,
  sizes: Omit<Shape, 'theta'>,
  source: string,
): Rope {
  const where = `${source}: "rope_parameters"`;
  const parameters = check(byLayerType, json.rope_parameters ?? {}, where);
  const flat = Object.keys(parameters).find((key) => !LAYER_TYPES.some((type) => type === key));
  if (flat !== undefined) {
    throw makeError('CONFIG_INVALID', `${where} has ${show(flat)}, expected only ${LAYER_TYPES.join(', ')}`);
  }
  const read = (rope: RopeJson, theta: number, key: string) => ({
    ropeTheta: theta,
    ropeScaling: readScaling(rope, { ...sizes, theta }, `${source}: ${key}`),
  });
  const full = { ...parameters.full_attention, ...json.rope_scaling };
  const local = parameters.sliding_attention ?? {};
  const global = read(
    full,
    full.rope_theta ?? json.rope_theta ?? entry.defaults.ropeTheta,
    json.rope_scaling ? '"rope_scaling"' : '"rope_parameters.full_attention"',
  );
  const localTheta = local.rope_theta ?? json.rope_local_base_freq ?? entry.defaults.localRopeTheta!;
  return {
    ...global,
    localRope: read(local, localTheta, '"rope_parameters.sliding_attention"'),
    maxPositions: reach(sizes.maxPositions, global.ropeScaling),
  };
}

/** The scaling that a `rope_scaling` or `rope_parameters` object states. */
function readScaling(rope: RopeJson, shape: Shape, source: string): RopeScaling | null {
  const partial = rope.partial_rotary_factor ?? 1;
  if (partial !== 1) {
    throw makeError(
      'UNSUPPORTED_ARCHITECTURE',
      `${source}: "partial_rotary_factor" is ${partial}, expected 1`,
    );
  }
  const type = rope.rope_type ?? rope.type ?? 'default';
  const original = rope.original_max_position_embeddings ?? shape.maxPositions;
  switch (type) {
    case 'default':
      return null;
    case 'linear':
      return { type, ...check(z.object({ factor: positive }), rope, source) };
    case 'llama3':
      return readLlama3(rope, original, source);
    case 'yarn':
      return readYarn(rope, original, shape, source);
    case 'longrope':
      return readLongrope(rope, original, shape, source);
    default:
      throw makeError(
        'UNSUPPORTED_ARCHITECTURE',
        `${source}: rope type ${show(type)} is not supported; supported: default, linear, llama3, yarn, longrope`,
      );
  }
}

function readLlama3(rope: RopeJson, originalMaxPositions: number, source: string): RopeScaling {
  const found = check(
    z.object({ factor: positive, low_freq_factor: positive, high_freq_factor: positive }),
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
    type: 'llama3',
    factor: found.factor,
    lowFreqFactor: found.low_freq_factor,
    highFreqFactor: found.high_freq_factor,
    originalMaxPositions,
  };
}

function readYarn(
  rope: RopeJson,
  originalMaxPositions: number,
  { theta, headDim, maxPositions }: Shape,
  source: string,
): RopeScaling {
  const factor = rope.factor ?? maxPositions / originalMaxPositions;
  const { mscale, mscale_all_dim: all, beta_fast: fast, beta_slow: slow } = rope;
  const betaFast = fast ?? 32;
  const betaSlow = slow ?? 1;
  if (betaFast < betaSlow) {
    throw makeError(
      'CONFIG_INVALID',
      `${source}: "beta_fast" is ${betaFast}, expected at least beta_slow (${betaSlow})`,
    );
  }
  const inferred = mscale && all ? yarnMagnitude(factor, mscale) / yarnMagnitude(factor, all) : undefined;
  return yarnScaling(theta, headDim, {
    factor,
    originalMaxPositions,
    betaFast,
    betaSlow,
    truncate: rope.truncate ?? true,
    attentionFactor: rope.attention_factor ?? inferred,
  });
}

/**
 * The factors for contexts up to the original length. Longer ones would rotate every position by the long factors,
 * the first ones too, so that a context would change its past as it grows; they are refused by `maxPositions`.
 */
function readLongrope(
  rope: RopeJson,
  originalMaxPositions: number,
  { headDim, maxPositions }: Shape,
  source: string,
): RopeScaling {
  const length = headDim / 2;
  const short = rope.short_factor;
  for (const key of ['short_factor', 'long_factor'] as const) {
    if (rope[key]?.length === length) continue;
    const found = rope[key] ? `has ${rope[key].length} values` : 'is missing';
    throw makeError('CONFIG_INVALID', `${source}: "${key}" ${found}, expected ${length} (head_dim / 2)`);
  }
  const factor = rope.factor ?? maxPositions / originalMaxPositions;
  return {
    type: 'longrope',
    factor,
    originalMaxPositions,
    factors: short!,
    attentionFactor: rope.attention_factor ?? longropeMagnitude(factor, originalMaxPositions),
  };
}

/** Phi-3 calls longrope "su" or "yarn" in older files. */
function readPhi3Scaling(rope: RopeJson, shape: Shape, source: string): RopeScaling | null {
  const type = rope.rope_type ?? rope.type ?? 'default';
  if (!['default', 'longrope', 'su', 'yarn'].includes(type)) {
    throw makeError(
      'UNSUPPORTED_ARCHITECTURE',
      `${source}: rope type ${show(type)} is not supported for phi3; supported: default, longrope`,
    );
  }
  return readScaling({ ...rope, rope_type: type === 'default' ? type : 'longrope' }, shape, source);
}

/** Longest context under a scaling: longrope's short factors end at the original length; YaRN is stated with either. */
export function reach(maxPositions: number, scaling: RopeScaling | null): number {
  const original = scaling?.originalMaxPositions;
  if (original === undefined) return maxPositions;
  if (scaling?.type === 'longrope') return Math.min(maxPositions, original);
  return scaling?.type === 'yarn'
    ? Math.max(maxPositions, Math.floor(scaling.factor * original))
    : maxPositions;
}
