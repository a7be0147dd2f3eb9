/** PEFT's adapter folders: the tensors of adapter_model.safetensors as parts of a delta, and the configuration back. */
import { join } from 'node:path';
import type { BaseCopy, FactorSource, WrittenModule } from '../binding.js';
import { makeError } from '../errors.js';
import type { Model } from '../model.js';
import { type FileModule, fileModules, isFused } from './file-modules.js';
import { exists, pickled } from './folder.js';
import { allowedRoots, inside } from './inside.js';
import { type PeftTarget, peftTargets } from './peft-config.js';
import type { TensorEntry } from './tensor-list.js';

export const PEFT_CONFIG = 'adapter_config.json';
export const PEFT_WEIGHTS = 'adapter_model.safetensors';
const PEFT_PICKLE = 'adapter_model.bin';
/** Keys or modules that an error lists. */
const SHOWN = 12;

/**
 * The weights of an adapter folder. Errors: `FILE_UNSAFE` where they are a pickle only, or a link that leaves the folder;
 * `FILE_NOT_FOUND`.
 */
export async function peftWeights(folder: string): Promise<string> {
  const file = join(folder, PEFT_WEIGHTS);
  if (!(await exists(file)) && (await exists(join(folder, PEFT_PICKLE)))) {
    throw pickled(join(folder, PEFT_PICKLE), 'PeftModel.from_pretrained(model, …)');
  }
  await inside(folder, PEFT_WEIGHTS, await allowedRoots(folder), PEFT_CONFIG);
  return file;
}

interface Key {
  module: string;
  factor: 'A' | 'B' | 'base';
  embedding: boolean;
  /** Name of the adapter, where the key has it. */
  adapter: string | undefined;
}

/** `base_model.model.<module>.lora_A[.<adapter>].weight`, the prefix being optional; undefined for any other key. */
function parseKey(key: string): Key | undefined {
  const name = key.replace(/^base_model\.model\./, '');
  const factor = /^(.+)\.lora_(embedding_)?([AB])(?:\.([^.]+))??(\.weight)?$/.exec(name);
  if (factor) {
    const [, module, embedding, letter, adapter, weight] = factor;
    if (!embedding && !weight) return undefined;
    return { module: module!, factor: letter as 'A' | 'B', embedding: embedding !== undefined, adapter };
  }
  const base = /^(.+?)(?:\.base_layer)?\.weight$/.exec(name);
  return base ? { module: base[1]!, factor: 'base', embedding: false, adapter: undefined } : undefined;
}

export interface PeftParts {
  sources: FactorSource[];
  copies: BaseCopy[];
}

/**
 * Where the parts of a delta lie in the tensors of a PEFT adapter with this configuration. Errors: those of `peftTargets`;
 * `TENSOR_MISSING` and `TENSOR_UNEXPECTED` listing the keys; `DELTA_SHAPE` naming key, found and expected shape.
 */
export function readPeft(
  model: Model,
  folder: string,
  config: string,
  tensors: readonly TensorEntry[],
): PeftParts {
  const file = `${folder}/${PEFT_WEIGHTS}`;
  // An adapter trained on a model whose maps were taken apart names them so, and no fused one.
  const apart = tensors.some(({ name }) => /\.(q|k|v|gate|up)_proj\./.test(name));
  const modules = fileModules(model, isFused(model) && !apart);
  const targets = peftTargets(config, `${folder}/${PEFT_CONFIG}`, modules);
  const byName = new Map(targets.map((target) => [target.module.name, target]));
  const found = new Map<string, TensorEntry>();
  const copies: BaseCopy[] = [];
  const unexpected: string[] = [];
  const adapters = new Set<string>();
  for (const tensor of tensors) {
    const key = parseKey(tensor.name);
    const target = key && byName.get(key.module);
    if (key?.adapter !== undefined) adapters.add(key.adapter);
    const copy = key?.factor === 'base' ? copiedWeight(key.module, modules) : undefined;
    const slot = `${key?.module} ${key?.factor}`;
    if (copy) copies.push(baseCopy(file, tensor, copy));
    else if (!key || key.factor === 'base' || !target || found.has(slot)) unexpected.push(tensor.name);
    else if (key.embedding !== (target.module.kind === 'embedding')) unexpected.push(tensor.name);
    else found.set(slot, tensor);
  }
  refuse('TENSOR_UNEXPECTED', file, 'that no module of the configuration has', unexpected);
  if (adapters.size > 1) {
    throw makeError(
      'FILE_FORMAT',
      `${file} holds the adapters ${[...adapters].slice(0, SHOWN).join(', ')}; expected one`,
    );
  }
  const missing = targets.flatMap(({ module }) =>
    (['A', 'B'] as const).filter((f) => !found.has(`${module.name} ${f}`)).map((f) => keyOf(module, f)),
  );
  refuse('TENSOR_MISSING', file, 'missing that the configuration names', missing);
  const sources = targets.flatMap((target) => {
    const a = found.get(`${target.module.name} A`)!;
    const b = found.get(`${target.module.name} B`)!;
    checkShapes(file, target, a, b);
    return target.module.weights.map(({ matrix, firstRow }) => ({
      matrix,
      scale: target.scale,
      a: a.name,
      b: b.name,
      firstRow,
      permutedHeads: 0,
      transposed: target.module.kind === 'embedding',
    }));
  });
  return { sources, copies };
}

