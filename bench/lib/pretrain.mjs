// Small models of the benchmarks' own: random weights, trained by the library's own inner loop.
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { adapt, Model, Tokenizer } from 'selfedit';
import { writeSafetensors } from './safetensors.mjs';

/**
 * Writes a model folder. `size`: {hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, max_position_embeddings,
 * vocab_size}; `corpus(tokenizer, count)` gives {tokens, mask}. The delta has full rank, so every weight of the layers is
 * free; embedding and head are trained as well. `steps` of `batchSize` documents each. Returns the loss of every step.
 */
export async function pretrainModel(
  folder,
  {
    size,
    tokenizerJson,
    corpus,
    seed = 1,
    steps,
    batchSize = 32,
    learningRate = 2e-3,
    log = () => {},
    signal,
  },
) {
  const config = {
    architectures: ['LlamaForCausalLM'],
    model_type: 'llama',
    hidden_act: 'silu',
    ...size,
    num_key_value_heads: size.num_attention_heads,
    head_dim: size.hidden_size / size.num_attention_heads,
    rms_norm_eps: 1e-5,
    rope_theta: 1000,
    tie_word_embeddings: false,
    eos_token_id: 0,
  };
  await mkdir(folder, { recursive: true });
  await writeFile(join(folder, 'config.json'), JSON.stringify(config, null, 2));
  await writeFile(join(folder, 'tokenizer.json'), JSON.stringify(tokenizerJson()));
  const tokenizer = await Tokenizer.fromFolder(folder);
  const model = await Model.random(
    {
      architecture: 'llama',
      vocabSize: config.vocab_size,
      hiddenSize: config.hidden_size,
      intermediateSize: config.intermediate_size,
      layers: config.num_hidden_layers,
      heads: config.num_attention_heads,
      kvHeads: config.num_key_value_heads,
      headDim: config.head_dim,
      maxPositions: config.max_position_embeddings,
      rmsEps: config.rms_norm_eps,
      ropeTheta: config.rope_theta,
      ropeScaling: null,
      qkvBias: false,
      outputBias: false,
      mlpBias: false,
      tied: false,
    },
    { seed, std: 0.1, tokenizer },
  );
  try {
    const documents = corpus(tokenizer, steps * batchSize);
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
        rank: config.hidden_size,
        alpha: config.hidden_size,
        targets: ['all', 'embed_tokens', 'lm_head'],
        epochs: 1,
        batchSize,
        learningRate,
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
