// Every architecture's config.json and GGUF metadata: defaults and rotary frequencies as transformers has them, refusals.
import { describe, expect, test } from 'vitest';
import type { ModelConfig, RopeScaling } from '../../lib/binding.js';
import { configFromJson, readFolderConfig } from '../../lib/format/config.js';
import { configFromGguf } from '../../lib/format/gguf.js';
import { llama3Factors } from '../../lib/format/rope-factors.js';
import { largestGap, readJson } from '../support/fixtures.js';
import { failureOf, headerOf } from '../support/headers.js';

interface RopeFacts {
  ropeTheta: number;
  divisors: number[];
  attentionFactor: number;
}
interface Facts extends RopeFacts {
  kvHeads: number;
  headDim: number;
  maxPositions: number;
  rmsEps: number;
  tied: boolean;
  activation: string;
  slidingWindow: number | null;
  layerTypes: string[];
  attentionScale: number;
  local?: RopeFacts;
}
interface Case {
  name: string;
  json: Record<string, unknown>;
  expected: Facts;
}

function divisorsOf(theta: number, headDim: number, scaling: RopeScaling | null): ArrayLike<number> {
  if (scaling?.type === 'llama3') return llama3Factors(theta, headDim, scaling);
  return scaling?.factors ?? Array<number>(headDim / 2).fill(scaling?.factor ?? 1);
}

function expectRope(
  { ropeTheta, ropeScaling }: Pick<ModelConfig, 'ropeTheta' | 'ropeScaling'>,
  headDim: number,
  facts: RopeFacts,
): void {
  expect(ropeTheta).toBe(facts.ropeTheta);
  const found = divisorsOf(ropeTheta, headDim, ropeScaling);
  // The reference is float32.
  expect(
    largestGap(
      Array.from(found, (value, j) => value / facts.divisors[j]!),
      Array<number>(headDim / 2).fill(1),
    ),
  ).toBeLessThan(2e-6);
  expect(ropeScaling?.attentionFactor ?? 1).toBeCloseTo(facts.attentionFactor, 6);
}

const layerTypesOf = ({ layers, slidingWindow, layerTypes }: ModelConfig): string[] =>
  layerTypes ?? Array<string>(layers).fill(slidingWindow == null ? 'full_attention' : 'sliding_attention');

// Where a scaling changes how long a context may be, which transformers leaves to the caller.
const REACH: Record<string, number> = {
  'qwen2.5-yarn': 131072,
  'qwen2-original-outside': 32768,
  'phi3-mini-128k': 4096,
  'phi3-su': 64,
  'phi3-new': 64,
};

describe('config.json as transformers reads it', () => {
  test.each(readJson<{ cases: Case[] }>('configs.json').cases)('$name', ({ name, json, expected }) => {
    const config = configFromJson(json);
    const { kvHeads, headDim, rmsEps, tied } = expected;
    expect(config).toMatchObject({ kvHeads, headDim, rmsEps, tied });
    expect(config.maxPositions).toBe(REACH[name] ?? expected.maxPositions);
    expect(config.activation ?? 'silu').toBe(expected.activation);
    expect(config.slidingWindow ?? null).toBe(expected.slidingWindow);
    expect(layerTypesOf(config)).toEqual(expected.layerTypes);
    expect(config.attentionScale ?? headDim ** -0.5).toBeCloseTo(expected.attentionScale, 6);
    expectRope(config, headDim, expected);
    expect(config.localRope === undefined).toBe(expected.local === undefined);
    if (expected.local) expectRope(config.localRope!, headDim, expected.local);
  });
});

const SIZES = {
  vocab_size: 512,
  hidden_size: 96,
  intermediate_size: 80,
  num_hidden_layers: 2,
  num_attention_heads: 6,
  num_key_value_heads: 2,
};

