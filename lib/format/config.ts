/** config.json of a Hugging Face folder as a `ModelConfig`. */
import { z } from 'zod';
import type { ModelConfig, WeightLayout } from '../binding.js';
import { makeError } from '../errors.js';
import { type Architecture, type BiasRule, findArchitecture } from './architecture.js';
import { type ConfigJson, configSchema } from './config-json.js';
import { check, show } from './json.js';
import { readRope } from './rope.js';
import { readWindows } from './window.js';

/** Other names of the two activations in config.json. */
const ACTIVATIONS: Readonly<Record<string, NonNullable<ModelConfig['activation']>>> = {
  silu: 'silu',
  swish: 'silu',
  gelu_pytorch_tanh: 'gelu_pytorch_tanh',
};

/** A configuration and the form of the weights beside it. */
export interface FolderConfig {
  config: ModelConfig;
  layout: WeightLayout;
}

/**
 * config.json as written by transformers 4 or 5.
 * Errors: `UNSUPPORTED_ARCHITECTURE`, `CONFIG_INVALID` (key, found, expected).
 */
export function configFromJson(json: unknown, source = 'config.json'): ModelConfig {
  return readFolderConfig(json, source).config;
}

/** As `configFromJson`, with the layout of the folder's weights. */
export function readFolderConfig(json: unknown, source = 'config.json'): FolderConfig {
  const { model_type: type } = check(
    z.looseObject({ model_type: z.string('a name') }, 'an object'),
    json,
    source,
  );
  // The architecture comes first: another one's keys differ, and complaining about a key would mislead.
  const entry = findArchitecture((known) => known.modelType === type, 'model type', type, source);
  const found = check(configSchema, json, source);
  refuseOthers(found, entry, source);
  const { heads, kvHeads, headDim } = readHeads(found, entry, source);
  const { maxPositions, ...rope } = readRope(found, entry, headDim, source);
  const bias = (rule: BiasRule): boolean => (typeof rule === 'boolean' ? rule : (found[rule] ?? false));
  const config = finish(
    {
      architecture: entry.name,
      vocabSize: found.vocab_size,
      hiddenSize: found.hidden_size,
      intermediateSize: found.intermediate_size,
      layers: found.num_hidden_layers,
      heads,
      kvHeads,
      headDim,
      maxPositions,
      rmsEps: found.rms_norm_eps ?? entry.defaults.rmsEps,
      ...rope,
      qkvBias: bias(entry.biases.qkv),
      outputBias: bias(entry.biases.output),
      mlpBias: bias(entry.biases.mlp),
      tied: found.tie_word_embeddings ?? entry.defaults.tied,
      ...readWindows(found, entry, source),
      ...graphOf(entry, readActivation(found, entry, source)),
      ...(entry.gemmaScales && gemmaScales(found.hidden_size, found.query_pre_attn_scalar ?? 256)),
    },
    source,
    ['num_attention_heads', 'num_key_value_heads', 'head_dim'],
  );
  return { config, layout: entry.folderLayout };
}

/** Another head than the language model's, quantised weights, and the keys that the entry refuses. */
function refuseOthers(json: ConfigJson, entry: Architecture, source: string): void {
  const fail = (what: string): never => {
    throw makeError('UNSUPPORTED_ARCHITECTURE', `${source}: ${what}`);
  };
  const classes = json.architectures ?? [];
  if (classes.length > 0 && !classes.some((name) => entry.classes.includes(name))) {
    fail(`class ${classes.join(', ')} is not supported; expected ${entry.classes.join(' or ')}`);
  }
  if (json.quantization_config != null) {
    fail('weights with a "quantization_config" are not supported; expected float32, float16 or bfloat16');
  }
  for (const key of entry.refused) {
    const value = json[key];
    if (value != null && value !== false) fail(`"${key}" is ${show(value)}, expected null or false`);
  }
}

function readHeads(
  json: ConfigJson,
  entry: Architecture,
  source: string,
): Pick<ModelConfig, 'heads' | 'kvHeads' | 'headDim'> {
  const heads = json.num_attention_heads;
  const headDim = json.head_dim ?? entry.defaults.headDim;
  if (headDim === undefined && json.hidden_size % heads !== 0) {
    throw makeError(
      'CONFIG_INVALID',
      `${source}: "hidden_size" is ${json.hidden_size}, expected a multiple of "num_attention_heads" (${heads})`,
    );
  }
  // A key that is null is not one that is absent: transformers then gives every head its own.
  const stated = json.num_key_value_heads === undefined ? entry.defaults.kvHeads : json.num_key_value_heads;
  return { heads, kvHeads: stated ?? heads, headDim: headDim ?? json.hidden_size / heads };
}

function readActivation(
  json: ConfigJson,
  entry: Architecture,
  source: string,
): NonNullable<ModelConfig['activation']> {
  const name = json[entry.activationKey];
  if (name == null) return entry.defaults.activation;
  const activation = Object.hasOwn(ACTIVATIONS, name) ? ACTIVATIONS[name] : undefined;
  if (activation) return activation;
  throw makeError(
    'UNSUPPORTED_ARCHITECTURE',
    `${source}: "${entry.activationKey}" is ${show(name)}, expected "silu" or "gelu_pytorch_tanh"`,
  );
}

/** What an entry adds to the graph; what is as in the common shape stays unsaid. */
export function graphOf(
  entry: Architecture,
  activation: NonNullable<ModelConfig['activation']>,
): Pick<ModelConfig, 'qkNorm' | 'postNorms' | 'activation'> {
  return {
    ...(entry.qkNorm && { qkNorm: true }),
    ...(entry.postNorms && { postNorms: true }),
    ...(activation !== 'silu' && { activation }),
  };
}

/** `scalar` is `query_pre_attn_scalar`: the scores are divided by its root. */
export function gemmaScales(
  hiddenSize: number,
  scalar: number,
): Pick<ModelConfig, 'embeddingScale' | 'attentionScale'> {
  return { embeddingScale: Math.sqrt(hiddenSize), attentionScale: 1 / Math.sqrt(scalar) };
}

/**
 * Largest sizes of a configuration, far above any model's. Native code makes tables of these sizes before the weights show
 * that a file lies.
 */
const MOST = {
  heads: 2 ** 16,
  kvHeads: 2 ** 16,
  headDim: 2 ** 16,
  hiddenSize: 2 ** 24,
  intermediateSize: 2 ** 24,
  vocabSize: 2 ** 24,
} as const;

/** Checks that hold between values; `keys` are the source's own names of heads, kvHeads and headDim. */
export function finish(
  config: ModelConfig,
  source: string,
  keys: readonly [string, string, string],
): ModelConfig {
  for (const [name, most] of Object.entries(MOST)) {
    const found = config[name as keyof typeof MOST];
    if (found > most)
      throw makeError('CONFIG_INVALID', `${source}: ${name} is ${found}, expected at most ${most}`);
  }
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
