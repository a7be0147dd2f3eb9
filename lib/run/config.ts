/** The YAML configuration of a run: schema, defaults, and errors that name path, what was found and what is expected. */
import { readFile } from 'node:fs/promises';
import { dirname, isAbsolute, resolve } from 'node:path';
import { parseDocument } from 'yaml';
import { z } from 'zod';
import { PADDING_LENGTH } from '../adapt.js';
import { ALGORITHM_NAMES, type AlgorithmName } from '../algorithm/named.js';
import { DIRECTIVE_DEFAULTS, DIRECTIVE_TARGETS } from '../edit/directives.js';
import { PARSE_DEFAULTS } from '../edit/parse.js';
import { EDIT_TEMPLATES } from '../edit/prompts.js';
import { WRITE_DEFAULTS } from '../edit/write.js';
import { makeError } from '../errors.js';
import { MEASURES } from '../reward/measure.js';
import { algorithmSections } from './config-algorithm.js';
import { rewardSections } from './config-reward.js';
import {
  anyTask,
  KIND_DEFAULTS,
  ownMeasures,
  TASK_KINDS,
  TASK_SCHEMAS,
  type TaskKind,
  withTaskPaths,
} from './config-task.js';
import { weightSections } from './config-weights.js';

// What zod calls a kind of value, in words.
const NAMES: Readonly<Record<string, string>> = {
  int: 'whole number',
  object: 'mapping',
  array: 'list',
  tuple: 'list of two numbers, the smaller one first',
};

const count = z.int().min(0);
const atLeast1 = z.int().min(1);
const positive = z.number().positive();
const notNegative = z.number().min(0);
const modules = z.array(z.string().min(1)).min(1);

const template = z.strictObject({
  name: z.string().min(1),
  base: z.string(),
  chat: z.strictObject({ system: z.string().optional(), user: z.string() }),
  opening: z.string().optional(),
});

const asPublished = z.union([z.boolean(), z.literal('published')], { error: 'true, false or published' });

const parse = z.strictObject({
  dropControls: z.boolean().default(PARSE_DEFAULTS.dropControls),
  splitSegments: z.boolean().default(PARSE_DEFAULTS.splitSegments),
  splitQuestions: asPublished.default(PARSE_DEFAULTS.splitQuestions),
  splitLines: z.boolean().default(PARSE_DEFAULTS.splitLines),
  dropAnnouncement: asPublished.default(PARSE_DEFAULTS.dropAnnouncement),
  dropWordless: z.boolean().default(PARSE_DEFAULTS.dropWordless),
  stripNumbering: z.boolean().default(PARSE_DEFAULTS.stripNumbering),
  titlePrefix: z.boolean().default(PARSE_DEFAULTS.titlePrefix),
  passageLast: z.boolean().default(PARSE_DEFAULTS.passageLast),
  maxDocuments: atLeast1.default(PARSE_DEFAULTS.maxDocuments),
  onEmpty: z.enum(['invalid', 'passage']).default(PARSE_DEFAULTS.onEmpty),
  loss: z
    .union([z.enum(['all', 'output']), z.strictObject({ after: z.string().min(1) })], {
      error: 'all, output, or a mapping with after',
    })
    .default('all'),
});

const range = (value: z.ZodNumber, [least, most]: readonly [number, number]) =>
  z
    .tuple([value, value])
    .refine(([from, to]) => from <= to, `a ${NAMES.tuple}`)
    .default([least, most]);

const directives = z.strictObject({
  learningRate: range(notNegative, DIRECTIVE_DEFAULTS.learningRate),
  epochs: range(atLeast1, DIRECTIVE_DEFAULTS.epochs),
  rank: range(atLeast1, DIRECTIVE_DEFAULTS.rank),
  targets: z
    .array(z.enum(DIRECTIVE_TARGETS))
    .min(1)
    .default([...DIRECTIVE_TARGETS]),
  layers: z.tuple([count, count]).optional(),
  loss: z.array(z.enum(['all', 'output'])).default([...DIRECTIVE_DEFAULTS.loss]),
  augmentations: z.array(z.string().min(1)).optional(),
  required: z.boolean().default(DIRECTIVE_DEFAULTS.required),
});