describe('what an architecture adds', () => {
  test('Gemma 3: norms of q and k and after each block, factors of embedding and scores, gains without 1', () => {
    const { config, layout } = readFolderConfig({ ...SIZES, model_type: 'gemma3_text' });
    expect(config).toMatchObject({
      architecture: 'gemma3',
      qkNorm: true,
      postNorms: true,
      activation: 'gelu_pytorch_tanh',
      embeddingScale: Math.sqrt(96),
    });
    expect(layout).toEqual({ permutedQK: false, normOffset: 1, fused: false });
  });

  test('Qwen3: norms of q and k; attention_bias covers q, k, v and the output', () => {
    expect(configFromJson({ ...SIZES, model_type: 'qwen3', attention_bias: true })).toMatchObject({
      qkNorm: true,
      qkvBias: true,
      outputBias: true,
      mlpBias: false,
    });
  });

  test('Phi-3: fused projections', () => {
    const { config, layout } = readFolderConfig({ ...SIZES, model_type: 'phi3' });
    expect(layout).toEqual({ permutedQK: false, normOffset: 0, fused: true });
    expect(config).toMatchObject({ headDim: 16, qkvBias: false, outputBias: false });
  });

  test('Mistral: nothing but the window', () => {
    const config = configFromJson({ ...SIZES, model_type: 'mistral', sliding_window: 7 });
    const { ropeTheta, maxPositions, rmsEps, ...rest } = config;
    expect(rest).toEqual({
      architecture: 'mistral',
      vocabSize: 512,
      hiddenSize: 96,
      intermediateSize: 80,
      layers: 2,
      heads: 6,
      kvHeads: 2,
      headDim: 16,
      ropeScaling: null,
      qkvBias: false,
      outputBias: false,
      mlpBias: false,
      tied: false,
      slidingWindow: 7,
    });
  });
});

describe('refusals of config.json name the key, what was found and what was expected', () => {
  const rope = (type: string, rest: object = {}) => ({ rope_scaling: { rope_type: type, ...rest } });
  test.each<[string, string, object, string, string[]]>([
    [
      'a picture model',
      'gemma3',
      {},
      'UNSUPPORTED_ARCHITECTURE',
      ['"gemma3"', 'pictures', 'docs/models.md', 'GGUF'],
    ],
    [
      'soft caps on scores',
      'gemma3_text',
      { attn_logit_softcapping: 50 },
      'UNSUPPORTED_ARCHITECTURE',
      ['"attn_logit_softcapping" is 50', 'null'],
    ],
    [
      'soft caps on logits',
      'gemma3_text',
      { final_logit_softcapping: 30 },
      'UNSUPPORTED_ARCHITECTURE',
      ['"final_logit_softcapping" is 30'],
    ],
    [
      'attention in both directions',
      'gemma3_text',
      { use_bidirectional_attention: true },
      'UNSUPPORTED_ARCHITECTURE',
      ['"use_bidirectional_attention" is true'],
    ],
    [
      'local layers without a window',
      'gemma3_text',
      { sliding_window: null },
      'CONFIG_INVALID',
      ['"layer_types" has "sliding_attention"', '"sliding_window"'],
    ],
    [
      'one rotation for both kinds of layers',
      'gemma3_text',
      { rope_parameters: { rope_type: 'default', rope_theta: 5 } },
      'CONFIG_INVALID',
      ['"rope_type"', 'full_attention, sliding_attention'],
    ],
    [
      'a rotation for each kind of layer',
      'llama',
      { rope_parameters: { full_attention: { rope_type: 'default' } } },
      'UNSUPPORTED_ARCHITECTURE',
      ['"rope_parameters" has "full_attention"', 'one for all'],
    ],
    [
      'another activation',
      'gemma3_text',
      { hidden_activation: 'gelu' },
      'UNSUPPORTED_ARCHITECTURE',
      ['"gelu"'],
    ],
    [
      'windows that are switched off',
      'qwen2',
      { layer_types: ['full_attention', 'sliding_attention'], sliding_window: 4 },
      'CONFIG_INVALID',
      ['"use_sliding_window" to be true'],
    ],
    [
      'too few layer types',
      'qwen3',
      { layer_types: ['full_attention'] },
      'CONFIG_INVALID',
      ['"layer_types" has 1 entries', '"num_hidden_layers" (2)'],
    ],
    [
      'another layer type',
      'qwen3',
      { layer_types: ['full_attention', 'linear_attention'] },
      'UNSUPPORTED_ARCHITECTURE',
      ['"linear_attention"', '"sliding_attention"'],
    ],
    [
      'mixed layers where all have the window',
      'mistral',
      { layer_types: ['full_attention', 'sliding_attention'] },
      'UNSUPPORTED_ARCHITECTURE',
      ['"full_attention"', 'every layer of mistral'],
    ],
    [
      'half a rotary',
      'phi3',
      { partial_rotary_factor: 0.75 },
      'UNSUPPORTED_ARCHITECTURE',
      ['"partial_rotary_factor" is 0.75', 'expected 1'],
    ],
    [
      'linear scaling in Phi-3',
      'phi3',
      rope('linear', { factor: 2 }),
      'UNSUPPORTED_ARCHITECTURE',
      ['"linear"'],
    ],
    [
      'factors of the wrong number',
      'phi3',
      rope('longrope', { short_factor: [1, 2], long_factor: [1, 2] }),
      'CONFIG_INVALID',
      ['"short_factor" has 2 values', 'expected 8'],
    ],
    [
      'factors that are missing',
      'phi3',
      rope('longrope', { short_factor: Array(8).fill(1) }),
      'CONFIG_INVALID',
      ['"long_factor" is missing'],
    ],
    [
      'factors of zero',
      'phi3',
      rope('longrope', { short_factor: Array(8).fill(0), long_factor: Array(8).fill(1) }),
      'CONFIG_INVALID',
      ['"rope_scaling.short_factor.0" is 0', 'positive'],
    ],
    [
      'dynamic scaling',
      'llama',
      rope('dynamic', { factor: 2 }),
      'UNSUPPORTED_ARCHITECTURE',
      ['"dynamic"', 'yarn'],
    ],
    [
      'YaRN upside down',
      'llama',
      rope('yarn', { factor: 2, beta_fast: 1, beta_slow: 2 }),
      'CONFIG_INVALID',
      ['"beta_fast" is 1', 'beta_slow (2)'],
    ],
  ])('%s', (_name, type, change, code, parts) => {
    const error = failureOf(() => configFromJson({ ...SIZES, model_type: type, ...change }));
    expect(error.code).toBe(code);
    for (const part of [...parts, 'config.json']) expect(error.message).toContain(part);
  });
});

