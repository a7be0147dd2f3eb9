/** The keys of config.json that are read, as transformers 4 and 5 write them. */
import { z } from 'zod';
import { count, layerCount, positive } from './json.js';

const flag = z.boolean('true or false').nullish();
const name = z.string('a name');
const factors = z.array(positive, 'a list of numbers').nullish();

/**
 * transformers 4 writes `rope_scaling` beside `rope_theta`; transformers 5 writes both as `rope_parameters`.
 */
export const ropeSchema = z.looseObject(
  {
    rope_type: name.nullish(),
    type: name.nullish(),
    rope_theta: positive.nullish(),
    factor: positive.nullish(),
    low_freq_factor: positive.nullish(),
    high_freq_factor: positive.nullish(),
    original_max_position_embeddings: positive.nullish(),
    partial_rotary_factor: positive.nullish(),
    attention_factor: positive.nullish(),
    beta_fast: positive.nullish(),
    beta_slow: positive.nullish(),
    mscale: z.number('a number').nullish(),
    mscale_all_dim: z.number('a number').nullish(),
    truncate: flag,
    short_factor: factors,
    long_factor: factors,
  },
  'an object',
);
export type RopeJson = z.infer<typeof ropeSchema>;

export const configSchema = z.looseObject(
  {
    model_type: name,
    architectures: z.array(z.string('a class name'), 'a list of class names').nullish(),
    vocab_size: count,
    hidden_size: count,
    intermediate_size: count,
    num_hidden_layers: layerCount,
    num_attention_heads: count,
    num_key_value_heads: count.nullish(),
    head_dim: count.nullish(),
    max_position_embeddings: count.nullish(),
    original_max_position_embeddings: count.nullish(),
    rms_norm_eps: positive.nullish(),
    hidden_act: name.nullish(),
    hidden_activation: name.nullish(),
    tie_word_embeddings: flag,
    attention_bias: flag,
    mlp_bias: flag,
    query_pre_attn_scalar: positive.nullish(),
    rope_theta: positive.nullish(),
    rope_local_base_freq: positive.nullish(),
    rope_scaling: ropeSchema.nullish(),
    rope_parameters: ropeSchema.nullish(),
    partial_rotary_factor: positive.nullish(),
    sliding_window: count.nullish(),
    use_sliding_window: flag,
    max_window_layers: z.int('a whole number').nonnegative('a whole number').nullish(),
    sliding_window_pattern: count.nullish(),
    layer_types: z.array(z.string('a layer type'), 'a list of layer types').nullish(),
  },
  'an object',
);
export type ConfigJson = z.infer<typeof configSchema>;
