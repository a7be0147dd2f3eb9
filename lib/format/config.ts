/** config.json of a Hugging Face folder, and GGUF metadata, as one `ModelConfig`. */
import { z } from 'zod';
import type { ModelConfig } from '../binding.js';
import { makeError } from '../errors.js';
import { extraSchema, findArchitecture } from './architecture.js';
import { check, count, positive, show } from './json.js';
import { readScaling, ropeSchema } from './rope.js';

const huggingFaceSchema = z.looseObject(
  {
    model_type: z.string('a name'),
    architectures: z.array(z.string('a class name'), 'a list of class names').nullish(),
    vocab_size: count,
    hidden_size: count,
    intermediate_size: count,
    num_hidden_layers: count,
    num_attention_heads: count,
    num_key_value_heads: count.nullish(),
    head_dim: count.nullish(),
    max_position_embeddings: count.nullish(),
    rms_norm_eps: positive.nullish(),
    rope_theta: positive.nullish(),
    rope_scaling: ropeSchema.nullish(),
    rope_parameters: ropeSchema.nullish(),
    partial_rotary_factor: positive.nullish(),
    hidden_act: z.string('a name').nullish(),
    tie_word_embeddings: z.boolean('true or false').nullish(),
  },
  'an object',
);

/**
 * config.json as written by transformers 4 or 5.
 * Errors: `UNSUPPORTED_ARCHITECTURE`, `CONFIG_INVALID` (key, found, expected).
 */
export function configFromJson(json: unknown, source = 'config.json'): ModelConfig {
  const { model_type: type } = check(
    z.looseObject({ model_type: z.string('a name') }, 'an object'),
    json,
    source,
  );
  // The architecture comes first: another one's keys differ, and complaining about a key would mislead.
  const entry = findArchitecture((known) => known.modelType === type, `model type ${show(type)}`, source);
  const found = check(huggingFaceSchema, json, source);
  const classes = found.architectures ?? [];
  if (classes.length > 0 && !classes.some((name) => entry.classes.includes(name))) {
    const expected = entry.classes.join(' or ');
    throw makeError(
      'UNSUPPORTED_ARCHITECTURE',
      `${source}: class ${classes.join(', ')} is not supported; expected ${expected}`,
    );
  }
  if (found.quantization_config != null) {
    throw makeError(
      'UNSUPPORTED_ARCHITECTURE',
      `${source}: weights with a "quantization_config" are not supported; expected float32, float16 or bfloat16`,
    );
  }
  if (found.hidden_act != null && found.hidden_act !== 'silu') {
    throw makeError(
      'UNSUPPORTED_ARCHITECTURE',
      `${source}: "hidden_act" is ${show(found.hidden_act)}, expected "silu"`,
    );
  }
  const rope = found.rope_parameters ?? found.rope_scaling;
  const partial = found.partial_rotary_factor ?? rope?.partial_rotary_factor ?? 1;
  if (partial !== 1) {
    throw makeError(
      'UNSUPPORTED_ARCHITECTURE',
      `${source}: "partial_rotary_factor" is ${partial}, expected 1`,
    );
  }
  const heads = found.num_attention_heads;
  if (found.head_dim == null && found.hidden_size % heads !== 0) {
    throw makeError(
      'CONFIG_INVALID',
      `${source}: "hidden_size" is ${found.hidden_size}, expected a multiple of "num_attention_heads" (${heads})`,
    );
  }
  return finish(
    {
      architecture: entry.name,
      vocabSize: found.vocab_size,
      hiddenSize: found.hidden_size,
      intermediateSize: found.intermediate_size,
      layers: found.num_hidden_layers,
      heads,
      kvHeads: found.num_key_value_heads ?? heads,
      headDim: found.head_dim ?? found.hidden_size / heads,
      maxPositions: found.max_position_embeddings ?? entry.defaults.maxPositions,
      rmsEps: found.rms_norm_eps ?? entry.defaults.rmsEps,
      ropeTheta: found.rope_parameters?.rope_theta ?? found.rope_theta ?? entry.defaults.ropeTheta,
      ropeScaling: readScaling(
        rope,
        `${source}: "${found.rope_parameters ? 'rope_parameters' : 'rope_scaling'}"`,
      ),
      ...entry.biases(check(extraSchema, json, source), source),
      tied: found.tie_word_embeddings ?? false,
    },
    source,
    ['num_attention_heads', 'num_key_value_heads', 'head_dim'],
  );
}

/** Checks that hold between values; `keys` are the source's own names of heads, kvHeads and headDim. */
export function finish(
  config: ModelConfig,
  source: string,
  keys: readonly [string, string, string],
): ModelConfig {
  if (config.heads % config.kvHeads !== 0) {
    throw makeError(
      'CONFIG_INVALID',
      `${source}: "${keys[0]}" is ${config.heads}, expected a multiple of "${keys[1]}" (${config.kvHeads})`,
    );
  }
  if (config.headDim % 2 !== 0) {
    throw makeError(
      'CONFIG_INVALID',
      `${source}: "${keys[2]}" is ${config.headDim}, expected an even number`,
    );
  }
  return config;
}