const form = z.enum(['auto', 'base', 'chat']);

const edit = z.strictObject({
  /** Text that the inner loop trains on, or weight changes; the settings of these are in `weights`. */
  kind: z.enum(['text', 'weights']).default('text'),
  prompt: z
    .union([z.enum(EDIT_TEMPLATES as [string, ...string[]]), template], {
      error: `a name (${EDIT_TEMPLATES.join(', ')}) or a template with name, base and chat`,
    })
    // The task's own wording by default, where it has one.
    .optional(),
  form: form.default(WRITE_DEFAULTS.form),
  maxTokens: atLeast1.default(WRITE_DEFAULTS.maxTokens),
  temperature: positive.default(WRITE_DEFAULTS.temperature),
  stop: z.array(z.string().min(1)).default([...WRITE_DEFAULTS.stop]),
  parse: parse.prefault({}),
  /** Off when absent; `{}` is on with the default bounds. */
  directives: directives.optional(),
});

const adapt = z.strictObject({
  rank: atLeast1.default(32),
  alpha: positive.default(64),
  learningRate: positive.default(1e-3),
  epochs: atLeast1.default(10),
  batchSize: atLeast1.default(1),
  schedule: z.enum(['constant', 'linear', 'cosine']).default('linear'),
  warmupSteps: count.default(0),
  clip: notNegative.default(1),
  weightDecay: notNegative.default(0),
  shuffle: z.boolean().default(true),
  targets: modules.default(['q_proj', 'v_proj']),
  deterministic: z.boolean().default(false),
  faithfulPadding: z.boolean().default(false),
  paddingLength: z.int().min(2).default(PADDING_LENGTH),
});

const policy = z.strictObject({
  rank: atLeast1.default(16),
  alpha: positive.default(32),
  targets: modules.default(['all']),
  /** Where the value head's estimate starts; used with `ppo.baseline: value`. */
  valueBias: z.number().default(0),
});

const schema = z.strictObject({
  /** A model folder, a .gguf file (both relative to the configuration's folder) or a name that `pull` knows. */
  model: z.string().min(1),
  dtype: z.enum(['float32', 'bfloat16', 'float64']).default('float32'),
  device: z.string().min(1).default('cpu'),
  threads: atLeast1.optional(),
  seed: z.int().min(0).default(0),
  rounds: atLeast1.default(2),
  contextsPerRound: atLeast1.default(5),
  editsPerContext: z.int().min(2).default(5),
  repeats: atLeast1.default(1),
  adaptFrom: z.enum(['policy', 'base']).default('policy'),
  /** The same bits on any number of ranks: gradients are summed in the order of the contexts. */
  deterministic: z.boolean().default(false),
  task: anyTask,
  edit: edit.prefault({}),
  adapt: adapt.prefault({}),
  ...rewardSections,
  policy: policy.prefault({}),
  /** The algorithm; the sections of the others are not read. Weight edits know `ppo` and `gradient`, text edits not the last. */
  algorithm: z.enum([...(ALGORITHM_NAMES as [AlgorithmName, ...AlgorithmName[]]), 'gradient']).default('ppo'),
  ...algorithmSections,
  ...weightSections,
  /** Newest checkpoints kept, and of the older ones those whose edits earned most. */
  keepCheckpoints: z
    .union([atLeast1, z.literal('all')], { error: 'a whole number of at least 1, or all' })
    .default(5),
  keepBest: count.default(1),
  /** Edits a passage in the closing table. */
  closingSamples: atLeast1.default(1),
});

/** The schema for a kind of task. */
function schemaOf(kind: TaskKind): z.ZodType<RunConfig> {
  return schema.extend({ task: TASK_SCHEMAS[kind] }) as unknown as z.ZodType<RunConfig>;
}

/** A configuration with every default filled in. */
export type RunConfig = z.output<typeof schema>;
/** A configuration as written: defaults may be left out. */
export type RunConfigInput = z.input<typeof schema>;

