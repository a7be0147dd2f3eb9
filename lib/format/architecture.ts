/**
 * The architectures that load: one entry each. An entry says how the model is named in config.json and in
 * GGUF, what its files leave out, and what it adds to the common shape (RMSNorm, rotary positions,
 * grouped-query attention, gated MLP). A new one is a new entry, plus the native graph's own switch where it
 * computes something new. Defaults are those of transformers' configuration classes.
 */
import type { ModelConfig, WeightLayout } from '../binding.js';
import { makeError } from '../errors.js';

/** Where a bias comes from: always or never there, or as that key of config.json says (absent: false). */
export type BiasRule = boolean | 'attention_bias' | 'mlp_bias';

/**
 * Which layers see only the last `sliding_window` tokens: `none`; `all`; `upper`, from `max_window_layers`
 * on, where `use_sliding_window`; `pattern`, all but each `sliding_window_pattern`-th.
 */
export type WindowRule = 'none' | 'all' | 'upper' | 'pattern';

/** How rotary positions are stated: once; once for each type of layer; once, and Phi-3's longrope. */
export type RopeRule = 'one' | 'byLayerType' | 'phi3';

export interface Architecture {
  /** `ModelConfig.architecture`. */
  name: string;
  /** `model_type` of config.json. */
  modelType: string;
  /** Members of config.json's `architectures` that have a language-model head. */
  classes: readonly string[];
  /** `general.architecture` of GGUF, also the prefix of its keys; none: llama.cpp files it under another's. */
  gguf?: string;
  folderLayout: WeightLayout;
  ggufLayout: WeightLayout;
  /** What config.json leaves out. Without a `headDim`, heads share the hidden size; without `kvHeads`, each has its own. */
  defaults: {
    maxPositions: number;
    rmsEps: number;
    ropeTheta: number;
    localRopeTheta?: number;
    tied: boolean;
    kvHeads?: number;
    headDim?: number;
    slidingWindow?: number;
    activation: NonNullable<ModelConfig['activation']>;
  };
  /** Key of config.json that names the gate's activation. */
  activationKey: 'hidden_act' | 'hidden_activation';
  biases: { qkv: BiasRule; output: BiasRule; mlp: BiasRule };
  windows: WindowRule;
  rope: RopeRule;
  qkNorm: boolean;
  postNorms: boolean;
  /** Gemma's factors: √hidden_size on the embedding's rows, 1 / √query_pre_attn_scalar on the scores. */
  gemmaScales: boolean;
  /** Keys of config.json, and of GGUF without the prefix, that must be absent, null or false. */
  refused: readonly string[];
}

const PLAIN: WeightLayout = { permutedQK: false, normOffset: 0, fused: false };
const NO_BIASES = { qkv: false, output: false, mlp: false } as const;
const ATTENTION_BIASES = { qkv: 'attention_bias', output: 'attention_bias', mlp: false } as const;
/** What most entries share. */
const COMMON = {
  folderLayout: PLAIN,
  ggufLayout: PLAIN,
  activationKey: 'hidden_act',
  biases: NO_BIASES,
  windows: 'none',
  rope: 'one',
  qkNorm: false,
  postNorms: false,
  gemmaScales: false,
  refused: [],
} as const;

export const ARCHITECTURES: readonly Architecture[] = [
  {
    ...COMMON,
    name: 'llama',
    modelType: 'llama',
    classes: ['LlamaForCausalLM'],
    gguf: 'llama',
    ggufLayout: { ...PLAIN, permutedQK: true },
    defaults: { maxPositions: 2048, rmsEps: 1e-6, ropeTheta: 10000, tied: false, activation: 'silu' },
    biases: { ...ATTENTION_BIASES, mlp: 'mlp_bias' },
  },
  {
    ...COMMON,
    name: 'mistral',
    modelType: 'mistral',
    classes: ['MistralForCausalLM'],
    defaults: {
      maxPositions: 131072,
      rmsEps: 1e-6,
      ropeTheta: 10000,
      tied: false,
      kvHeads: 8,
      slidingWindow: 4096,
      activation: 'silu',
    },
    windows: 'all',
  },
  {
    ...COMMON,
    name: 'qwen2',
    modelType: 'qwen2',
    classes: ['Qwen2ForCausalLM'],
    gguf: 'qwen2',
    defaults: {
      maxPositions: 32768,
      rmsEps: 1e-6,
      ropeTheta: 10000,
      tied: false,
      kvHeads: 32,
      slidingWindow: 4096,
      activation: 'silu',
    },
    biases: { qkv: true, output: false, mlp: false },
    windows: 'upper',
  },
  {
    ...COMMON,
    name: 'qwen3',
    modelType: 'qwen3',
    classes: ['Qwen3ForCausalLM'],
    gguf: 'qwen3',
    defaults: {
      maxPositions: 32768,
      rmsEps: 1e-6,
      ropeTheta: 10000,
      tied: false,
      kvHeads: 32,
      headDim: 128,
      slidingWindow: 4096,
      activation: 'silu',
    },
    biases: ATTENTION_BIASES,
    windows: 'upper',
    qkNorm: true,
  },
  {
    ...COMMON,
    name: 'gemma3',
    modelType: 'gemma3_text',
    classes: ['Gemma3ForCausalLM'],
    gguf: 'gemma3',
    folderLayout: { ...PLAIN, normOffset: 1 },
    defaults: {
      maxPositions: 131072,
      rmsEps: 1e-6,
      ropeTheta: 1000000,
      localRopeTheta: 10000,
      tied: true,
      kvHeads: 4,
      headDim: 256,
      slidingWindow: 4096,
      activation: 'gelu_pytorch_tanh',
    },
    activationKey: 'hidden_activation',
    biases: ATTENTION_BIASES,
    windows: 'pattern',
    rope: 'byLayerType',
    qkNorm: true,
    postNorms: true,
    gemmaScales: true,
    refused: ['attn_logit_softcapping', 'final_logit_softcapping', 'use_bidirectional_attention'],
  },
  {
    ...COMMON,
    name: 'phi3',
    modelType: 'phi3',
    classes: ['Phi3ForCausalLM'],
    gguf: 'phi3',
    folderLayout: { ...PLAIN, fused: true },
    ggufLayout: { ...PLAIN, fused: true },
    defaults: { maxPositions: 4096, rmsEps: 1e-5, ropeTheta: 10000, tied: false, activation: 'silu' },
    windows: 'all',
    rope: 'phi3',
  },
];

/** What to do with a model type that has a known one inside. */
const ADVICE: ReadonlyMap<string, string> = new Map([
  [
    'gemma3',
    'Gemma 3 with pictures; expected its text part alone (docs/models.md says how to save it), or its GGUF',
  ],
]);

/** The entry that `matches`. Errors: `UNSUPPORTED_ARCHITECTURE`, listing the supported ones. */
export function findArchitecture(
  matches: (entry: Architecture) => boolean,
  kind: 'model type' | 'architecture',
  found: string,
  source: string,
): Architecture {
  const entry = ARCHITECTURES.find(matches);
  if (entry) return entry;
  const what = `${source}: ${kind} ${JSON.stringify(found)}`;
  const advice = kind === 'model type' ? ADVICE.get(found) : undefined;
  if (advice !== undefined) throw makeError('UNSUPPORTED_ARCHITECTURE', `${what} is ${advice}`);
  const known = ARCHITECTURES.map(({ name }) => name).join(', ');
  throw makeError('UNSUPPORTED_ARCHITECTURE', `${what} is not supported; supported: ${known}`);
}
