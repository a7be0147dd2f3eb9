import { mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { type NativeDelta, native } from './binding.js';
import { makeError } from './errors.js';
import type { Model } from './model.js';
import { runJob, runSync } from './native-job.js';
import { Resource } from './resource.js';
import { resolveTargets } from './targets.js';
import { writeAtomically } from './write-file.js';

/** One changed matrix: W + scale · B A, A [rank, in], B [out, rank], row-major float32. */
export interface LowRankFactors {
  /** Id, or full name such as `model.layers.0.self_attn.q_proj`. */
  matrix: number | string;
  rank: number;
  scale: number;
  a: Float32Array;
  b: Float32Array;
}

const CONFIG = 'adapter_config.json';
const WEIGHTS = 'adapter_model.safetensors';

/** Keys of PEFT's configuration that decide the numbers; others are accepted and ignored. */
const peftConfig = z.looseObject({
  peft_type: z.literal('LORA'),
  r: z.int().min(1),
  lora_alpha: z.number(),
  target_modules: z.union([z.array(z.string()), z.string()]),
  use_rslora: z.boolean().nullish(),
  use_dora: z.boolean().nullish(),
  bias: z.string().nullish(),
  fan_in_fan_out: z.boolean().nullish(),
  rank_pattern: z.record(z.string(), z.number()).nullish(),
  alpha_pattern: z.record(z.string(), z.number()).nullish(),
});

/** An immutable change of a named subset of the weights. Low-rank (LoRA, arXiv 2106.09685); saved in PEFT's layout. */
export class Delta extends Resource {
  protected readonly noun = 'delta';
  readonly model: Model;
  /** @internal */
  readonly handle: NativeDelta;

  /** @internal Made by `adapt`, `policy.delta()`, `Delta.load` and `Delta.fromFactors`. */
  constructor(model: Model, handle: NativeDelta) {
    super();
    this.model = model;
    this.handle = handle;
  }

  get kind(): 'lowRank' {
    return this.handle.kind;
  }

  /** Changed matrices (ids of `model.matrices`, ascending) with their ranks and scales. */
  get parts(): { matrix: number; rank: number; scale: number }[] {
    this.assertOpen();
    return this.handle.parts;
  }

  /** Bytes of the values. */
  get bytes(): number {
    this.assertOpen();
    return this.handle.bytes;
  }

  /** Factors of one part: A [rank, in] and B [out, rank], row-major. */
  factors(part: number): { a: Float32Array; b: Float32Array } {
    this.assertOpen();
    return runSync(() => this.handle.factors(part));
  }

  /** Makes a delta from its factors. Errors: `DeltaError` naming the matrix and both shapes. */
  static fromFactors(model: Model, parts: readonly LowRankFactors[]): Delta {
    model.assertOpen();
    const native_ = parts.map((part) => ({ ...part, matrix: matrixId(model, part.matrix) }));
    native_.sort((a, b) => a.matrix - b.matrix);
    return new Delta(
      model,
      runSync(() => native().makeDelta(model.handle, native_)),
    );
  }

  /**
   * Writes a PEFT LoRA adapter folder (adapter_config.json, adapter_model.safetensors, float32); each file appears whole
   * or not at all. Parts of different rank or scale go into PEFT's rank and alpha patterns; PEFT stores alpha, so a scale
   * that is no quotient alpha / rank may come back different in its last bit. Errors: `WorkError` (`IO`).
   */
  async save(folder: string): Promise<void> {
    this.assertOpen();
    const parts = this.parts;
    const first = parts[0];
    if (!first) throw makeError('DELTA_INVALID', 'the delta changes no matrix; there is nothing to save');
    const names = parts.map(({ matrix }) => this.model.matrices[matrix]!);
    const alpha = alphaOf(first);
    const rank_pattern: Record<string, number> = {};
    const alpha_pattern: Record<string, number> = {};
    for (const [index, part] of parts.entries()) {
      const name = names[index]!.name;
      if (part.rank !== first.rank) rank_pattern[name] = part.rank;
      if (part.rank !== first.rank || part.scale !== first.scale) alpha_pattern[name] = alphaOf(part);
    }
    const config = {
      peft_type: 'LORA',
      task_type: 'CAUSAL_LM',
      base_model_name_or_path: this.model.path ?? null,
      r: first.rank,
      lora_alpha: alpha,
      lora_dropout: 0,
      bias: 'none',
      fan_in_fan_out: false,
      init_lora_weights: true,
      inference_mode: true,
      use_rslora: false,
      use_dora: false,
      target_modules: targetModules(this.model, parts),
      rank_pattern,
      alpha_pattern,
    };
    try {
      await mkdir(folder, { recursive: true });
    } catch (error) {
      throw makeError('IO', `cannot make ${folder}: ${(error as Error).message}`, error);
    }
    await runJob(() => this.handle.save(join(folder, WEIGHTS)), {}, [this]);
    await writeAtomically(join(folder, CONFIG), `${JSON.stringify(config, null, 2)}\n`);
  }

  /**
   * Reads a PEFT LoRA adapter folder. Errors: `FileError` for missing or unexpected keys (listed), `DeltaError` for
   * shapes that do not fit, `OPTION_INVALID` for a kind of adapter that is not supported (DoRA, trained biases).
   */
  static async load(model: Model, folder: string): Promise<Delta> {
    const path = join(folder, CONFIG);
    let text: string;
    try {
      text = await readFile(path, 'utf8');
    } catch (error) {
      throw makeError(
        'FILE_NOT_FOUND',
        `${folder} is not a PEFT adapter folder: ${CONFIG} cannot be read`,
        error,
      );
    }
    let json: unknown;
    try {
      json = JSON.parse(text);
    } catch (error) {
      throw makeError('FILE_FORMAT', `${path} is not JSON: ${(error as Error).message}`, error);
    }
    const parsed = peftConfig.safeParse(json);
    if (!parsed.success) {
      const issue = parsed.error.issues[0]!;
      throw makeError(
        'FILE_FORMAT',
        `${path}: "${issue.path.join('.')}": ${issue.message} (expected a PEFT LoRA configuration)`,
      );
    }
    const config = parsed.data;
    if (config.use_dora) throw makeError('OPTION_INVALID', `${path}: DoRA adapters are not supported`);
    if (config.fan_in_fan_out) throw makeError('OPTION_INVALID', `${path}: fan_in_fan_out is not supported`);
    if (config.bias && config.bias !== 'none') {
      throw makeError('OPTION_INVALID', `${path}: bias is "${config.bias}"; only "none" is supported`);
    }
    checkPatterns(path, config.rank_pattern);
    checkPatterns(path, config.alpha_pattern);
    const ranks = model.matrices.map(({ name }) => patternValue(config.rank_pattern, name) ?? config.r);
    const scales = model.matrices.map(({ name }, matrix) => {
      const rank = ranks[matrix]!;
      const alpha = patternValue(config.alpha_pattern, name) ?? config.lora_alpha;
      return { matrix, scale: config.use_rslora ? alpha / Math.sqrt(rank) : alpha / rank };
    });
    const file = join(folder, WEIGHTS);
    const handle = await runJob(() => native().loadDelta(model.handle, file, scales), {}, [model]);
    const delta = new Delta(model, handle);
    const { parts } = delta;
    const wrong = parts.find(({ matrix, rank }) => rank !== ranks[matrix]);
    if (parts.length > 0 && !wrong) return delta;
    await delta.close();
    if (!wrong) throw makeError('DELTA_INVALID', `${file} changes no matrix; expected keys of LoRA factors`);
    const { name } = model.matrices[wrong.matrix]!;
    const expected = ranks[wrong.matrix];
    throw makeError('DELTA_SHAPE', `${file}: "${name}" has rank ${wrong.rank}, ${CONFIG} says ${expected}`);
  }

  protected override get parent(): Model {
    return this.model;
  }

  protected release(): void {
    this.handle.close();
  }
}

function matrixId(model: Model, matrix: number | string): number {
  if (typeof matrix === 'number') return matrix;
  const id = model.matrices.findIndex(({ name }) => name === matrix);
  if (id < 0) throw makeError('TARGET_UNKNOWN', `the model has no matrix "${matrix}"`);
  return id;
}

/** Module names when they choose exactly these matrices, else the full names. */
function targetModules(model: Model, parts: readonly { matrix: number }[]): string[] {
  const modules = [...new Set(parts.map(({ matrix }) => model.matrices[matrix]!.module))];
  const all = resolveTargets(model, modules);
  return all.length === parts.length ? modules : parts.map(({ matrix }) => model.matrices[matrix]!.name);
}

/** The alpha that gives the scale back when divided by the rank; to the bit wherever there is one. */
function alphaOf({ scale, rank }: { scale: number; rank: number }): number {
  const product = scale * rank;
  const step = product * 2 ** -53;
  const candidates = [Math.round(product), Math.fround(product), product, product + step, product - step];
  return candidates.find((alpha) => alpha / rank === scale) ?? product;
}

/** Keys of patterns are regular expressions out of a file: one that cannot be read, or could take for ever, is refused. */
function checkPatterns(path: string, pattern: Record<string, number> | null | undefined): void {
  for (const key of Object.keys(pattern ?? {})) {
    let fits = key.length <= 256 && !/\)[*+?{]/.test(key) && (key.match(/[*+{]/g) ?? []).length <= 4;
    try {
      new RegExp(key);
    } catch {
      fits = false;
    }
    if (!fits) {
      throw makeError('FILE_FORMAT', `${path}: "${key}" is not a pattern of module names that is supported`);
    }
  }
}

/** PEFT matches a pattern's key against the end of a module's name. */
function patternValue(pattern: Record<string, number> | null | undefined, name: string): number | undefined {
  if (!pattern) return undefined;
  for (const [key, value] of Object.entries(pattern)) {
    if (new RegExp(`^(.*\\.)?(${key})$`).test(name)) return value;
  }
  return undefined;
}
