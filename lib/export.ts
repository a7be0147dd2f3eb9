/** Deltas for other tools: a PEFT adapter, a merged model, an adapter of llama.cpp. */
import { existsSync } from 'node:fs';
import { extname, join } from 'node:path';
import { native, type WriteMergedSpec } from './binding.js';
import type { Delta } from './delta.js';
import { makeError } from './errors.js';
import { writeCompanions, writeJson } from './export/companions.js';
import {
  cutIntoShards,
  EXPORT_TYPES,
  type ExportDtype,
  indexOf,
  planFromFiles,
  planFromModel,
} from './export/merged-plan.js';
import { type OnExit, refuseOccupied, writeWholeFolder } from './export/whole.js';
import { type ModelSource, resolveModel } from './format/folder.js';
import { show } from './format/json.js';
import { readTensorList, type TensorEntry } from './format/tensor-list.js';
import type { Model } from './model.js';
import { type CallOptions, runJob } from './native-job.js';

export type { ExportDtype };
export type ExportFormat = 'peft' | 'merged' | 'gguf-lora';
export const EXPORT_FORMATS: readonly ExportFormat[] = ['peft', 'merged', 'gguf-lora'];

export interface ExportOptions extends CallOptions {
  format: ExportFormat;
  /** `merged`: type of all weights; each in its own type by default, and float32 for those of a GGUF. */
  dtype?: ExportDtype;
  /** `merged`: most bytes of one file of weights. 4 · 10⁹. */
  maxShardBytes?: number;
  /** @internal */
  onExit?: OnExit;
}

/** What an export wrote. */
export interface Exported {
  format: ExportFormat;
  /** The folder, or the file of `gguf-lora`. */
  path: string;
}

/** Beyond this, weights are cut into several files. */
const SHARD_BYTES = 4e9;

/**
 * Writes a delta in a form that other tools read; `out` must be new or an empty folder, and appears whole or not at all.
 *
 * `peft`: an adapter folder. `merged`: a Hugging Face folder with the delta added to the weights: what it does not touch is
 * copied bit for bit, the rest computed in float64 and rounded once to its type; needs the model's files (`model.path`), and,
 * for a GGUF, a model loaded in float32 or float64. `gguf-lora`: one file for llama.cpp's `--lora`; `out` may be its name,
 * ending in .gguf, or the folder for `adapter.gguf`. Several deltas of a fork are added first: `Delta.add`.
 *
 * Progress counts bytes. Errors: `DELTA_INVALID` for what the format cannot hold, `OPTION_INVALID`, `INPUT_INVALID` when
 * `out` is taken, `WEIGHT_NOT_FINITE` when a value does not fit into the type, `AbortedError`, `WorkError` (`IO`).
 */
export async function exportDelta(delta: Delta, out: string, options: ExportOptions): Promise<Exported> {
  delta.assertOpen();
  const { format } = options;
  if (!EXPORT_FORMATS.includes(format)) {
    throw makeError('OPTION_INVALID', `format is "${format}"; expected ${EXPORT_FORMATS.join(', ')}`);
  }
  refuseOthers(options);
  await refuseTaken(out, format);
  if (format === 'gguf-lora') return { format, path: await writeGgufLora(delta, out, options) };
  if (format === 'peft') {
    const misfit = delta.misfit('peft');
    if (misfit !== undefined) {
      throw makeError(
        'DELTA_INVALID',
        `${misfit}, which a PEFT adapter cannot hold; expected low-rank changes of linear maps (export the merged model instead)`,
      );
    }
    await writeWholeFolder(out, (folder) => delta.save(folder), options.onExit);
  } else {
    await writeMerged(delta, out, options);
  }
  return { format, path: out };
}

const isGgufFile = (out: string): boolean => extname(out).toLowerCase() === '.gguf';

/** @internal Before work begins. Errors: `INPUT_INVALID` when something is at `out` already, `IO`. */
export async function refuseTaken(out: string, format: ExportFormat): Promise<void> {
  if (format !== 'gguf-lora' || !isGgufFile(out)) return refuseOccupied(out);
  if (existsSync(out)) throw makeError('INPUT_INVALID', `${out} exists already; expected a new file`);
}

/** Options of a merged model, and only of one. */
function refuseOthers({ format, dtype, maxShardBytes }: ExportOptions): void {
  for (const [name, value] of Object.entries({ dtype, maxShardBytes })) {
    if (value === undefined || format === 'merged') continue;
    throw makeError(
      'OPTION_INVALID',
      `${name} is ${value} with format "${format}"; expected format "merged"`,
    );
  }
  if (dtype !== undefined && !Object.hasOwn(EXPORT_TYPES, dtype)) {
    const known = Object.keys(EXPORT_TYPES).join(', ');
    throw makeError('OPTION_INVALID', `dtype is ${show(dtype)}; expected ${known}`);
  }
  if (maxShardBytes !== undefined && (!Number.isSafeInteger(maxShardBytes) || maxShardBytes < 1)) {
    throw makeError('OPTION_INVALID', `maxShardBytes is ${maxShardBytes}; expected a whole number from 1`);
  }
}

async function writeGgufLora(delta: Delta, out: string, { onExit }: ExportOptions): Promise<string> {
  if (!isGgufFile(out)) {
    await writeWholeFolder(out, (folder) => delta.saveGguf(join(folder, 'adapter.gguf')), onExit);
    return join(out, 'adapter.gguf');
  }
  await delta.saveGguf(out);
  return out;
}

async function writeMerged(delta: Delta, out: string, options: ExportOptions): Promise<void> {
  const { dtype, maxShardBytes = SHARD_BYTES, onExit, signal, onProgress } = options;
  const { model } = delta;
  if (model.path === undefined) {
    throw makeError('INPUT_INVALID', 'the model was not loaded from files; there is nothing to merge into');
  }
  const source = await resolveModel(model.path, { inspect: (file) => runJob(() => native().inspect(file)) });
  const shards = cutIntoShards(await planOf(model, source, dtype), maxShardBytes);
  await writeWholeFolder(
    out,
    async (folder) => {
      const spec: WriteMergedSpec = {
        files: source.kind === 'folder' ? [...source.files] : [],
        shards: shards.map(({ name, tensors }) => ({ path: join(folder, name), tensors })),
      };
      await runJob((report) => native().writeMerged(delta.handle, spec, report), { signal, onProgress }, [
        delta,
      ]);
      if (shards.length > 1) await writeJson(join(folder, 'model.safetensors.index.json'), indexOf(shards));
      await writeCompanions(model, source, folder, dtype);
    },
    onExit,
  );
}

async function planOf(model: Model, source: ModelSource, dtype: ExportDtype | undefined) {
  if (source.kind === 'folder') {
    const tensors: TensorEntry[] = [];
    for (const file of source.files) tensors.push(...(await readTensorList(file)).tensors);
    return planFromFiles(model, tensors, dtype);
  }
  if (model.dtype === 'bfloat16') {
    throw makeError(
      'OPTION_INVALID',
      `${source.path} was loaded in bfloat16, which does not hold its weights exactly; load it in float32 to export`,
    );
  }
  return planFromModel(model, dtype ?? 'float32');
}
