/** Which tensors a merged model's files hold, and how they are cut into shards. No arithmetic. */
import type { MergedTensor } from '../binding.js';
import { ARCHITECTURES } from '../format/architecture.js';
import { fileModules } from '../format/file-modules.js';
import type { TensorEntry } from '../format/tensor-list.js';
import type { Model } from '../model.js';

/** A type that transformers and safetensors both know. */
export const EXPORT_TYPES = { float32: 'F32', float16: 'F16', bfloat16: 'BF16' } as const;
export type ExportDtype = 'float32' | 'float16' | 'bfloat16';

const BYTES: Record<string, number> = { F64: 8, I64: 8, F32: 4, I32: 4, F16: 2, BF16: 2, I16: 2 };
const REAL: readonly string[] = ['F64', 'F32', 'F16', 'BF16'];

/** What the files of an architecture call each weight, and the weights that lie in it. */
function storedWeights(model: Model): Map<string, { shape: number[]; weights: number[]; gain: boolean }> {
  const stored = new Map<string, { shape: number[]; weights: number[]; gain: boolean }>();
  for (const { name, out, in: width, weights } of fileModules(model)) {
    if (weights.length === 0) continue;
    const ids = weights.map(({ matrix }) => matrix);
    stored.set(`${name}.weight`, { shape: [out, width], weights: ids, gain: false });
  }
  for (const [id, { name, module, out, in: width }] of model.tensors.entries()) {
    if (id < model.matrices.length || module === 'embed_tokens' || module === 'lm_head') continue;
    const gain = !name.endsWith('.bias');
    stored.set(gain ? `${name}.weight` : name, { shape: [out * width], weights: [id], gain });
  }
  return stored;
}

/** The base's own tensors in its own types (or all in one), by what its files hold. A tied head is not written twice. */
export function planFromFiles(
  model: Model,
  tensors: readonly TensorEntry[],
  dtype?: ExportDtype,
): MergedTensor[] {
  const stored = storedWeights(model);
  return tensors
    .filter(({ name }) => !(model.config.tied && name === 'lm_head.weight'))
    .map(({ name, dtype: own, shape }) => {
      const weights = stored.get(name)?.weights ?? [];
      const chosen = dtype && REAL.includes(own) ? EXPORT_TYPES[dtype] : own;
      return { name, dtype: chosen, shape, stored: name, weights, offset: 0 };
    });
}

/** All weights as the model holds them, under the names that transformers expects. */
export function planFromModel(model: Model, dtype: ExportDtype): MergedTensor[] {
  const entry = ARCHITECTURES.find(({ name }) => name === model.config.architecture);
  const normOffset = entry?.folderLayout.normOffset ?? 0;
  return [...storedWeights(model)].map(([name, { shape, weights, gain }]) => {
    return { name, dtype: EXPORT_TYPES[dtype], shape, stored: '', weights, offset: gain ? -normOffset : 0 };
  });
}

export interface Shard {
  name: string;
  tensors: MergedTensor[];
}

/** Tensors in their order, as many to a file as fit into `most` bytes; named as transformers names them. */
export function cutIntoShards(tensors: readonly MergedTensor[], most: number): Shard[] {
  const parts: MergedTensor[][] = [];
  let room = 0;
  for (const tensor of tensors) {
    const bytes = bytesOf(tensor);
    if (bytes > room) {
      parts.push([]);
      room = most;
    }
    parts.at(-1)!.push(tensor);
    room -= bytes;
  }
  const number = (value: number) => String(value).padStart(5, '0');
  return parts.map((part, index) => ({
    name:
      parts.length === 1
        ? 'model.safetensors'
        : `model-${number(index + 1)}-of-${number(parts.length)}.safetensors`,
    tensors: part,
  }));
}

/** model.safetensors.index.json. */
export function indexOf(shards: readonly Shard[]): Record<string, unknown> {
  const tensors = shards.flatMap((shard) => shard.tensors);
  return {
    metadata: { total_size: tensors.reduce((sum, tensor) => sum + bytesOf(tensor), 0) },
    weight_map: Object.fromEntries(
      shards.flatMap(({ name, tensors: own }) => own.map((tensor) => [tensor.name, name])),
    ),
  };
}

function bytesOf({ dtype, shape }: MergedTensor): number {
  return shape.reduce((product, size) => product * size, BYTES[dtype] ?? 1);
}
