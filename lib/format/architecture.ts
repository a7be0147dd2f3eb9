/**
 * The architectures that load: one entry each. An entry says how the model is named in config.json and in
 * GGUF, and what it adds to the common shape (RMSNorm, rotary positions, grouped-query attention, SwiGLU).
 * A new one is a new entry, plus the native graph's own switch where it computes something new.
 */
import { z } from 'zod';
import type { ModelConfig } from '../binding.js';
import { makeError } from '../errors.js';
import { show } from './json.js';

const flag = z.boolean('true or false').nullish();

/** Keys of config.json that only some architectures have. */
export const extraSchema = z.looseObject({
  attention_bias: flag,
  mlp_bias: flag,
  use_sliding_window: flag,
  layer_types: z.array(z.string('a layer type'), 'a list of layer types').nullish(),
});
export type ExtraJson = z.infer<typeof extraSchema>;

export type Biases = Pick<ModelConfig, 'qkvBias' | 'outputBias' | 'mlpBias'>;

export interface Architecture {
  /** `ModelConfig.architecture`. */
  name: string;
  /** `model_type` of config.json. */
  modelType: string;
  /** Members of config.json's `architectures` that have a language-model head. */
  classes: readonly string[];
  /** `general.architecture` of GGUF, which is also the prefix of its keys. */
  gguf: string;
  /** llama.cpp permutes the rows of q and k of this architecture. */
  permutedQK: boolean;
  /** What config.json leaves out when it equals the default of transformers' configuration class. */
  defaults: { ropeTheta: number; rmsEps: number; maxPositions: number };
  /** Reads what the architecture adds, and refuses what is not supported. */
  biases(json: ExtraJson, source: string): Biases;
}

export const ARCHITECTURES: readonly Architecture[] = [
  {
    name: 'llama',
    modelType: 'llama',
    classes: ['LlamaForCausalLM'],
    gguf: 'llama',
    permutedQK: true,
    defaults: { ropeTheta: 10000, rmsEps: 1e-6, maxPositions: 2048 },
    biases: (json) => ({
      qkvBias: json.attention_bias ?? false,
      outputBias: json.attention_bias ?? false,
      mlpBias: json.mlp_bias ?? false,
    }),
  },
  {
    name: 'qwen2',
    modelType: 'qwen2',
    classes: ['Qwen2ForCausalLM'],
    gguf: 'qwen2',
    permutedQK: false,
    defaults: { ropeTheta: 10000, rmsEps: 1e-6, maxPositions: 32768 },
    biases: (json, source) => {
      const windowed = json.layer_types?.find((type) => type !== 'full_attention');
      if (json.use_sliding_window || windowed !== undefined) {
        const found = json.use_sliding_window
          ? '"use_sliding_window" is true'
          : `a layer is ${show(windowed)}`;
        throw makeError('UNSUPPORTED_ARCHITECTURE', `${source}: ${found}; only full attention is supported`);
      }
      return { qkvBias: true, outputBias: false, mlpBias: false };
    },
  },
];

/** The entry that `matches`. Errors: `UNSUPPORTED_ARCHITECTURE`, listing the supported ones. */
export function findArchitecture(
  matches: (entry: Architecture) => boolean,
  found: string,
  source: string,
): Architecture {
  const entry = ARCHITECTURES.find(matches);
  if (entry) return entry;
  const known = ARCHITECTURES.map(({ name }) => name).join(', ');
  throw makeError('UNSUPPORTED_ARCHITECTURE', `${source}: ${found} is not supported; supported: ${known}`);
}
