/** A tiny random model with a real tokenizer: big enough for the prompts, small enough for a test. */
import { cp, readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Model } from '../../../lib/model.js';
import { Tokenizer } from '../../../lib/tokenizer/tokenizer.js';

const fixtures = join(dirname(fileURLToPath(import.meta.url)), '../../fixtures/models');

export async function tinyModel(seed = 5): Promise<Model> {
  const tokenizer = await Tokenizer.fromFolder(join(fixtures, 'llama-tied'));
  const config = {
    architecture: 'llama',
    vocabSize: 512,
    hiddenSize: 32,
    intermediateSize: 48,
    layers: 2,
    heads: 4,
    kvHeads: 2,
    headDim: 8,
    maxPositions: 1024,
    rmsEps: 1e-5,
    ropeTheta: 10_000,
    ropeScaling: null,
    qkvBias: false,
    outputBias: false,
    mlpBias: false,
    tied: true,
  };
  return Model.random(config, { seed, std: 0.1, tokenizer });
}

/** The same size of model as a Hugging Face folder, for what loads a model by its path. */
export async function tinyModelFolder(target: string): Promise<string> {
  const source = join(fixtures, 'llama-tied');
  await cp(source, target, { recursive: true });
  const path = join(target, 'config.json');
  const config = JSON.parse(await readFile(path, 'utf8')) as object;
  // Rotary positions need no table, so the context can be as long as the prompts.
  await writeFile(path, JSON.stringify({ ...config, max_position_embeddings: 2048 }));
  return target;
}
