import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import type { ErrorCode } from '../../lib/errors.js';
import { configFromJson } from '../../lib/format/config.js';
import { configFromGguf, parseGgufHeader } from '../../lib/format/gguf.js';
import { failureOf, headerOf } from '../support/headers.js';

// SmolLM2-135M-Instruct's config.json, as published (transformers 4).
const SMOLLM2 = {
  architectures: ['LlamaForCausalLM'],
  attention_bias: false,
  attention_dropout: 0.0,
  bos_token_id: 1,
  eos_token_id: 2,
  hidden_act: 'silu',
  hidden_size: 576,
  initializer_range: 0.041666666666666664,
  intermediate_size: 1536,
  is_llama_config: true,
  max_position_embeddings: 8192,
  mlp_bias: false,
  model_type: 'llama',
  num_attention_heads: 9,
  num_hidden_layers: 30,
  num_key_value_heads: 3,
  pad_token_id: 2,
  pretraining_tp: 1,
  rms_norm_eps: 1e-5,
  rope_interleaved: false,
  rope_scaling: null,
  rope_theta: 100000,
  tie_word_embeddings: true,
  torch_dtype: 'bfloat16',
  use_cache: true,
  vocab_size: 49152,
};
const SMOLLM2_CONFIG = {
  architecture: 'llama',
  vocabSize: 49152,
  hiddenSize: 576,
  intermediateSize: 1536,
  layers: 30,
  heads: 9,
  kvHeads: 3,
  headDim: 64,
  maxPositions: 8192,
  rmsEps: 1e-5,
  ropeTheta: 100000,
  ropeScaling: null,
  qkvBias: false,
  outputBias: false,
  mlpBias: false,
  tied: true,
};

// As transformers 5 writes it: rope_parameters, layer_types, head_dim left out.
const QWEN2 = {
  architectures: ['Qwen2ForCausalLM'],
  hidden_act: 'silu',
  hidden_size: 896,
  intermediate_size: 4864,
  layer_types: ['full_attention', 'full_attention'],
  max_position_embeddings: 32768,
  max_window_layers: 21,
  model_type: 'qwen2',
  num_attention_heads: 14,
  num_hidden_layers: 2,
  num_key_value_heads: 2,
  rms_norm_eps: 1e-6,
  rope_parameters: { rope_theta: 1000000.0, rope_type: 'default' },
  sliding_window: null,
  tie_word_embeddings: true,
  use_sliding_window: false,
  vocab_size: 151936,
};

