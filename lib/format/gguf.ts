/** GGUF metadata as a `ModelConfig`. Keys are llama.cpp's: `<architecture>.block_count` and so on. */
import { z } from 'zod';
import type { ModelConfig } from '../binding.js';
import { makeError } from '../errors.js';
import { type Architecture, findArchitecture } from './architecture.js';
import { finish } from './config.js';
import { check, count, positive, show } from './json.js';
import { type Rope, scalingFromFactors } from './rope.js';

const size = z.int('a whole number').nonnegative('a whole number');
const headerSchema = z.object(
  {
    format: z.literal('gguf', 'gguf'),
    metadata: z.record(z.string(), z.unknown(), 'an object'),
    tensors: z.array(
      z.object({ name: z.string(), dtype: z.string(), shape: z.array(size), offset: size, bytes: size }),
      'a list of tensors',
    ),
  },
  'an object',
);
/**
 * What `native().inspect` says about a .gguf file; shapes are row-major, offsets count from the file's
 * start.
 */
export type GgufHeader = z.infer<typeof headerSchema>;
export type GgufMetadata = GgufHeader['metadata'];

/** Parses the JSON text of an inspected header. Errors: `FILE_FORMAT`. */
export function parseGgufHeader(text: string, source: string): GgufHeader {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw makeError('FILE_FORMAT', `${source}: the header is not valid JSON`, error);
  }
  return check(headerSchema, json, `${source}: header`, 'FILE_FORMAT');
}

// Some converters write one value a layer; the same value in every layer is the ordinary case.
const perLayer = z
  .union([count, z.array(count).min(1)], 'a positive integer below 2^31')
  .refine((value) => typeof value === 'number' || new Set(value).size === 1, 'the same in every layer')
  .transform((value) => (typeof value === 'number' ? value : value[0]!));

const keysSchema = z.object({
  block_count: count,
  context_length: count,
  embedding_length: count,
  feed_forward_length: perLayer,
  'attention.head_count': perLayer,
  'attention.head_count_kv': perLayer.optional(),
  'attention.key_length': count.optional(),
  'attention.value_length': count.optional(),
  'attention.layer_norm_rms_epsilon': positive,
  'attention.sliding_window': size.optional(),
  expert_count: size.optional(),
  'rope.dimension_count': count.optional(),
  'rope.freq_base': positive.optional(),
  'rope.scale_linear': positive.optional(),
  'rope.scaling.type': z.string('a name').optional(),
  'rope.scaling.factor': positive.optional(),
  'rope.scaling.original_context_length': count.optional(),
});
type Keys = z.infer<typeof keysSchema>;

/** The table entry of a GGUF. Errors: `UNSUPPORTED_ARCHITECTURE`, `CONFIG_INVALID`. */
export function ggufArchitecture(metadata: GgufMetadata, source: string): Architecture {
  const key = 'general.architecture';
  const { [key]: name } = check(z.object({ [key]: z.string('a name') }), metadata, source);
  return findArchitecture((known) => known.gguf === name, `architecture ${show(name)}`, source);
}

/**
 * `ropeFactors` are the values of the tensor `rope_freqs.weight` where the file has one.
 * Errors: `UNSUPPORTED_ARCHITECTURE`, `CONFIG_INVALID`, `TENSOR_MISSING`, `TENSOR_SHAPE`.
 */