/**
 * Reads and resolves a YAML configuration; relative paths become absolute ones. Throws `FILE_NOT_FOUND`,
 * `INPUT_INVALID` for invalid YAML (with the line) and `OPTION_INVALID` for a key or value that does not fit.
 */
export async function readConfig(path: string): Promise<RunConfig> {
  const text = await readFile(path, 'utf8').catch((cause: NodeJS.ErrnoException) => {
    const missing = cause.code === 'ENOENT';
    throw makeError(
      missing ? 'FILE_NOT_FOUND' : 'IO',
      `${path}: ${missing ? 'no such file' : cause.message}`,
      cause,
    );
  });
  const config = resolveConfig(parseYaml(text, path), path);
  return withPaths(config, dirname(resolve(path)));
}

/** Makes the paths of a configuration absolute; a bare model name stays a name. */
export function withPaths(config: RunConfig, folder: string): RunConfig {
  const { judge, preferences } = config.reward;
  const named =
    !/[\\/]/.test(config.model) && !config.model.endsWith('.gguf') && !config.model.startsWith('.');
  return {
    ...config,
    model: named || isAbsolute(config.model) ? config.model : resolve(folder, config.model),
    task: withTaskPaths(config.task, folder),
    reward: {
      ...config.reward,
      functions: config.reward.functions.map((one) => ({ ...one, module: resolve(folder, one.module) })),
      ...(judge
        ? { judge: { ...judge, ...(judge.cache ? { cache: resolve(folder, judge.cache) } : {}) } }
        : {}),
      ...(preferences ? { preferences: { ...preferences, file: resolve(folder, preferences.file) } } : {}),
    },
  };
}

function parseYaml(text: string, path: string): unknown {
  const document = parseDocument(text);
  const error = document.errors[0];
  if (error) {
    const line = error.linePos?.[0].line;
    const reason = error.message.split('\n')[0]!.replace(/ at line \d+, column \d+:?$/, '');
    throw makeError('INPUT_INVALID', `${path}${line ? ` line ${line}` : ''} is not YAML: ${reason}`, error);
  }
  try {
    return document.toJS() as unknown;
  } catch (cause) {
    // An alias without its anchor, or aliases that would fill the memory.
    throw makeError('INPUT_INVALID', `${path} is not YAML: ${(cause as Error).message}`, cause);
  }
}

/**
 * Checks a configuration and fills in its defaults; `name` is what errors call it, `measures` are those of graders and tasks that
 * `train` is given. Throws `OPTION_INVALID`.
 */
export function resolveConfig(
  value: unknown,
  name = 'configuration',
  measures: readonly string[] = [],
): RunConfig {
  const kind = kindOf(value, name);
  const whole = under(KIND_DEFAULTS[kind], value);
  const form = schemaOf(kind);
  const result = form.safeParse(whole);
  if (!result.success) {
    const problems = result.error.issues.flatMap((issue) => problemsOf(issue, whole, form));
    throw makeError('OPTION_INVALID', `${name}: ${problems.join('; ')}`);
  }
  const config = result.data;
  if (kind === 'knowledge') config.edit.prompt ??= WRITE_DEFAULTS.prompt as string;
  return checkMeasures(checkAlgorithm(config, name), name, measures);
}

function kindOf(value: unknown, name: string): TaskKind {
  const kind = (value as { task?: { kind?: unknown } } | null | undefined)?.task?.kind ?? 'knowledge';
  if (TASK_KINDS.includes(kind as TaskKind)) return kind as TaskKind;
  throw makeError(
    'OPTION_INVALID',
    `${name}: task.kind is ${JSON.stringify(kind)}; expected one of ${TASK_KINDS.join(', ')}`,
  );
}

