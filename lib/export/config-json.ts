/** config.json of a model that came without one (from GGUF), in the form that transformers 4 and 5 both read. */
import { isDeepStrictEqual } from 'node:util';
import type { ModelConfig, RopeScaling } from '../binding.js';
import { makeError } from '../errors.js';
import { ARCHITECTURES, type Architecture } from '../format/architecture.js';
import { readFolderConfig } from '../format/config.js';

/** Ids of special tokens, where the tokenizer has them. */
export interface SpecialIds {
  bos?: number | undefined;
  eos?: readonly number[] | undefined;
}

/**
 * `dtype` is transformers' name of the weights' type. Errors: `UNSUPPORTED_ARCHITECTURE` when the text would not read back
 * as the very same configuration.
 */
export function configJson(config: ModelConfig, dtype: string, ids: SpecialIds): Record<string, unknown> {
  const entry = ARCHITECTURES.find(({ name }) => name === config.architecture)!;
  const json = {
    architectures: [entry.classes[0]],
    model_type: entry.modelType,
    vocab_size: config.vocabSize,
    hidden_size: config.hiddenSize,
    intermediate_size: config.intermediateSize,
    num_hidden_layers: config.layers,
    num_attention_heads: config.heads,
    num_key_value_heads: config.kvHeads,
    head_dim: config.headDim,
    max_position_embeddings: config.maxPositions,
    rms_norm_eps: config.rmsEps,
    [entry.activationKey]: config.activation ?? 'silu',
    tie_word_embeddings: config.tied,
    ...biases(config, entry),
    ...rope(config, entry),
    ...windows(config, entry),
    ...(entry.gemmaScales && { query_pre_attn_scalar: Math.round((config.attentionScale ?? 1) ** -2) }),
    bos_token_id: ids.bos ?? null,
    eos_token_id: ids.eos?.length === 1 ? ids.eos[0] : (ids.eos ?? null),
    pad_token_id: null,
    torch_dtype: dtype,
  };
  checkReadsBack(json, config);
  return json;
}

function biases(config: ModelConfig, { biases }: Architecture): Record<string, boolean> {
  const json: Record<string, boolean> = {};
  if (typeof biases.qkv === 'string') json[biases.qkv] = config.qkvBias;
  if (typeof biases.mlp === 'string') json[biases.mlp] = config.mlpBias;
  return json;
}

function rope(
  { ropeTheta, ropeScaling, localRope }: ModelConfig,
  entry: Architecture,
): Record<string, unknown> {
  const scaling = ropeScaling && scalingJson(ropeScaling);
  return {
    rope_theta: ropeTheta,
    ...(scaling && { rope_scaling: scaling }),
    ...(localRope && { rope_local_base_freq: localRope.ropeTheta }),
    ...(entry.rope === 'phi3' &&
      ropeScaling && { original_max_position_embeddings: ropeScaling.originalMaxPositions }),
  };
}

function scalingJson(scaling: RopeScaling): Record<string, unknown> {
  const { type, factor, originalMaxPositions, factors, attentionFactor } = scaling;
  if (type === 'linear') return { rope_type: type, factor };
  const original = { original_max_position_embeddings: originalMaxPositions };
  if (type === 'llama3') {
    const { lowFreqFactor, highFreqFactor } = scaling;
    return {
      rope_type: type,
      factor,
      ...original,
      low_freq_factor: lowFreqFactor,
      high_freq_factor: highFreqFactor,
    };
  }
  const magnitude = { attention_factor: attentionFactor ?? 1 };
  if (type === 'yarn') return { rope_type: type, factor, ...original, ...magnitude };
  // Contexts end where the long factors would begin, so the short ones stand for both.
  return { rope_type: type, factor, ...original, ...magnitude, short_factor: factors, long_factor: factors };
}

function windows(config: ModelConfig, entry: Architecture): Record<string, unknown> {
  const { slidingWindow, layerTypes } = config;
  if (entry.windows === 'none') return {};
  if (slidingWindow == null) return { sliding_window: null };
  return {
    sliding_window: slidingWindow,
    ...(entry.windows === 'upper' && { use_sliding_window: true }),
    ...(layerTypes && { layer_types: layerTypes }),
  };
}

function checkReadsBack(json: Record<string, unknown>, config: ModelConfig): void {
  // Through JSON, as a reader will see it.
  const { config: back } = readFolderConfig(JSON.parse(JSON.stringify(json)), 'config.json');
  const keys = [...new Set([...Object.keys(config), ...Object.keys(back)])] as (keyof ModelConfig)[];
  const different = keys.find((key) => !isDeepStrictEqual(plain(back[key]), plain(config[key])));
  if (different === undefined) return;
  throw makeError(
    'UNSUPPORTED_ARCHITECTURE',
    `config.json cannot say that "${different}" is ${JSON.stringify(config[different])} for ${config.architecture}; it would be read as ${JSON.stringify(back[different])}`,
  );
}

/** Absent, null and a whole list of full attention say the same; numbers of GGUF are float32. */
function plain(value: unknown): unknown {
  if (value === undefined || value === null) return null;
  if (typeof value === 'number') return Math.fround(value);
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value !== 'object') return value;
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, plain(inner)]));
}
