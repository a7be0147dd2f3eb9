/** PEFT's adapter_config.json: which modules an adapter has, with what rank and scale. */
import { z } from 'zod';
import { makeError } from '../errors.js';
import type { FileModule } from './file-modules.js';
import { check, show } from './json.js';
import { endMatchers, fullMatchers } from './pattern.js';

const names = z.union([z.string(), z.array(z.string())], 'names, or one pattern').nullish();
const RANK = 'a whole number from 1';
const rank = z.int(RANK).min(1, RANK);
const alpha = z.number('a number');
const settings = z.looseObject(
  {
    peft_type: z.literal('LORA', '"LORA", the only kind of adapter that is supported'),
    r: rank,
    lora_alpha: alpha,
    target_modules: names,
    exclude_modules: names,
    layers_to_transform: z.union([z.int(), z.array(z.int())], 'layers').nullish(),
    layers_pattern: names,
    rank_pattern: z.record(z.string(), rank, 'patterns and ranks').nullish(),
    alpha_pattern: z.record(z.string(), alpha, 'patterns and alphas').nullish(),
    use_rslora: z.boolean('true or false').nullish(),
    init_lora_weights: z.union([z.boolean(), z.string()], 'true, false or a name').nullish(),
  },
  'an object',
);
type Settings = z.infer<typeof settings>;

/** What an adapter may not have, and what the key holds when it does not. Absent, null, empty and false are none. */
const REFUSED: Record<string, string> = {
  use_dora: 'DoRA',
  bias: 'trained biases',
  fan_in_fan_out: 'weights stored [in, out]',
  modules_to_save: 'modules trained in full',
  trainable_token_indices: 'trained tokens',
  lora_bias: 'biases of LoRA',
  target_parameters: 'LoRA on parameters',
  layer_replication: 'replicated layers',
  alora_invocation_tokens: 'activated LoRA',
  use_qalora: 'QALoRA',
  use_bdlora: 'block-diagonal LoRA',
  arrow_config: 'Arrow routing',
  kasa_config: 'KaSA',
  velora_config: 'VeLoRA',
  monteclora_config: 'MonteCLoRA',
  megatron_config: 'Megatron layers',
};

/** Initialisations that leave the base's weights alone; all others make an adapter of a changed base. */
const PLAIN_INITIALISATIONS: readonly unknown[] = [
  undefined,
  null,
  true,
  false,
  'gaussian',
  'eva',
  'orthogonal',
];

/** Switches and settings that say nothing about how an adapter is read, though they may be set. */
const IGNORED: ReadonlySet<string> = new Set([
  ...['auto_mapping', 'inference_mode', 'loftq_config', 'eva_config', 'corda_config', 'lora_ga_config'],
  // Of other weights than a LoRA's, or while training only.
  ...['ensure_weight_tying', 'runtime_config', 'merge_weights'],
]);

export interface PeftTarget {
  module: FileModule;
  rank: number;
  scale: number;
}

/**
 * The modules that a configuration gives an adapter, chosen and scaled as PEFT does it. Errors: `FILE_FORMAT`,
 * `OPTION_INVALID` for what is not supported, each naming the key, what was found and what was expected;
 * `TARGET_UNKNOWN` when nothing is chosen.
 */
export function peftTargets(text: string, path: string, modules: readonly FileModule[]): PeftTarget[] {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw makeError('FILE_FORMAT', `${path} is not JSON: ${(error as Error).message}`, error);
  }
  const config = check(settings, json, path, 'FILE_FORMAT');
  refuseOthers(config, path);
  const chosen = modules.filter(chooser(config, path, modules));
  if (chosen.length === 0) {
    throw makeError(
      'TARGET_UNKNOWN',
      `${path}: "target_modules" is ${show(config.target_modules)}, which names no module of the model; expected names such as ${modules[0]!.name}`,
    );
  }
  const tied = chosen.find(({ kind }) => kind !== 'linear' && modules.some((m) => m.weights.length === 0));
  if (tied) {
    throw makeError(
      'OPTION_INVALID',
      `${path}: "target_modules" names ${tied.name}, but this model's head is its embedding (tied), and PEFT changes one of them only; expected linear maps of the layers`,
    );
  }
  const rankOf = patternValue(config.rank_pattern, 'rank_pattern', path);
  const alphaOf = patternValue(config.alpha_pattern, 'alpha_pattern', path);
  return chosen.map((module) => {
    const rank = rankOf(module.name) ?? config.r;
    const alpha = alphaOf(module.name) ?? config.lora_alpha;
    return { module, rank, scale: config.use_rslora ? alpha / Math.sqrt(rank) : alpha / rank };
  });
}