export function configFromGguf(
  header: GgufHeader,
  source: string,
  ropeFactors?: ArrayLike<number>,
): ModelConfig {
  const { metadata, tensors } = header;
  const entry = ggufArchitecture(metadata, source);
  const keys = readKeys(metadata, entry.gguf, source);
  const heads = keys['attention.head_count'];
  const hiddenSize = keys.embedding_length;
  const name = (key: keyof Keys) => `${entry.gguf}.${key}`;
  const fail = (key: keyof Keys, expected: string): never => {
    throw makeError(
      'CONFIG_INVALID',
      `${source}: "${name(key)}" is ${show(keys[key])}, expected ${expected}`,
    );
  };

  const headDim = keys['attention.key_length'] ?? keys['rope.dimension_count'] ?? hiddenSize / heads;
  if (!Number.isInteger(headDim))
    fail('embedding_length', `a multiple of "${name('attention.head_count')}" (${heads})`);
  if ((keys['attention.value_length'] ?? headDim) !== headDim) {
    fail('attention.value_length', `${headDim}, as many as keys have`);
  }
  if ((keys['rope.dimension_count'] ?? headDim) !== headDim) {
    fail('rope.dimension_count', `${headDim}, the whole head`);
  }
  if (keys.expert_count) {
    throw makeError(
      'UNSUPPORTED_ARCHITECTURE',
      `${source}: a mixture of ${keys.expert_count} experts is not supported`,
    );
  }
  if (keys['attention.sliding_window']) {
    throw makeError('UNSUPPORTED_ARCHITECTURE', `${source}: sliding-window attention is not supported`);
  }

  const names = new Set(tensors.map((tensor) => tensor.name));
  const embedding = tensors.find((tensor) => tensor.name === 'token_embd.weight');
  if (!embedding) throw makeError('TENSOR_MISSING', `${source} has no tensor "token_embd.weight"`);
  if (embedding.shape.length !== 2 || embedding.shape[1] !== hiddenSize) {
    throw makeError(
      'TENSOR_SHAPE',
      `${source}: tensor "token_embd.weight" is ${show(embedding.shape)}, expected [vocabulary, ${hiddenSize}]`,
    );
  }
  // Biases are there where the architecture has them or the file brings one; a missing one is the loader's
  // to report.
  const own = entry.biases({}, source);
  const has = (...maps: string[]) => maps.some((map) => names.has(`blk.0.${map}.bias`));
  return finish(
    {
      architecture: entry.name,
      vocabSize: embedding.shape[0]!,
      hiddenSize,
      intermediateSize: keys.feed_forward_length,
      layers: keys.block_count,
      heads,
      kvHeads: keys['attention.head_count_kv'] ?? heads,
      headDim,
      maxPositions: keys.context_length,
      rmsEps: keys['attention.layer_norm_rms_epsilon'],
      ...readRope(keys, headDim, entry, source, ropeFactors),
      qkvBias: own.qkvBias || has('attn_q', 'attn_k', 'attn_v'),
      outputBias: own.outputBias || has('attn_output'),
      mlpBias: own.mlpBias || has('ffn_gate', 'ffn_up', 'ffn_down'),
      tied: !names.has('output.weight'),
    },
    source,
    [name('attention.head_count'), name('attention.head_count_kv'), name('attention.key_length')],
  );
}

/** The architecture's keys without their prefix. */
function readKeys(metadata: GgufMetadata, prefix: string, source: string): Keys {
  const own = Object.fromEntries(
    Object.entries(metadata)
      .filter(([key]) => key.startsWith(`${prefix}.`))
      .map(([key, value]) => [key.slice(prefix.length + 1), value]),
  );
  return check(keysSchema, own, source, 'CONFIG_INVALID', `${prefix}.`);
}

function readRope(
  keys: Keys,
  headDim: number,
  entry: Architecture,
  source: string,
  factors?: ArrayLike<number>,
): Rope {
  const ropeTheta = keys['rope.freq_base'] ?? entry.defaults.ropeTheta;
  const type = keys['rope.scaling.type'] ?? 'none';
  if (type !== 'none' && type !== 'linear') {
    throw makeError(
      'UNSUPPORTED_ARCHITECTURE',
      `${source}: rope scaling ${show(type)} is not supported; supported: none, linear, Llama 3's factors`,
    );
  }
  const factor = keys['rope.scaling.factor'] ?? keys['rope.scale_linear'] ?? 1;
  if (factors) {
    const original = keys['rope.scaling.original_context_length'] ?? 8192;
    return { ropeTheta, ropeScaling: scalingFromFactors(factors, ropeTheta, headDim, original, source) };
  }
  return { ropeTheta, ropeScaling: factor === 1 ? null : { type: 'linear', factor } };
}
