/** LoRA adapters of llama.cpp: one .gguf with `<tensor>.lora_a` and `.lora_b`, and one alpha for all. */
import type { FactorSource, WriteFactorsSpec } from '../binding.js';
import { makeError } from '../errors.js';
import type { Model } from '../model.js';
import { ARCHITECTURES } from './architecture.js';
import { type FileModule, fileModules } from './file-modules.js';
import { show } from './json.js';
import type { TensorFileHeader } from './tensor-list.js';

/** What llama.cpp calls the maps of a layer; Phi-3's `ffn_up` holds gate and up. */
const TENSORS: Record<string, string> = {
  q_proj: 'attn_q',
  k_proj: 'attn_k',
  v_proj: 'attn_v',
  qkv_proj: 'attn_qkv',
  o_proj: 'attn_output',
  gate_proj: 'ffn_gate',
  up_proj: 'ffn_up',
  gate_up_proj: 'ffn_up',
  down_proj: 'ffn_down',
};
const SHOWN = 12;

interface GgufModule {
  module: FileModule;
  tensor: string;
  permutedHeads: number;
}

/** The maps that an adapter can change, as llama.cpp keeps them. */
function ggufModules(model: Model): GgufModule[] {
  const { heads, kvHeads } = model.config;
  const permuted = ggufOf(model).permutedQK;
  return fileModules(model).flatMap((module) => {
    if (module.kind === 'embedding' || module.weights.length === 0) return [];
    if (module.kind === 'head') return [{ module, tensor: 'output.weight', permutedHeads: 0 }];
    const [, layer, last] = /^model\.layers\.(\d+)\..*?([^.]+)$/.exec(module.name)!;
    const permutedHeads = !permuted ? 0 : last === 'q_proj' ? heads : last === 'k_proj' ? kvHeads : 0;
    return [{ module, tensor: `blk.${layer}.${TENSORS[last!]}.weight`, permutedHeads }];
  });
}

/** How llama.cpp files a model: some architectures go under Llama's name. */
function ggufOf(model: Model): { name: string; permutedQK: boolean } {
  const own = ARCHITECTURES.find(({ name }) => name === model.config.architecture);
  const entry = own?.gguf ? own : ARCHITECTURES.find(({ gguf }) => gguf === 'llama')!;
  return { name: entry.gguf!, permutedQK: entry.ggufLayout.permutedQK };
}

/**
 * Where the parts of a delta lie in an adapter. Errors: `FILE_FORMAT` (not a LoRA adapter), `UNSUPPORTED_ARCHITECTURE`
 * (of another model), `TENSOR_MISSING` and `TENSOR_UNEXPECTED` listing the tensors.
 */
export function readGgufLora(
  model: Model,
  path: string,
  { metadata, tensors }: TensorFileHeader,
): FactorSource[] {
  const expect = (key: string, expected: string, code: 'FILE_FORMAT' | 'UNSUPPORTED_ARCHITECTURE') => {
    if (metadata[key] === expected) return;
    throw makeError(code, `${path}: "${key}" is ${show(metadata[key])}, expected "${expected}"`);
  };
  expect('general.type', 'adapter', 'FILE_FORMAT');
  expect('adapter.type', 'lora', 'FILE_FORMAT');
  expect('general.architecture', ggufOf(model).name, 'UNSUPPORTED_ARCHITECTURE');
  const alpha = metadata['adapter.lora.alpha'];
  if (typeof alpha !== 'number') {
    throw makeError('FILE_FORMAT', `${path}: "adapter.lora.alpha" is ${show(alpha)}, expected a number`);
  }
  const byName = new Map(tensors.map((tensor) => [tensor.name, tensor]));
  const known = new Set<string>();
  const missing: string[] = [];
  const sources = ggufModules(model).flatMap(({ module, tensor, permutedHeads }) => {
    const [a, b] = [`${tensor}.lora_a`, `${tensor}.lora_b`];
    known.add(a).add(b);
    const [left, right] = [byName.get(a), byName.get(b)];
    if (!left && !right) return [];
    if (!left || !right) missing.push(left ? b : a);
    const rank = left?.shape[0] ?? 1;
    if (right && right.shape[0] !== module.out) {
      throw makeError(
        'DELTA_SHAPE',
        `${path}: "${b}" is [${right.shape.join(', ')}], expected [${module.out}, ${rank}]`,
      );
    }
    // llama.cpp takes an alpha of 0 for none.
    const scale = alpha === 0 ? 1 : alpha / rank;
    return module.weights.map(({ matrix, firstRow }) => {
      return { matrix, scale, a, b, firstRow, permutedHeads, transposed: false };
    });
  });
  const unexpected = tensors.map(({ name }) => name).filter((name) => !known.has(name));
  for (const [code, what, list] of [
    ['TENSOR_UNEXPECTED', 'that no map of the model has', unexpected],
    ['TENSOR_MISSING', 'missing beside their twins', missing],
  ] as const) {
    if (list.length === 0) continue;
    const shown = `${list.slice(0, SHOWN).join(', ')}${list.length > SHOWN ? ', …' : ''}`;
    throw makeError(code, `${path}: ${list.length} tensor(s) ${what}: ${shown}`);
  }
  if (sources.length === 0) {
    throw makeError(
      'DELTA_INVALID',
      `${path} changes no matrix; expected tensors such as blk.0.attn_q.weight.lora_a`,
    );
  }
  return sources;
}

/** What llama.cpp calls everything that an adapter of this model may hold. */
export function ggufLoraNames(model: Model): NonNullable<WriteFactorsSpec['gguf']> {
  return {
    architecture: ggufOf(model).name,
    maps: ggufModules(model).map(({ module, tensor, permutedHeads }) => {
      return { module: module.name, tensor, permutedHeads, rows: module.out };
    }),
  };
}