function refuseOthers(config: Settings, path: string): void {
  for (const [key, what] of Object.entries(REFUSED)) {
    const value = config[key];
    const none =
      value == null ||
      value === false ||
      value === 'none' ||
      (typeof value === 'object' && Object.keys(value).length === 0);
    if (none) continue;
    const expected = key === 'bias' ? '"none"' : 'none';
    throw makeError(
      'OPTION_INVALID',
      `${path}: "${key}" is ${show(value)}, expected ${expected} (not supported: ${what})`,
    );
  }
  for (const [key, value] of Object.entries(config)) {
    if (key in settings.shape || key in REFUSED || IGNORED.has(key)) continue;
    // Numbers and texts are parameters of something; only a switch or a set of parameters turns something on.
    const on = value === true || (typeof value === 'object' && value && Object.keys(value).length > 0);
    if (!on) continue;
    throw makeError(
      'OPTION_INVALID',
      `${path}: "${key}" is ${show(value)}, which is not known and might change what the adapter does; expected none (take the key out if it does not)`,
    );
  }
  const { init_lora_weights: init } = config;
  if (!PLAIN_INITIALISATIONS.includes(init)) {
    throw makeError(
      'OPTION_INVALID',
      `${path}: "init_lora_weights" is ${show(init)}, which changes the base's weights, so the adapter does not fit the base as it is; expected plain LoRA (PEFT converts: save_pretrained with path_initial_model_for_weight_conversion)`,
    );
  }
}

/** PEFT's `check_target_module_exists`. */
function chooser(
  config: Settings,
  path: string,
  modules: readonly FileModule[],
): (module: FileModule) => boolean {
  const { target_modules: targets, layers_to_transform: layers, layers_pattern: pattern } = config;
  if (targets == null) {
    throw makeError('FILE_FORMAT', `${path}: "target_modules" is missing, expected names or one pattern`);
  }
  const excluded = namesOrPattern(config.exclude_modules ?? [], `${path}: "exclude_modules"`);
  if (typeof targets === 'string') {
    for (const [key, value] of Object.entries({ layers_to_transform: layers, layers_pattern: pattern })) {
      if (value != null) {
        throw makeError(
          'FILE_FORMAT',
          `${path}: "${key}" is ${show(value)} beside a pattern as "target_modules", expected none`,
        );
      }
    }
    if (targets.toLowerCase() === 'all-linear') {
      return ({ name, kind }) => kind === 'linear' && !excluded(name);
    }
  }
  if (layers == null && pattern && pattern.length > 0) {
    throw makeError(
      'FILE_FORMAT',
      `${path}: "layers_pattern" is ${show(pattern)}, expected none without "layers_to_transform"`,
    );
  }
  const included = namesOrPattern(targets, `${path}: "target_modules"`);
  const layerOf = layerReader(pattern ?? [], `${path}: "layers_pattern"`, modules);
  const wanted = new Set(layers == null ? [] : [layers].flat());
  const inFull = new Set(targets);
  return ({ name }) => {
    if (excluded(name) || !included(name)) return false;
    // A module that is named in full is chosen whatever its layer.
    if ((typeof layers !== 'number' && wanted.size === 0) || inFull.has(name)) return true;
    const layer = layerOf(name);
    return layer !== undefined && wanted.has(layer);
  };
}

/** A list names modules or ends of their names; one text is a pattern of whole names. */
function namesOrPattern(value: string | readonly string[], source: string): (name: string) => boolean {
  if (typeof value === 'string') return value === '' ? () => false : fullMatchers([value], source)[0]!;
  const ends = new Set(value);
  return (name) => {
    const parts = name.split('.');
    return parts.some((_, i) => ends.has(parts.slice(i).join('.')));
  };
}

/** The layer of a module: the number after `<pattern>.`, by default after the first name that a number follows. */
function layerReader(
  value: string | readonly string[],
  source: string,
  modules: readonly FileModule[],
): (name: string) => number | undefined {
  const patterns = [value].flat().filter((text) => text !== '');
  const layers = new Map<string, number>();
  // Put together as PEFT does it, without parentheses: of `a|b`, b alone is followed by the number.
  const matchers = fullMatchers(
    patterns.map((text) => `(?:.*\\.)?${text}\\.\\d+\\.`),
    source,
  );
  for (const { name } of modules) {
    const parts = name.split('.');
    const at = parts.findIndex((part, index) => {
      if (!/^\d+$/.test(part) || index === parts.length - 1) return false;
      const start = `${parts.slice(0, index + 1).join('.')}.`;
      return patterns.length === 0 ? index >= 2 : matchers.some((matches) => matches(start));
    });
    if (at >= 0) layers.set(name, Number(parts[at]));
  }
  return (name) => layers.get(name);
}

/** The value of the first key whose pattern matches a name or its end after a dot: PEFT's `get_pattern_key`. */
function patternValue(
  pattern: Record<string, number> | null | undefined,
  key: string,
  path: string,
): (name: string) => number | undefined {
  const matchers = endMatchers(Object.keys(pattern ?? {}), `${path}: "${key}"`);
  const values = Object.values(pattern ?? {});
  return (name) => values[matchers.findIndex((matches) => matches(name))];
}
