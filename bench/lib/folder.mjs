// A random model as a Hugging Face folder, so that both sides read the same weights.
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { draws, normal } from './random.mjs';
import { writeSafetensors } from './safetensors.mjs';

/** Tensors of a shape: name, shape and the deviation of its weights (absent: a norm's gains, all 1). */
export function tensorsOf(config) {
  const { hidden_size: c, intermediate_size: f, vocab_size: V, num_attention_heads: H } = config;
  const d = config.head_dim ?? c / H;
  const kv = config.num_key_value_heads * d;
  const embedding = { shape: [V, c], deviation: 1 / Math.sqrt(c) };
  const tensors = [{ name: 'model.embed_tokens.weight', ...embedding }];
  const linear = (name, out, width, bias) => {
    tensors.push({ name: `${name}.weight`, shape: [out, width], deviation: 0.8 / Math.sqrt(width) });
    if (bias) tensors.push({ name: `${name}.bias`, shape: [out], deviation: 0.1 });
  };
  const bias = config.model_type === 'qwen2';
  for (let layer = 0; layer < config.num_hidden_layers; layer++) {
    const prefix = `model.layers.${layer}`;
    tensors.push({ name: `${prefix}.input_layernorm.weight`, shape: [c] });
    linear(`${prefix}.self_attn.q_proj`, H * d, c, bias);
    linear(`${prefix}.self_attn.k_proj`, kv, c, bias);
    linear(`${prefix}.self_attn.v_proj`, kv, c, bias);
    linear(`${prefix}.self_attn.o_proj`, c, H * d);
    tensors.push({ name: `${prefix}.post_attention_layernorm.weight`, shape: [c] });
    linear(`${prefix}.mlp.gate_proj`, f, c);
    linear(`${prefix}.mlp.up_proj`, f, c);
    linear(`${prefix}.mlp.down_proj`, c, f);
  }
  tensors.push({ name: 'model.norm.weight', shape: [c] });
  if (!config.tie_word_embeddings) tensors.push({ name: 'lm_head.weight', ...embedding });
  return tensors;
}

/** Writes config.json and model.safetensors with the weights in `dtype`. */
export async function writeModel(folder, { config }, dtype, seed = 1) {
  const draw = draws(seed);
  await mkdir(folder, { recursive: true });
  const type = { float32: 'F32', bfloat16: 'BF16' }[dtype];
  const tensors = tensorsOf(config).map(({ name, shape, deviation }) => ({
    name,
    shape,
    dtype: type,
    fill: (count) =>
      deviation === undefined ? new Float32Array(count).fill(1) : normal(count, deviation, draw),
  }));
  await writeFile(join(folder, 'config.json'), `${JSON.stringify({ ...config, dtype }, null, 2)}\n`);
  await writeSafetensors(join(folder, 'model.safetensors'), tensors);
  return folder;
}
