// The shapes, as config.json has them. Random weights: speed does not depend on values.
import { makeError } from 'selfedit';

const LLAMA = { architectures: ['LlamaForCausalLM'], model_type: 'llama', hidden_act: 'silu' };
const QWEN2 = { architectures: ['Qwen2ForCausalLM'], model_type: 'qwen2', hidden_act: 'silu' };

export const SHAPES = {
  tiny: {
    like: 'a toy, for a quick look',
    config: {
      ...LLAMA,
      vocab_size: 512,
      hidden_size: 64,
      intermediate_size: 160,
      num_hidden_layers: 2,
      num_attention_heads: 4,
      num_key_value_heads: 2,
      max_position_embeddings: 1024,
      rms_norm_eps: 1e-5,
      rope_theta: 10000,
      tie_word_embeddings: true,
    },
  },
  S: {
    like: 'SmolLM2-135M',
    config: {
      ...LLAMA,
      vocab_size: 49152,
      hidden_size: 576,
      intermediate_size: 1536,
      num_hidden_layers: 30,
      num_attention_heads: 9,
      num_key_value_heads: 3,
      max_position_embeddings: 8192,
      rms_norm_eps: 1e-5,
      rope_theta: 100000,
      tie_word_embeddings: true,
    },
  },
  M: {
    like: 'Qwen2.5-0.5B',
    config: {
      ...QWEN2,
      vocab_size: 151936,
      hidden_size: 896,
      intermediate_size: 4864,
      num_hidden_layers: 24,
      num_attention_heads: 14,
      num_key_value_heads: 2,
      max_position_embeddings: 32768,
      rms_norm_eps: 1e-6,
      rope_theta: 1000000,
      tie_word_embeddings: true,
    },
  },
  L: {
    like: 'Llama-3.2-1B',
    config: {
      ...LLAMA,
      vocab_size: 128256,
      hidden_size: 2048,
      intermediate_size: 8192,
      num_hidden_layers: 16,
      num_attention_heads: 32,
      num_key_value_heads: 8,
      head_dim: 64,
      max_position_embeddings: 131072,
      rms_norm_eps: 1e-5,
      rope_theta: 500000,
      rope_scaling: {
        rope_type: 'llama3',
        factor: 32,
        low_freq_factor: 1,
        high_freq_factor: 4,
        original_max_position_embeddings: 8192,
      },
      tie_word_embeddings: true,
    },
  },
  XL: {
    like: 'Qwen2.5-7B',
    config: {
      ...QWEN2,
      vocab_size: 152064,
      hidden_size: 3584,
      intermediate_size: 18944,
      num_hidden_layers: 28,
      num_attention_heads: 28,
      num_key_value_heads: 4,
      max_position_embeddings: 131072,
      rms_norm_eps: 1e-6,
      rope_theta: 1000000,
      tie_word_embeddings: false,
    },
  },
};

export function shapeOf(name) {
  if (Object.hasOwn(SHAPES, name)) return { name, ...SHAPES[name] };
  throw makeError('OPTION_INVALID', `shape is "${name}"; expected ${Object.keys(SHAPES).join(', ')}`);
}