/** PEFT saves embedding and head whole when one of them is targeted, and when it is asked to (`save_embedding_layers`). */
function copiedWeight(name: string, modules: readonly FileModule[]): FileModule | undefined {
  const module = modules.find((known) => known.name === name);
  if (!module || module.kind === 'linear') return undefined;
  // A tied head has no weight of its own.
  return module.weights.length > 0 ? module : modules.find(({ kind }) => kind === 'embedding');
}

/** Its values are compared when the file is read. */
function baseCopy(file: string, { name, shape }: TensorEntry, module: FileModule): BaseCopy {
  if (shape.length !== 2 || shape[0] !== module.out || shape[1] !== module.in) {
    throw makeError(
      'DELTA_SHAPE',
      `${file}: "${name}" is [${shape.join(', ')}], expected [${module.out}, ${module.in}], the model's own weight (a changed vocabulary is not supported)`,
    );
  }
  return { tensor: name, matrix: module.weights[0]!.matrix };
}

function keyOf(module: FileModule, factor: 'A' | 'B'): string {
  const name = `base_model.model.${module.name}`;
  return module.kind === 'embedding' ? `${name}.lora_embedding_${factor}` : `${name}.lora_${factor}.weight`;
}

function refuse(
  code: 'TENSOR_MISSING' | 'TENSOR_UNEXPECTED',
  file: string,
  what: string,
  keys: readonly string[],
) {
  if (keys.length === 0) return;
  const list = `${keys.slice(0, SHOWN).join(', ')}${keys.length > SHOWN ? ', …' : ''}`;
  throw makeError(code, `${file}: ${keys.length} key(s) ${what}: ${list}`);
}

function checkShapes(file: string, { module, rank }: PeftTarget, a: TensorEntry, b: TensorEntry): void {
  // Of an embedding, whose input is one of its rows: [r, vocabulary] and [hidden, r].
  const [width, height] = module.kind === 'embedding' ? [module.out, module.in] : [module.in, module.out];
  for (const [tensor, expected] of [
    [a, [rank, width]],
    [b, [height, rank]],
  ] as const) {
    if (tensor.shape.length === 2 && tensor.shape.every((size, i) => size === expected[i])) continue;
    throw makeError(
      'DELTA_SHAPE',
      `${file}: "${tensor.name}" is [${tensor.shape.join(', ')}], expected [${expected.join(', ')}] (rank ${rank} by ${PEFT_CONFIG})`,
    );
  }
}

/** The configuration of written modules. Different ranks and scales go into PEFT's rank and alpha patterns. */
export function peftConfigOf(model: Model, written: readonly WrittenModule[]): Record<string, unknown> {
  const first = written[0]!;
  const rank_pattern: Record<string, number> = {};
  const alpha_pattern: Record<string, number> = {};
  for (const { module, rank, scale } of written) {
    if (rank !== first.rank) rank_pattern[module] = rank;
    if (rank !== first.rank || scale !== first.scale) alpha_pattern[module] = alphaOf({ rank, scale });
  }
  return {
    peft_type: 'LORA',
    task_type: 'CAUSAL_LM',
    base_model_name_or_path: model.path ?? null,
    r: first.rank,
    lora_alpha: alphaOf(first),
    lora_dropout: 0,
    bias: 'none',
    fan_in_fan_out: false,
    init_lora_weights: true,
    inference_mode: true,
    use_rslora: false,
    use_dora: false,
    target_modules: targetModules(model, written),
    rank_pattern,
    alpha_pattern,
  };
}

/** Last names when they choose exactly these modules, else the full names. */
function targetModules(model: Model, written: readonly WrittenModule[]): string[] {
  const last = (name: string) => name.slice(name.lastIndexOf('.') + 1);
  const short = new Set(written.map(({ module }) => last(module)));
  const chosen = fileModules(model).filter(({ name }) => short.has(last(name)));
  return chosen.length === written.length ? [...short] : written.map(({ module }) => module);
}

/** The alpha that gives the scale back when divided by the rank; to the bit wherever there is one. */
function alphaOf({ scale, rank }: { scale: number; rank: number }): number {
  const product = scale * rank;
  const step = product * 2 ** -53;
  const candidates = [Math.round(product), Math.fround(product), product, product + step, product - step];
  return candidates.find((alpha) => alpha / rank === scale) ?? product;
}
