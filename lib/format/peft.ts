/** PEFT's adapter_config.json: what the numbers of a low-rank delta mean. */
import { z } from 'zod';
import type { DeltaPartInfo } from '../binding.js';
import { makeError } from '../errors.js';
import type { Model } from '../model.js';
import { resolveTargets } from '../targets.js';

export const PEFT_CONFIG = 'adapter_config.json';
export const PEFT_WEIGHTS = 'adapter_model.safetensors';

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

/** The configuration of low-rank parts. Different ranks and scales go into PEFT's rank and alpha patterns. */
export function peftConfigOf(model: Model, parts: readonly DeltaPartInfo[]): Record<string, unknown> {
  const first = parts[0]!;
  const names = parts.map(({ matrix }) => model.tensors[matrix]!);
  const alpha = alphaOf(first);
  const rank_pattern: Record<string, number> = {};
  const alpha_pattern: Record<string, number> = {};
  for (const [index, part] of parts.entries()) {
    const name = names[index]!.name;
    if (part.rank !== first.rank) rank_pattern[name] = part.rank;
    if (part.rank !== first.rank || part.scale !== first.scale) alpha_pattern[name] = alphaOf(part);
  }
  return {
    peft_type: 'LORA',
    task_type: 'CAUSAL_LM',
    base_model_name_or_path: model.path ?? null,
    r: first.rank,
    lora_alpha: alpha,
    lora_dropout: 0,
    bias: 'none',
    fan_in_fan_out: false,
    init_lora_weights: true,
    inference_mode: true,
    use_rslora: false,
    use_dora: false,
    target_modules: targetModules(model, parts),
    rank_pattern,
    alpha_pattern,
  };
}

/** Rank and scale that a configuration gives to each matrix of a model. `path` names it in errors. */
export function readPeftConfig(
  model: Model,
  path: string,
  text: string,
): { ranks: number[]; scales: { matrix: number; scale: number }[] } {
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
  return { ranks, scales };
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
