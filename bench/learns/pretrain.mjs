// The small world's model: random weights, trained by the library's own inner loop on the world's texts.
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { adapt, Model, Tokenizer } from 'selfedit';
import { writeSafetensors } from '../lib/safetensors.mjs';
import { corpus, tokenizerJson, VOCABULARY } from './world.mjs';

const SIZE = { hidden_size: 64, intermediate_size: 128, num_hidden_layers: 3, num_attention_heads: 4 };
const CONFIG = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  hidden_act: 'silu',
  vocab_size: VOCABULARY,
  ...SIZE,
  num_key_value_heads: 4,
  head_dim: 16,
  max_position_embeddings: 128,
  rms_norm_eps: 1e-5,
  rope_theta: 1000,
  tie_word_embeddings: false,
  eos_token_id: 0,
};

export const openModel = (folder) => Model.load(folder);

/**
 * Writes a model folder. The delta has full rank, so every weight of the layers is free; embedding and head are trained
 * as well. `steps` of `batchSize` documents each. Returns the loss of every step.
 */
export async function pretrain(
  folder,
  { seed = 1, steps = 2400, batchSize = 32, log = () => {}, signal } = {},
) {
  await mkdir(folder, { recursive: true });
  await writeFile(join(folder, 'config.json'), JSON.stringify(CONFIG, null, 2));
  await writeFile(join(folder, 'tokenizer.json'), JSON.stringify(tokenizerJson()));
  const tokenizer = await Tokenizer.fromFolder(folder);
  const model = await Model.random(
    {
      architecture: 'llama',
      vocabSize: CONFIG.vocab_size,
      hiddenSize: CONFIG.hidden_size,
      intermediateSize: CONFIG.intermediate_size,
      layers: CONFIG.num_hidden_layers,
      heads: CONFIG.num_attention_heads,
      kvHeads: CONFIG.num_key_value_heads,
      headDim: CONFIG.head_dim,
      maxPositions: CONFIG.max_position_embeddings,
      rmsEps: CONFIG.rms_norm_eps,
      ropeTheta: CONFIG.rope_theta,
      ropeScaling: null,
      qkvBias: false,
      outputBias: false,
      mlpBias: false,
      tied: false,
    },
    { seed, std: 0.1, tokenizer },
  );
  try {
    const documents = corpus(tokenizer, seed, steps * batchSize);
    let said = 0;
    const [trained] = await adapt(
      [
        {
          fork: model,
          documents: documents.map(({ tokens }) => tokens),
          lossMask: documents.map(({ mask }) => mask),
        },
      ],
      {
        rank: CONFIG.hidden_size,
        alpha: CONFIG.hidden_size,
        targets: ['all', 'embed_tokens', 'lm_head'],
        epochs: 1,
        batchSize,
        learningRate: 2e-3,
        schedule: 'cosine',
        warmupSteps: 100,
        betas: [0.9, 0.98],
        seed,
        signal,
        onProgress: ({ done, total }) => {
          if (done / total < said) return;
          said += 0.1;
          log(`pre-training: ${Math.round((100 * done) / total)} %`);
        },
      },
    );
    const fork = model.fork().apply(trained.delta);
    const tensors = [];
    for (const [id, { name, out, in: width }] of model.tensors.entries()) {
      const values = await fork.weight(id);
      let end = 0;
      tensors.push({
        name: `${name}.weight`,
        dtype: 'F32',
        shape: out === 1 && /norm$/.test(name) ? [width] : [out, width],
        fill: (count) => {
          end += count;
          return values.slice(end - count, end);
        },
      });
    }
    await writeSafetensors(join(folder, 'model.safetensors'), tensors);
    await fork.close();
    await trained.delta.close();
    return trained.loss;
  } finally {
    await model.close();
  }
}