describe('config.json', () => {
  test('SmolLM2', () => {
    expect(configFromJson(SMOLLM2)).toEqual(SMOLLM2_CONFIG);
  });

  test('Qwen2 has biases on q, k and v only, and no key that says so', () => {
    expect(configFromJson(QWEN2)).toMatchObject({
      architecture: 'qwen2',
      headDim: 64,
      ropeTheta: 1000000,
      ropeScaling: null,
      qkvBias: true,
      outputBias: false,
      mlpBias: false,
      tied: true,
    });
  });

  test('Llama attention_bias covers the output map, mlp_bias the MLP', () => {
    expect(configFromJson({ ...SMOLLM2, attention_bias: true })).toMatchObject({
      qkvBias: true,
      outputBias: true,
      mlpBias: false,
    });
    expect(configFromJson({ ...SMOLLM2, mlp_bias: true })).toMatchObject({ qkvBias: false, mlpBias: true });
  });

  test('Llama 3 scaling in both spellings', () => {
    const scaling = {
      factor: 32.0,
      high_freq_factor: 4.0,
      low_freq_factor: 1.0,
      original_max_position_embeddings: 8192,
      rope_type: 'llama3',
    };
    const expected = {
      ropeTheta: 500000,
      ropeScaling: {
        type: 'llama3',
        factor: 32,
        lowFreqFactor: 1,
        highFreqFactor: 4,
        originalMaxPositions: 8192,
      },
    };
    expect(configFromJson({ ...SMOLLM2, rope_theta: 500000, rope_scaling: scaling })).toMatchObject(expected);
    const { rope_theta: _theta, rope_scaling: _scaling, ...rest } = SMOLLM2;
    expect(configFromJson({ ...rest, rope_parameters: { ...scaling, rope_theta: 500000 } })).toMatchObject(
      expected,
    );
  });

  test('linear scaling, named "type" by old files', () => {
    const expected = { type: 'linear', factor: 2.5 };
    expect(configFromJson({ ...SMOLLM2, rope_scaling: { type: 'linear', factor: 2.5 } }).ropeScaling).toEqual(
      expected,
    );
    expect(
      configFromJson({ ...SMOLLM2, rope_scaling: { rope_type: 'linear', factor: 2.5 } }).ropeScaling,
    ).toEqual(expected);
  });

  test('defaults of absent keys are those of transformers', () => {
    const {
      num_key_value_heads: _a,
      rms_norm_eps: _b,
      rope_theta: _c,
      tie_word_embeddings: _d,
      ...rest
    } = SMOLLM2;
    expect(configFromJson({ ...rest, max_position_embeddings: null })).toMatchObject({
      kvHeads: 9,
      rmsEps: 1e-6,
      ropeTheta: 10000,
      tied: false,
      maxPositions: 2048,
    });
  });

  test('head_dim is taken as stated', () => {
    expect(configFromJson({ ...SMOLLM2, head_dim: 128 }).headDim).toBe(128);
  });

  test('every tiny model of the fixtures reads', () => {
    for (const name of ['llama-tied', 'llama-untied-bias', 'qwen2', 'llama3-rope', 'llama-linear-rope']) {
      const text = readFileSync(new URL(`../fixtures/models/${name}/config.json`, import.meta.url), 'utf8');
      expect(configFromJson(JSON.parse(text)).vocabSize).toBe(512);
    }
  });

  test.each<[string, object, ErrorCode, string[]]>([
    [
      'another architecture',
      { model_type: 'mamba' },
      'UNSUPPORTED_ARCHITECTURE',
      ['"mamba"', 'llama, mistral, qwen2'],
    ],
    ['no architecture', { model_type: undefined }, 'CONFIG_INVALID', ['"model_type" is missing']],
    [
      'a model without a head',
      { architectures: ['LlamaForSequenceClassification'] },
      'UNSUPPORTED_ARCHITECTURE',
      ['LlamaForSequenceClassification', 'LlamaForCausalLM'],
    ],
    [
      'a missing key',
      { hidden_size: undefined },
      'CONFIG_INVALID',
      ['"hidden_size" is missing', 'positive integer'],
    ],
    [
      'a negative size',
      { hidden_size: -576 },
      'CONFIG_INVALID',
      ['"hidden_size" is -576', 'positive integer'],
    ],
    [
      'a fraction',
      { num_hidden_layers: 1.5 },
      'CONFIG_INVALID',
      ['"num_hidden_layers" is 1.5', 'positive integer'],
    ],
    [
      'a number as text',
      { vocab_size: '49152' },
      'CONFIG_INVALID',
      ['"vocab_size" is "49152"', 'positive integer'],
    ],
    ['an enormous size', { vocab_size: 1e300 }, 'CONFIG_INVALID', ['"vocab_size" is 1e+300']],
    [
      'heads that do not divide',
      { num_attention_heads: 10 },
      'CONFIG_INVALID',
      ['"hidden_size" is 576', '(10)'],
    ],
    [
      'groups that do not divide',
      { num_key_value_heads: 2 },
      'CONFIG_INVALID',
      ['"num_attention_heads" is 9', '(2)'],
    ],
    ['an odd head', { head_dim: 63 }, 'CONFIG_INVALID', ['"head_dim" is 63', 'even']],
    ['an eps of zero', { rms_norm_eps: 0 }, 'CONFIG_INVALID', ['"rms_norm_eps" is 0', 'positive']],
    [
      'another activation',
      { hidden_act: 'gelu' },
      'UNSUPPORTED_ARCHITECTURE',
      ['"hidden_act" is "gelu"', '"silu"'],
    ],
    [
      'another scaling',
      { rope_scaling: { type: 'dynamic', factor: 4 } },
      'UNSUPPORTED_ARCHITECTURE',
      ['"dynamic"', 'linear, llama3'],
    ],
    [
      'Llama 3 scaling without its constants',
      { rope_scaling: { rope_type: 'llama3', factor: 8 } },
      'CONFIG_INVALID',
      ['"rope_scaling"', '"low_freq_factor" is missing'],
    ],
    [
      'Llama 3 scaling upside down',
      {
        rope_scaling: {
          rope_type: 'llama3',
          factor: 8,
          low_freq_factor: 4,
          high_freq_factor: 1,
          original_max_position_embeddings: 8192,
        },
      },
      'CONFIG_INVALID',
      ['"high_freq_factor" is 1', '(4)'],
    ],
    ['half a rotary', { partial_rotary_factor: 0.5 }, 'UNSUPPORTED_ARCHITECTURE', ['0.5', 'expected 1']],
    [
      'quantised weights',
      { quantization_config: { bits: 4 } },
      'UNSUPPORTED_ARCHITECTURE',
      ['quantization_config'],
    ],
  ])('refuses %s', (_name, change, code, parts) => {
    const error = failureOf(() => configFromJson({ ...SMOLLM2, ...change }));
    expect(error.code).toBe(code);
    for (const part of parts) expect(error.message).toContain(part);
    expect(error.message).toContain('config.json');
  });

  test.each([[null], [[]], ['text'], [3]])('refuses %o', (value) => {
    expect(failureOf(() => configFromJson(value)).code).toBe('CONFIG_INVALID');
  });
});

