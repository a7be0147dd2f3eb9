/** The files beside the weights of a merged model: configuration, tokenizer, generation settings. */
import { copyFile } from 'node:fs/promises';
import { join } from 'node:path';
import { makeError } from '../errors.js';
import type { ModelSource } from '../format/folder.js';
import { allowedRoots, inside } from '../format/inside.js';
import { isCode, messageOf, readJsonIfPresent } from '../format/json.js';
import type { Model } from '../model.js';
import { inSlices } from '../slices.js';
import { readGgufTokenizer } from '../tokenizer/gguf.js';
import { writeAtomically } from '../write-file.js';
import { configJson } from './config-json.js';
import type { ExportDtype } from './merged-plan.js';

const COPIED = [
  'generation_config.json',
  'tokenizer.json',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'added_tokens.json',
  'chat_template.jinja',
  'chat_template.json',
  'tokenizer.model',
  'vocab.json',
  'merges.txt',
];

/** Writes them into `folder`. Without a `dtype` config.json stays as it is. */
export async function writeCompanions(
  model: Model,
  source: ModelSource,
  folder: string,
  dtype: ExportDtype | undefined,
): Promise<void> {
  if (source.kind === 'gguf') return writeFromGguf(model, source, folder, dtype ?? 'float32');
  const roots = await allowedRoots(source.path);
  for (const name of COPIED) await copyIfPresent(source.path, name, folder, roots);
  if (dtype === undefined) {
    await copyIfPresent(source.path, 'config.json', folder, roots);
    return;
  }
  const json = (await readJsonIfPresent(join(source.path, 'config.json'))) as Record<string, unknown>;
  const key = 'dtype' in json ? 'dtype' : 'torch_dtype';
  await writeJson(join(folder, 'config.json'), { ...json, [key]: dtype });
}

async function copyIfPresent(
  from: string,
  name: string,
  to: string,
  roots: readonly string[],
): Promise<void> {
  try {
    await copyFile(await inside(from, name, roots), join(to, name));
  } catch (error) {
    if (isCode(error, 'FILE_NOT_FOUND')) return;
    if (isCode(error, 'FILE_UNSAFE')) throw error;
    throw makeError('IO', `cannot copy ${join(from, name)}: ${messageOf(error)}`, error);
  }
}

async function writeFromGguf(
  model: Model,
  { header, path }: Extract<ModelSource, { kind: 'gguf' }>,
  folder: string,
  dtype: ExportDtype,
): Promise<void> {
  const { metadata } = header;
  const id = (name: string) => {
    const value = metadata[`tokenizer.ggml.${name}_token_id`];
    return typeof value === 'number' ? value : undefined;
  };
  if (metadata['tokenizer.ggml.model'] === undefined) {
    await writeJson(join(folder, 'config.json'), configJson(model.config, dtype, {}));
    return;
  }
  const { json, specialTokens, eosTokenIds, chatTemplate } = await inSlices(
    readGgufTokenizer(metadata, path),
  );
  const eos = [...new Set(eosTokenIds)];
  const config = configJson(model.config, dtype, { bos: id('bos'), eos });
  await writeJson(join(folder, 'config.json'), config);
  await writeJson(join(folder, 'generation_config.json'), {
    ...(id('bos') !== undefined && { bos_token_id: id('bos') }),
    eos_token_id: eos,
  });
  const { vocab, merges } = json.model;
  const pairs = merges.list().map((pair) => pair.map((token) => vocab.token(token)));
  const parts = { ...json, model: { ...json.model, merges: pairs } };
  const tokenizer = { version: '1.0', truncation: null, padding: null, ...parts };
  await writeAtomically(join(folder, 'tokenizer.json'), JSON.stringify(tokenizer));
  await writeJson(join(folder, 'tokenizer_config.json'), {
    tokenizer_class: 'PreTrainedTokenizerFast',
    ...specialTokens,
    clean_up_tokenization_spaces: false,
    model_max_length: model.config.maxPositions,
    ...(chatTemplate !== undefined && { chat_template: chatTemplate }),
  });
}

export async function writeJson(path: string, value: unknown): Promise<void> {
  await writeAtomically(path, `${JSON.stringify(value, null, 2)}\n`);
}