describe('GGUF metadata', () => {
  const keysOf = (name: string, extra: object = {}) => ({
    'general.architecture': name,
    ...Object.fromEntries(
      Object.entries({
        block_count: 7,
        context_length: 1024,
        embedding_length: 96,
        feed_forward_length: 80,
        'attention.head_count': 6,
        'attention.head_count_kv': 2,
        'attention.layer_norm_rms_epsilon': 1e-6,
        'rope.freq_base': 10000,
        ...extra,
      }).map(([key, value]) => [`${name}.${key}`, value]),
    ),
  });
  const read = (name: string, extra: object = {}, tables = {}) =>
    configFromGguf(headerOf(keysOf(name, extra), [['token_embd.weight', [512, 96]]]), 'm.gguf', tables);
  const gemma = { 'attention.key_length': 16, 'attention.value_length': 16, 'attention.sliding_window': 512 };

  test('Gemma 3 reads to the same as its config.json', () => {
    const json = {
      ...SIZES,
      model_type: 'gemma3_text',
      num_hidden_layers: 7,
      head_dim: 16,
      query_pre_attn_scalar: 16,
      sliding_window: 512,
      max_position_embeddings: 1024,
      rope_theta: 1000000,
      rope_scaling: { rope_type: 'linear', factor: 8 },
    };
    const found = read('gemma3', {
      ...gemma,
      'rope.freq_base': 1000000,
      'rope.scaling.type': 'linear',
      'rope.scaling.factor': 8,
    });
    expect(found).toEqual(configFromJson(json));
  });

  test('Gemma 3 27B scales its scores by the width per head of the hidden size', () => {
    const wide = { ...gemma, block_count: 62, 'attention.key_length': 8, 'attention.value_length': 8 };
    expect(read('gemma3', wide).attentionScale).toBe(1 / 4);
    expect(read('gemma3', { ...wide, block_count: 7 }).attentionScale).toBe(1 / Math.sqrt(8));
  });

  test('Gemma 3: pattern, list of layers and base of the local layers where the file has them', () => {
    const types = read('gemma3', { ...gemma, 'attention.sliding_window_pattern': 2 }).layerTypes;
    expect(types?.map((type) => type === 'full_attention')).toEqual([
      false,
      true,
      false,
      true,
      false,
      true,
      false,
    ]);
    const list = [true, false, false, true, true, true, true];
    const stated = read('gemma3', { ...gemma, 'attention.sliding_window_pattern': list });
    expect(stated.layerTypes?.map((type) => type === 'sliding_attention')).toEqual(list);
    expect(read('gemma3', { ...gemma, 'rope.freq_base_swa': 20000 }).localRope?.ropeTheta).toBe(20000);
  });

  test('Qwen3 has a head width of its own and norms of q and k', () => {
    const found = read('qwen3', { 'attention.key_length': 20, 'attention.value_length': 20 });
    expect(found).toMatchObject({ headDim: 20, qkNorm: true, qkvBias: false });
  });

  test('Phi-3: window, short factors, original length', () => {
    const short = Float32Array.from({ length: 8 }, (_, j) => 1 + j / 8);
    const keys = { 'attention.sliding_window': 7, 'rope.scaling.original_context_length': 64 };
    const found = read('phi3', keys, { short });
    expect(found).toMatchObject({ slidingWindow: 7, maxPositions: 64 });
    expect(found.ropeScaling).toMatchObject({ type: 'longrope', factor: 16, factors: [...short] });
    expect(found.ropeScaling!.attentionFactor).toBeCloseTo(Math.sqrt(1 + Math.log(16) / Math.log(64)), 12);
    expect(read('phi3', { ...keys, 'attention.sliding_window': 0 }, { short }).slidingWindow).toBeUndefined();
    const stored = read('phi3', { ...keys, 'rope.scaling.attn_factor': 1.25 }, { short });
    expect(stored.ropeScaling!.attentionFactor).toBe(1.25);
  });

  test('YaRN reads to the same as its config.json', () => {
    const json = {
      ...SIZES,
      model_type: 'qwen2',
      num_hidden_layers: 7,
      max_position_embeddings: 1024,
      rope_scaling: { type: 'yarn', factor: 4, original_max_position_embeddings: 256 },
    };
    const found = read('qwen2', {
      'rope.scaling.type': 'yarn',
      'rope.scaling.factor': 4,
      'rope.scaling.original_context_length': 256,
    });
    expect({ ...found, tied: false }).toEqual(configFromJson(json));
  });

  test('a window of the Llama family is in every layer', () => {
    expect(read('llama', { 'attention.sliding_window': 7 })).toMatchObject({ slidingWindow: 7 });
  });

  test.each<[string, string, object, string, string[]]>([
    [
      'windows in layers that it does not name',
      'qwen2',
      { 'attention.sliding_window': 7 },
      'UNSUPPORTED_ARCHITECTURE',
      ['"qwen2.attention.sliding_window" is 7'],
    ],
    [
      'soft caps',
      'gemma3',
      { ...gemma, final_logit_softcapping: 30 },
      'UNSUPPORTED_ARCHITECTURE',
      ['"gemma3.final_logit_softcapping" is 30'],
    ],
    [
      'a list of another length',
      'gemma3',
      { ...gemma, 'attention.sliding_window_pattern': [true] },
      'CONFIG_INVALID',
      ['has 1 values', 'expected 7'],
    ],
    [
      'longrope without its factors',
      'phi3',
      { 'rope.scaling.type': 'longrope' },
      'TENSOR_MISSING',
      ['rope_factors_short.weight'],
    ],
    [
      'half of YaRN',
      'qwen2',
      { 'rope.scaling.type': 'yarn', 'rope.scaling.factor': 4, 'rope.scaling.yarn_ext_factor': 0.5 },
      'UNSUPPORTED_ARCHITECTURE',
      ['yarn_ext_factor" is 0.5', 'expected 1'],
    ],
    ['Mistral 3', 'mistral3', {}, 'UNSUPPORTED_ARCHITECTURE', ['"mistral3"', 'llama, mistral']],
  ])('refuses %s', (_name, architecture, change, code, parts) => {
    const error = failureOf(() => read(architecture, change));
    expect(error.code).toBe(code);
    for (const part of [...parts, 'm.gguf']) expect(error.message).toContain(part);
  });

  test.each<[string, object, string, string[]]>([
    ['of another number', { short: [1, 2] }, 'TENSOR_SHAPE', ['"rope_factors_short.weight" has 2', '8']],
    ['of zero', { short: Array(8).fill(0) }, 'CONFIG_INVALID', ['holds 0', 'positive']],
    ['that are no numbers', { short: Array(8).fill(Number.NaN) }, 'CONFIG_INVALID', ['holds NaN']],
  ])('refuses factors %s', (_name, tables, code, parts) => {
    const error = failureOf(() => read('phi3', {}, tables));
    expect(error.code).toBe(code);
    for (const part of [...parts, 'm.gguf']) expect(error.message).toContain(part);
  });
});