const LLAMA_KEYS = {
  'general.architecture': 'llama',
  'llama.block_count': 30,
  'llama.context_length': 8192,
  'llama.embedding_length': 576,
  'llama.feed_forward_length': 1536,
  'llama.attention.head_count': 9,
  'llama.attention.head_count_kv': 3,
  'llama.rope.freq_base': 100000,
  'llama.attention.layer_norm_rms_epsilon': 1e-5,
  'llama.vocab_size': 49152,
  'llama.rope.dimension_count': 64,
};
const LLAMA_TENSORS: [string, number[]][] = [
  ['token_embd.weight', [49152, 576]],
  ['output_norm.weight', [576]],
];
const QWEN2_KEYS = {
  'general.architecture': 'qwen2',
  'qwen2.block_count': 24,
  'qwen2.context_length': 32768,
  'qwen2.embedding_length': 896,
  'qwen2.feed_forward_length': 4864,
  'qwen2.attention.head_count': 14,
  'qwen2.attention.head_count_kv': 2,
  'qwen2.rope.freq_base': 1000000,
  'qwen2.attention.layer_norm_rms_epsilon': 1e-6,
};

describe('GGUF metadata', () => {
  test('SmolLM2 reads to the same as its config.json', () => {
    expect(configFromGguf(headerOf(LLAMA_KEYS, LLAMA_TENSORS), 'm.gguf')).toEqual(SMOLLM2_CONFIG);
  });

  test('Qwen2; an output tensor unties', () => {
    const tensors: [string, number[]][] = [
      ['token_embd.weight', [151936, 896]],
      ['output.weight', [151936, 896]],
      ['blk.0.attn_q.bias', [896]],
    ];
    expect(configFromGguf(headerOf(QWEN2_KEYS, tensors), 'm.gguf')).toMatchObject({
      architecture: 'qwen2',
      vocabSize: 151936,
      headDim: 64,
      qkvBias: true,
      outputBias: false,
      tied: false,
    });
  });

  test('Qwen2 wants its biases even where the file lacks them; Llama takes those it finds', () => {
    const tensors: [string, number[]][] = [['token_embd.weight', [8, 896]]];
    expect(configFromGguf(headerOf(QWEN2_KEYS, tensors), 'm.gguf').qkvBias).toBe(true);
    const biased: [string, number[]][] = [
      ['token_embd.weight', [8, 576]],
      ['blk.0.attn_q.bias', [576]],
      ['blk.0.attn_output.bias', [576]],
      ['blk.0.ffn_down.bias', [576]],
    ];
    expect(configFromGguf(headerOf(LLAMA_KEYS, biased), 'm.gguf')).toMatchObject({
      qkvBias: true,
      outputBias: true,
      mlpBias: true,
    });
  });

  // From transformers' ROPE_INIT_FUNCTIONS["llama3"]: unscaled over scaled frequencies of Llama 3.2 (factor 32).
  const FACTORS = [...Array<number>(15).fill(1), 1.651329, 3.292263, 9.666731, ...Array<number>(14).fill(32)];

  test('Llama 3 scaling is recovered from its stored factors', () => {
    const keys = { ...LLAMA_KEYS, 'llama.rope.freq_base': 500000 };
    const config = configFromGguf(headerOf(keys, LLAMA_TENSORS), 'm.gguf', { freqs: FACTORS });
    expect(config.ropeScaling).toEqual({
      type: 'llama3',
      factor: 32,
      lowFreqFactor: 1,
      highFreqFactor: 4,
      originalMaxPositions: 8192,
    });
  });

  test('other factors are taken as they are stored; a wrong number of them is refused', () => {
    const keys = { ...LLAMA_KEYS, 'llama.rope.freq_base': 500000 };
    const twisted = FACTORS.map((factor, i) => (i === 16 ? 3.5 : factor));
    const config = configFromGguf(headerOf(keys, LLAMA_TENSORS), 'm.gguf', { freqs: twisted });
    expect(config.ropeScaling).toMatchObject({ type: 'longrope', factors: twisted, attentionFactor: 1 });
    expect(config.maxPositions).toBe(8192);
    const error = failureOf(() => configFromGguf(headerOf(keys, LLAMA_TENSORS), 'm.gguf', { freqs: [1, 2] }));
    expect(error.code).toBe('TENSOR_SHAPE');
  });

  test('linear scaling, and one value a layer where all are equal', () => {
    const keys = {
      ...LLAMA_KEYS,
      'llama.rope.scaling.type': 'linear',
      'llama.rope.scaling.factor': 4,
      'llama.attention.head_count_kv': Array<number>(30).fill(3),
    };
    expect(configFromGguf(headerOf(keys, LLAMA_TENSORS), 'm.gguf')).toMatchObject({
      kvHeads: 3,
      ropeScaling: { type: 'linear', factor: 4 },
    });
  });

  test.each<[string, object, ErrorCode, string[]]>([
    [
      'another architecture',
      { 'general.architecture': 'mamba' },
      'UNSUPPORTED_ARCHITECTURE',
      ['"mamba"', 'llama, mistral, qwen2'],
    ],
    [
      'no architecture',
      { 'general.architecture': undefined },
      'CONFIG_INVALID',
      ['"general.architecture" is missing'],
    ],
    [
      'a missing key',
      { 'llama.block_count': undefined },
      'CONFIG_INVALID',
      ['"llama.block_count" is missing'],
    ],
    ['a bad value', { 'llama.embedding_length': -1 }, 'CONFIG_INVALID', ['"llama.embedding_length" is -1']],
    [
      'unequal layers',
      { 'llama.attention.head_count_kv': [3, 9] },
      'CONFIG_INVALID',
      ['head_count_kv', 'every layer'],
    ],
    [
      'attention in both directions',
      { 'llama.attention.causal': false },
      'UNSUPPORTED_ARCHITECTURE',
      ['"llama.attention.causal" is false'],
    ],
    ['experts', { 'llama.expert_count': 8 }, 'UNSUPPORTED_ARCHITECTURE', ['8 experts']],
    [
      'another scaling',
      { 'llama.rope.scaling.type': 'ntk' },
      'UNSUPPORTED_ARCHITECTURE',
      ['"ntk"', 'linear, yarn'],
    ],
    [
      'unequal head widths',
      { 'llama.attention.value_length': 32 },
      'CONFIG_INVALID',
      ['value_length" is 32', '64'],
    ],
    [
      'a partial rotary',
      { 'llama.attention.key_length': 128, 'llama.attention.value_length': 128 },
      'CONFIG_INVALID',
      ['rope.dimension_count" is 64', '128'],
    ],
    [
      'a partial rotary of a head whose width is not stated',
      { 'llama.rope.dimension_count': 48 },
      'CONFIG_INVALID',
      ['rope.dimension_count" is 48', '64'],
    ],
  ])('refuses %s', (_name, change, code, parts) => {
    const error = failureOf(() =>
      configFromGguf(headerOf({ ...LLAMA_KEYS, ...change }, LLAMA_TENSORS), 'm.gguf'),
    );
    expect(error.code).toBe(code);
    for (const part of parts) expect(error.message).toContain(part);
    expect(error.message).toContain('m.gguf');
  });

  test('refuses a missing or misshapen embedding', () => {
    expect(failureOf(() => configFromGguf(headerOf(LLAMA_KEYS, []), 'm.gguf')).code).toBe('TENSOR_MISSING');
    const wide: [string, number[]][] = [['token_embd.weight', [49152, 577]]];
    const error = failureOf(() => configFromGguf(headerOf(LLAMA_KEYS, wide), 'm.gguf'));
    expect(error).toMatchObject({ code: 'TENSOR_SHAPE' });
    expect(error.message).toContain('[49152,577]');
  });

  test.each(['{', '{"format":"safetensors"}'])('refuses a header that is not one: %s', async (text) => {
    await expect(parseGgufHeader(text, 'm.gguf')).rejects.toMatchObject({ code: 'FILE_FORMAT' });
  });
});
