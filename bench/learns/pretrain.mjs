// The small world's model: random weights, trained by the library's own inner loop on the world's texts.
import { Model } from 'selfedit';
import { pretrainModel } from '../lib/pretrain.mjs';
import { corpus, tokenizerJson, VOCABULARY } from './world.mjs';

const SIZE = {
  vocab_size: VOCABULARY,
  hidden_size: 64,
  intermediate_size: 128,
  num_hidden_layers: 3,
  num_attention_heads: 4,
  max_position_embeddings: 128,
};

export const openModel = (folder) => Model.load(folder);

/** Writes a model folder; returns the loss of every step. */
export function pretrain(folder, { seed = 1, steps = 2400, batchSize = 32, log, signal } = {}) {
  return pretrainModel(folder, {
    size: SIZE,
    tokenizerJson,
    corpus: (tokenizer, count) => corpus(tokenizer, seed, count),
    seed,
    steps,
    batchSize,
    ...(log ? { log } : {}),
    signal,
  });
}
