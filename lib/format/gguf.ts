/** GGUF metadata as a `ModelConfig`. Keys are llama.cpp's: `<architecture>.block_count` and so on. */
import { z } from 'zod';
import type { ModelConfig } from '../binding.js';
import { makeError } from '../errors.js';
import { inSlices } from '../slices.js';
import { type Architecture, findArchitecture } from './architecture.js';
import { finish, gemmaScales, graphOf } from './config.js';
import { type RopeTables, readGgufRope } from './gguf-rope.js';
import { check, count, layerCount, positive, show } from './json.js';
import { parseInParts } from './json-parts.js';
import { windowsFromGguf } from './window.js';

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

/** Lists of one entry a token: those of a large vocabulary stay text (`JsonPart`). */
const LARGE = ['tokens', 'token_type', 'scores', 'merges'].map((key) => [
  'metadata',
  `tokenizer.ggml.${key}`,
]);

/** Parses the JSON text of an inspected header, in slices. Errors: `FILE_FORMAT`. */
export async function parseGgufHeader(
  text: string | Uint8Array,
  source: string,
  signal?: AbortSignal,
): Promise<GgufHeader> {
  const bytes =
    typeof text === 'string' ? Buffer.from(text) : Buffer.from(text.buffer, text.byteOffset, text.length);
  const fail = (error: unknown) => makeError('FILE_FORMAT', `${source}: the header is not valid JSON`, error);
  const json = await inSlices(parseInParts(bytes, LARGE, fail), signal);
  return check(headerSchema, json, `${source}: header`, 'FILE_FORMAT');
}

// Some converters write one value a layer; the same value in every layer is the ordinary case.
const perLayer = z
  .union([count, z.array(count).min(1)], 'a positive integer below 2^31')
  .refine((value) => typeof value === 'number' || new Set(value).size === 1, 'the same in every layer')
  .transform((value) => (typeof value === 'number' ? value : value[0]!));

const keysSchema = z.object({
  block_count: layerCount,
  context_length: count,
  embedding_length: count,
  feed_forward_length: perLayer,
  'attention.head_count': perLayer,
  'attention.head_count_kv': perLayer.optional(),
  'attention.key_length': count.optional(),
  'attention.value_length': count.optional(),
  'attention.scale': positive.optional(),
  'attention.causal': z.boolean('true or false').optional(),
  'attention.layer_norm_rms_epsilon': positive,
  'attention.sliding_window': size.optional(),
  'attention.sliding_window_pattern': z
    .union([count, z.array(z.boolean()).min(1)], 'a positive integer or one value a layer')
    .optional(),
  expert_count: size.optional(),
  'rope.dimension_count': count.optional(),
  'rope.freq_base': positive.optional(),
  'rope.freq_base_swa': positive.optional(),
  'rope.scale_linear': positive.optional(),
  'rope.scaling.type': z.string('a name').optional(),
  'rope.scaling.factor': positive.optional(),
  'rope.scaling.original_context_length': count.optional(),
  'rope.scaling.attn_factor': positive.optional(),
  'rope.scaling.yarn_ext_factor': z.number('a number').optional(),
  'rope.scaling.yarn_attn_factor': positive.optional(),
  'rope.scaling.yarn_beta_fast': positive.optional(),
  'rope.scaling.yarn_beta_slow': positive.optional(),
});
/** The architecture's keys without their prefix. */
export type GgufKeys = z.infer<typeof keysSchema>;

/** The table entry of a GGUF. Errors: `UNSUPPORTED_ARCHITECTURE`, `CONFIG_INVALID`. */
export function ggufArchitecture(metadata: GgufMetadata, source: string): Architecture {
  const key = 'general.architecture';
  const { [key]: name } = check(z.object({ [key]: z.string('a name') }), metadata, source);
  return findArchitecture((known) => known.gguf === name, 'architecture', name, source);
}

/**
 * `tables` are the rotary factors that the file keeps as tensors.
 * Errors: `UNSUPPORTED_ARCHITECTURE`, `CONFIG_INVALID`, `TENSOR_MISSING`, `TENSOR_SHAPE`.
 */
