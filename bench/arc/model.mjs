// The small world's model.
import { pretrainModel } from '../lib/pretrain.mjs';
import { tokenizerJson, VOCABULARY } from './tokenizer.mjs';
import { corpus } from './world.mjs';

/** About 180,000 parameters. */
const SIZE = {
  vocab_size: VOCABULARY,
  hidden_size: 64,
  intermediate_size: 192,
  num_hidden_layers: 3,
  num_attention_heads: 4,
  max_position_embeddings: 1024,
};

/** Writes a model folder; returns the loss of every step. */
export function pretrain(folder, { seed = 1, steps, batchSize = 32, log, signal } = {}) {
  return pretrainModel(folder, {
    size: SIZE,
    tokenizerJson,
    corpus: (tokenizer, count) => corpus(tokenizer, seed, count),
    seed,
    steps,
    batchSize,
    learningRate: 3e-3,
    ...(log ? { log } : {}),
    signal,
  });
}
