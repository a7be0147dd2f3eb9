/** What a model path means: a Hugging Face folder or a .gguf file, resolved to checked absolute paths. */
import { open, readdir, stat } from 'node:fs/promises';
import { basename, extname, join, resolve } from 'node:path';
import { z } from 'zod';
import type { ModelConfig, WeightLayout } from '../binding.js';
import { makeError } from '../errors.js';
import { readFolderConfig } from './config.js';
import { configFromGguf, type GgufHeader, ggufArchitecture } from './gguf.js';
import { type ResolveOptions, readParts, readTable } from './gguf-parts.js';
import { allowedRoots, inside } from './inside.js';
import { check, isCode, messageOf, readJsonIfPresent, VOCABULARY_LIMIT } from './json.js';

interface Source {
  /** Absolute path of the folder or file (the first part of a split one). */
  path: string;
  /** Absolute paths of the weight files. */
  files: string[];
  config: ModelConfig;
  layout: WeightLayout;
}
/** Everything needed to load a model; `format` is that of the native loader. */
export type ModelSource =
  | (Source & { kind: 'folder'; format: 'safetensors'; hasTokenizer: boolean })
  | (Source & { kind: 'gguf'; format: 'gguf'; header: GgufHeader });

const PICKLES = new Set(['.bin', '.pt', '.pth', '.ckpt', '.pkl', '.pickle']);

/**
 * Errors: `FILE_NOT_FOUND`, `FILE_FORMAT`, `FILE_UNSAFE` (pickled weights, paths that leave the folder),
 * `UNSUPPORTED_ARCHITECTURE`, `CONFIG_INVALID`, and those of `inspect`.
 */
export async function resolveModel(path: string, options: ResolveOptions): Promise<ModelSource> {
  const absolute = resolve(path);
  let facts: Awaited<ReturnType<typeof stat>>;
  try {
    facts = await stat(absolute);
  } catch (error) {
    if (!isCode(error, 'ENOENT') && !isCode(error, 'ENOTDIR')) {
      throw makeError('IO', `cannot read ${path}: ${messageOf(error)}`, error);
    }
    throw makeError(
      'FILE_NOT_FOUND',
      `there is no model ${path}; expected a Hugging Face folder or a .gguf file`,
    );
  }
  if (facts.isDirectory()) return resolveFolder(absolute);
  const extension = extname(absolute).toLowerCase();
  if (PICKLES.has(extension)) throw pickled(path);
  if (extension === '.safetensors') {
    throw makeError(
      'FILE_FORMAT',
      `${path} holds weights only; expected the folder that also has its config.json`,
    );
  }
  if (extension !== '.gguf' && !(await startsAsGguf(absolute))) {
    throw makeError('FILE_FORMAT', `${path} is not a model; expected a Hugging Face folder or a .gguf file`);
  }
  return resolveGguf(absolute, options);
}

async function resolveGguf(path: string, options: ResolveOptions): Promise<ModelSource> {
  const source = basename(path);
  const parts = await readParts(path, options);
  const header = { ...parts[0]!.header, tensors: parts.flatMap((part) => part.header.tensors) };
  const { 'general.type': type = 'model' } = header.metadata;
  if (type === 'adapter') {
    throw makeError(
      'FILE_FORMAT',
      `${path} is an adapter, expected a model, to which adapters are then applied`,
    );
  }
  const layout = ggufArchitecture(header.metadata, source).ggufLayout;
  const config = configFromGguf(header, source, {
    freqs: await readTable(parts, 'rope_freqs.weight'),
    short: await readTable(parts, 'rope_factors_short.weight'),
  });
  const files = parts.map((part) => part.path);
  return { kind: 'gguf', format: 'gguf', path, files, config, layout, header };
}

async function resolveFolder(path: string): Promise<ModelSource> {
  const configPath = join(path, 'config.json');
  const json = await readJsonIfPresent(configPath, undefined, 'CONFIG_INVALID');
  if (json === undefined) throw await notAModelFolder(path);
  const { config, layout } = readFolderConfig(json, configPath);
  const roots = await allowedRoots(path);
  const files: string[] = [];
  for (const name of await weightNames(path)) files.push(await inside(path, name, roots));
  const hasTokenizer = (await exists(join(path, 'tokenizer.json'))) === true;
  return { kind: 'folder', format: 'safetensors', path, files, config, layout, hasTokenizer };
}

const indexSchema = z.looseObject(
  { weight_map: z.record(z.string(), z.string('a file name'), 'an object of tensor names and file names') },
  'an object',
);

/** Relative names of the weight files, in order. transformers, too, prefers the single file to the index. */
async function weightNames(path: string): Promise<string[]> {
  if (await exists(join(path, 'model.safetensors'))) return ['model.safetensors'];
  const indexPath = join(path, 'model.safetensors.index.json');
  const json = await readJsonIfPresent(indexPath, VOCABULARY_LIMIT);
  if (json === undefined) {
    const names = await readdir(path);
    if (names.some((name) => PICKLES.has(extname(name).toLowerCase()))) throw pickled(path);
    throw makeError(
      'FILE_NOT_FOUND',
      `${path} has no weights; expected model.safetensors or model.safetensors.index.json`,
    );
  }
  const { weight_map: map } = check(indexSchema, json, indexPath, 'FILE_FORMAT');
  const names = [...new Set(Object.values(map))].sort();
  if (names.length === 0) throw makeError('FILE_FORMAT', `${indexPath} names no tensors`);
  const wrong = names.find((name) => extname(name) !== '.safetensors');
  if (wrong !== undefined) {
    throw makeError(
      'FILE_UNSAFE',
      `${indexPath} names ${JSON.stringify(wrong)}, expected .safetensors files only`,
    );
  }
  return names;
}

/** Whether there is a regular file of that name. */
export async function exists(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isFile();
  } catch {
    return false;
  }
}

async function startsAsGguf(path: string): Promise<boolean> {
  const file = await open(path, 'r');
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(4), 0, 4, 0);
    return bytesRead === 4 && buffer.toString('latin1') === 'GGUF';
  } finally {
    await file.close();
  }
}

async function notAModelFolder(path: string): Promise<Error> {
  const names = await readdir(path);
  const files = names.filter((name) => name.endsWith('.gguf')).sort();
  const isAdapter = names.includes('adapter_config.json');
  const advice = isAdapter
    ? '; it is an adapter, expected a model, to which adapters are then applied'
    : files.length > 0
      ? `; give one of its files instead: ${files.slice(0, 3).join(', ')}`
      : '';
  return makeError('FILE_NOT_FOUND', `${path} has no config.json${advice}`);
}

/** The refusal of pickled weights; `loader` is the Python class that reads them and writes safetensors. */
export function pickled(path: string, loader = 'AutoModelForCausalLM.from_pretrained(…)'): Error {
  return makeError(
    'FILE_UNSAFE',
    `${path} has its weights in a pickle, which can run code when it is read, so it is never opened; ` +
      `expected safetensors (in Python: ${loader}.save_pretrained(…))`,
  );
}