export function configFromGguf(header: GgufHeader, source: string, tables: RopeTables = {}): ModelConfig {
  const { metadata, tensors } = header;
  const entry = ggufArchitecture(metadata, source);
  const prefix = `${entry.gguf}.`;
  const keys = readKeys(metadata, prefix, source);
  refuseOthers(keys, metadata, entry, source);
  const layers = keys.block_count;
  const heads = keys['attention.head_count'];
  const hiddenSize = keys.embedding_length;
  const headDim = readHeadDim(keys, prefix, source);
  const { maxPositions, ...rope } = readGgufRope(keys, headDim, entry, tables, source);
  // Biases are there where the architecture has them or the file brings one; a missing one is the loader's
  // to report.
  const names = new Set(tensors.map((tensor) => tensor.name));
  const has = (...maps: string[]) => maps.some((map) => names.has(`blk.0.${map}.bias`));
  return finish(
    {
      architecture: entry.name,
      vocabSize: readVocabulary(tensors, hiddenSize, source),
      hiddenSize,
      intermediateSize: keys.feed_forward_length,
      layers,
      heads,
      kvHeads: keys['attention.head_count_kv'] ?? heads,
      headDim,
      maxPositions,
      rmsEps: keys['attention.layer_norm_rms_epsilon'],
      ...rope,
      qkvBias: entry.biases.qkv === true || has('attn_q', 'attn_k', 'attn_v', 'attn_qkv'),
      outputBias: entry.biases.output === true || has('attn_output'),
      mlpBias: entry.biases.mlp === true || has('ffn_gate', 'ffn_up', 'ffn_down'),
      tied: !names.has('output.weight'),
      ...windowsFromGguf(
        keys['attention.sliding_window'],
        keys['attention.sliding_window_pattern'],
        layers,
        entry,
        source,
      ),
      ...graphOf(entry, entry.defaults.activation),
      ...(entry.gemmaScales && gemmaScales(hiddenSize, queryScalar(keys, headDim))),
    },
    source,
    [`${prefix}attention.head_count`, `${prefix}attention.head_count_kv`, `${prefix}attention.key_length`],
  );
}

/** The architecture's keys without their prefix, which ends in a dot. */
function readKeys(metadata: GgufMetadata, prefix: string, source: string): GgufKeys {
  const own = Object.fromEntries(
    Object.entries(metadata)
      .filter(([key]) => key.startsWith(prefix))
      .map(([key, value]) => [key.slice(prefix.length), value]),
  );
  return check(keysSchema, own, source, 'CONFIG_INVALID', prefix);
}

function refuseOthers(keys: GgufKeys, metadata: GgufMetadata, entry: Architecture, source: string): void {
  if (keys.expert_count) {
    throw makeError(
      'UNSUPPORTED_ARCHITECTURE',
      `${source}: a mixture of ${keys.expert_count} experts is not supported`,
    );
  }
  if (keys['attention.causal'] === false) {
    throw makeError(
      'UNSUPPORTED_ARCHITECTURE',
      `${source}: "${entry.gguf}.attention.causal" is false, expected true: a language model, not one of embeddings`,
    );
  }
  for (const name of entry.refused) {
    const key = `${entry.gguf}.${name}`;
    if (!metadata[key]) continue;
    throw makeError(
      'UNSUPPORTED_ARCHITECTURE',
      `${source}: "${key}" is ${show(metadata[key])}, expected none`,
    );
  }
}

function readHeadDim(keys: GgufKeys, prefix: string, source: string): number {
  const fail = (key: keyof GgufKeys, expected: string): never => {
    throw makeError(
      'CONFIG_INVALID',
      `${source}: "${prefix}${key}" is ${show(keys[key])}, expected ${expected}`,
    );
  };
  const heads = keys['attention.head_count'];
  const headDim = keys['attention.key_length'] ?? keys.embedding_length / heads;
  if (!Number.isInteger(headDim)) {
    fail('embedding_length', `a multiple of "${prefix}attention.head_count" (${heads})`);
  }
  if ((keys['attention.value_length'] ?? headDim) !== headDim) {
    fail('attention.value_length', `${headDim}, as many as keys have`);
  }
  if ((keys['rope.dimension_count'] ?? headDim) !== headDim) {
    fail('rope.dimension_count', `${headDim}, the whole head`);
  }
  return headDim;
}

function readVocabulary(tensors: GgufHeader['tensors'], hiddenSize: number, source: string): number {
  const embedding = tensors.find((tensor) => tensor.name === 'token_embd.weight');
  if (!embedding) throw makeError('TENSOR_MISSING', `${source} has no tensor "token_embd.weight"`);
  if (embedding.shape.length !== 2 || embedding.shape[1] !== hiddenSize) {
    throw makeError(
      'TENSOR_SHAPE',
      `${source}: tensor "token_embd.weight" is ${show(embedding.shape)}, expected [vocabulary, ${hiddenSize}]`,
    );
  }
  return embedding.shape[0]!;
}

/** Layers of Gemma 3 27B, the one size whose scalar is not the head's width. */
const GEMMA_27B_LAYERS = 62;

/** Gemma's `query_pre_attn_scalar`, which GGUF does not store: as llama.cpp derives it. */
function queryScalar(keys: GgufKeys, headDim: number): number {
  const scale = keys['attention.scale'];
  if (scale !== undefined) return 1 / scale ** 2;
  return keys.block_count === GEMMA_27B_LAYERS
    ? keys.embedding_length / keys['attention.head_count']
    : headDim;
}