/** A value over defaults, section by section; what is no mapping stays as it is, for the schema to refuse. */
function under(defaults: Readonly<Record<string, object>>, value: unknown): unknown {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value;
  const sections = Object.entries(defaults).map(([name, section]) => {
    const own = (value as Record<string, unknown>)[name];
    const mapping = own === undefined || (typeof own === 'object' && own !== null && !Array.isArray(own));
    return [name, mapping ? { ...section, ...(own as object | undefined) } : own];
  });
  return { ...value, ...Object.fromEntries(sections) };
}

function checkAlgorithm(config: RunConfig, name: string): RunConfig {
  const { algorithm, edit } = config;
  const known = edit.kind === 'weights' ? ['ppo', 'gradient'] : ALGORITHM_NAMES;
  if (known.includes(algorithm)) return config;
  throw makeError(
    'OPTION_INVALID',
    `${name}: algorithm is "${algorithm}", which does not train ${edit.kind === 'weights' ? 'weight' : 'text'} edits; expected one of ${known.join(', ')}`,
  );
}

// Graders and tasks bring measures of their own, which the schema cannot know.
function checkMeasures(config: RunConfig, name: string, more: readonly string[]): RunConfig {
  const { measure, report } = config.reward;
  const known = [
    ...MEASURES,
    ...(config.reward.judge ? ['judge'] : []),
    ...ownMeasures(config.task),
    ...more,
  ];
  const pays = typeof measure === 'string' ? [measure] : Object.keys(measure);
  for (const [key, names] of [
    ['measure', pays],
    ['report', report],
  ] as const) {
    const unknown = names.find((one) => !known.includes(one));
    if (unknown === undefined) continue;
    throw makeError(
      'OPTION_INVALID',
      `${name}: reward.${key} is "${unknown}"; expected one of ${known.join(', ')}`,
    );
  }
  if (pays.length > 0 || config.reward.functions.length > 0 || config.reward.preferences) return config;
  throw makeError(
    'OPTION_INVALID',
    `${name}: reward.measure is {}; expected a measure, reward.functions or reward.preferences`,
  );
}

function problemsOf(issue: z.core.$ZodIssue, root: unknown, form: unknown): string[] {
  const path = issue.path.map(String);
  const where = path.length > 0 ? path.join('.') : 'the configuration';
  if (issue.code === 'unrecognized_keys') {
    const known = keysAt(path, form);
    return issue.keys.map(
      (key) => `${[...path, key].join('.')} is not a known key; expected one of ${known.join(', ')}`,
    );
  }
  const found = issue.path.reduce<unknown>(
    (value, key) => (value as Record<PropertyKey, unknown> | null)?.[key],
    root,
  );
  const text = found === undefined ? 'missing' : JSON.stringify(found);
  return [`${where} is ${text.length > 80 ? `${text.slice(0, 80)}…` : text}; expected ${expectation(issue)}`];
}

function expectation(issue: z.core.$ZodIssue): string {
  switch (issue.code) {
    case 'invalid_type':
      return `a ${NAMES[issue.expected] ?? issue.expected}`;
    case 'invalid_value':
      return issue.values.length === 1
        ? `"${String(issue.values[0])}"`
        : `one of ${issue.values.map(String).join(', ')}`;
    case 'too_small':
      return typeof issue.minimum === 'number' && issue.origin !== 'string' && issue.origin !== 'array'
        ? `a number ${issue.inclusive ? 'of at least' : 'above'} ${issue.minimum}`
        : 'something that is not empty';
    case 'too_big':
      return `a number of at most ${String(issue.maximum)}`;
    default:
      return issue.message;
  }
}

// The keys of the mapping at a path of the schema, for the error about an unknown one.
function keysAt(path: readonly string[], form: unknown): string[] {
  let node = form;
  for (const key of path) node = shapeOf(node)?.[key];
  return Object.keys(shapeOf(node) ?? {});
}

function shapeOf(node: unknown): Record<string, unknown> | undefined {
  let inner = node;
  while (inner instanceof z.ZodPrefault || inner instanceof z.ZodDefault || inner instanceof z.ZodOptional) {
    inner = inner.unwrap();
  }
  return inner instanceof z.ZodObject ? (inner.shape as Record<string, unknown>) : undefined;
}
