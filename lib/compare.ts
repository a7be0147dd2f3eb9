/**
 * The closing table: how well questions about unseen passages are answered after no edit, after training on the
 * passage alone, after the untrained model's edits and after the trained policy's.
 */
import { average } from './average.js';
import { applyEdits, type EditedFork, type InnerOptions, type Trainable } from './edit/apply.js';
import { passageOnly } from './edit/parse.js';
import type { WeightEdit } from './edit/weight.js';
import { checkWriteOptions, type WriteOptions, writeDefaults, writeEdits } from './edit/write.js';
import type { EditHead } from './edit-head.js';
import { makeError } from './errors.js';
import type { Fork } from './fork.js';
import type { GuardSummary } from './guard/summary.js';
import type { Policy } from './policy.js';
import { deriveKey } from './random.js';
import { type ContextAnswers, examineApart, unanswered } from './reward/ask-forks.js';
import type { MeasureName } from './reward/measure.js';
import { askOptions, type RewardOptions, rewardUnder } from './reward/options.js';
import { bootstrapMean, type Interval } from './reward/statistics.js';
import { hooksOf, type TaskContext, type TaskHooks } from './task/task.js';

/** The rows of the table. `trained policy` is the policy without an edit: what it knows by itself. */
export const METHODS = [
  'unedited',
  'passage only',
  'untrained edits',
  'trained edits',
  'trained policy',
] as const;
export type Method = (typeof METHODS)[number];

export interface CompareOptions {
  policy: Policy;
  /** Contexts that training has not shown; all their questions are asked. */
  contexts: readonly TaskContext[];
  seed?: number | bigint;
  /** Edits written (and trained) for each passage; a question's score is the mean over them. */
  samples?: number;
  edit?: Partial<WriteOptions>;
  /** The task, or what it does in its own way: wording, reading of edits, examination. */
  task?: TaskHooks;
  /** What trained edits are stacked on. The other methods start from the base model. */
  adaptFrom?: 'policy' | 'base';
  adapt?: InnerOptions;
  reward?: Partial<RewardOptions>;
  /** Compares the mean weight edits of these heads instead of written texts, one a passage. */
  heads?: { readonly untrained: EditHead; readonly trained: EditHead };
  signal?: AbortSignal;
  /** Called when the work on a method begins. */
  onMethod?: (method: Method) => void;
}

/** Scores of one method. */
export interface MethodResult {
  readonly method: Method;
  /** measure → contexts × questions. */
  readonly values: Readonly<Record<MeasureName, readonly (readonly number[])[]>>;
  readonly intervals: Readonly<Record<MeasureName, Interval>>;
  /** Edits written, and how many of them could not be applied (their passages count as unedited). */
  readonly edits: number;
  readonly invalid: number;
}

/** Paired difference of two methods on the same questions. */
export interface MethodDifference {
  readonly left: Method;
  readonly right: Method;
  readonly measure: MeasureName;
  readonly interval: Interval;
}

export interface Comparison {
  readonly measures: readonly MeasureName[];
  readonly passages: number;
  readonly questions: number;
  readonly samples: number;
  /** What trained edits were stacked on. */
  readonly adaptFrom: 'policy' | 'base';
  readonly methods: readonly MethodResult[];
  readonly differences: readonly MethodDifference[];
  /** What the guards against reward hacking saw, where a run was guarded. */
  readonly guards?: readonly GuardSummary[];
}

const PAIRS: readonly (readonly [Method, Method])[] = [
  ['trained edits', 'untrained edits'],
  ['trained edits', 'passage only'],
  ['trained edits', 'unedited'],
  ['untrained edits', 'passage only'],
  ['passage only', 'unedited'],
  ['trained policy', 'unedited'],
];

/**
 * Scores every method on every question, with 95 % intervals by a bootstrap over passages. Trained and untrained
 * edits are drawn and trained under the same keys. Throws `INPUT_INVALID` when there is nothing to ask.
 */
export async function compareMethods(options: CompareOptions): Promise<Comparison> {
  const { policy, signal, heads, seed = 0 } = options;
  const samples = heads ? 1 : (options.samples ?? 1);
  const { model } = policy;
  const task = hooksOf(options.task ?? {});
  const reward = rewardUnder(task, options.reward);
  const asking = askOptions(reward, model.tokenizer, { signal });
  const { augmentations } = task;
  // A head's edits have no text.
  if (!heads)
    checkWriteOptions({ ...writeDefaults(task), ...options.edit }, { model, augmentations }, options.adapt);
  const contexts = options.contexts
    .map((context) => ({ ...context, paying: [], report: [...context.paying, ...context.report] }))
    .filter(({ report }) => report.length > 0);
  if (contexts.length === 0) {
    throw makeError('INPUT_INVALID', 'no unseen passage has a question; expected at least one');
  }

  /** Answers of the unedited model, context by context. */
  let unedited: (ContextAnswers | undefined)[] | undefined;
  // values[group][question], mean over the samples, for one method.
  const measure = async (
    method: Method,
    parent: Fork,
    texts: readonly Trial[] | undefined,
  ): Promise<MethodResult> => {
    const trials = texts ?? contexts.map((_, group) => ({ group, edit: NONE }));
    const edited = await forksOf(parent, trials, { seed, ...options });
    try {
      const found = await examineApart(
        edited.map(({ fork }, index) => ({ fork, context: contexts[trials[index]!.group]! })),
        asking,
        reward.examine,
      );
      unedited ??= found;
      // An edit whose copy computes no finite numbers counts as none; a model that does so by itself has no scores.
      const answers = found.map((own, index) => {
        const { group } = trials[index]!;
        return own ?? (texts && unedited![group]) ?? unanswered(contexts[group]!, asking);
      });
      const values: Record<MeasureName, number[][]> = {};
      for (const name of asking.measures) {
        values[name] = contexts.map(({ report }, group) => {
          const own = answers.filter((_, index) => trials[index]!.group === group);
          return report.map((_, question) =>
            average(
              own
                .map(({ report: answered }) => answered[question]!.scores[name] ?? Number.NaN)
                .filter(isKnown),
            ),
          );
        });
      }
      return {
        method,
        values,
        intervals: intervalsOf(values, method, seed),
        edits: texts?.length ?? 0,
        invalid:
          texts?.filter(({ edit }, index) => edit.invalid || edited[index]!.diverged || !found[index])
            .length ?? 0,
      };
    } finally {
      for (const fork of edited) await fork.close();
    }
  };
  const written = async (writer: Fork, parent: Fork): Promise<Trial[]> => {
    // Its own purpose: these keys belong to no round of training.
    const keyed = { seed: deriveKey(seed, 'compare'), samples, task, signal };
    if (!heads) return writeEdits(writer, contexts, { ...options.edit, ...keyed });
    const head = writer === base ? heads.untrained : heads.trained;
    return head.write(contexts, { parent, mean: true, seed: keyed.seed, signal });
  };
  const alone = contexts.map((context, group) => ({
    group,
    edit: passageOnly(context, options.edit?.parse),
  }));

  const base = model.fork();
  const trained = policy.fork();
  const methods: MethodResult[] = [];
  try {
    for (const method of METHODS) {
      options.onMethod?.(method);
      if (method === 'unedited') methods.push(await measure(method, base, undefined));
      if (method === 'passage only') methods.push(await measure(method, base, alone));
      if (method === 'untrained edits') methods.push(await measure(method, base, await written(base, base)));
      if (method === 'trained edits') {
        const parent = options.adaptFrom === 'base' ? base : trained;
        methods.push(await measure(method, parent, await written(trained, parent)));
      }
      if (method === 'trained policy') methods.push(await measure(method, trained, undefined));
    }
  } finally {
    await trained.close();
    await base.close();
  }
  return {
    measures: asking.measures,
    passages: contexts.length,
    questions: contexts.reduce((sum, { report }) => sum + report.length, 0),
    samples,
    adaptFrom: options.adaptFrom ?? 'policy',
    methods,
    differences: differencesOf(methods, asking.measures, seed),
  };
}

interface Trial {
  readonly group: number;
  readonly edit: Trainable | WeightEdit;
  close?(): Promise<void>;
}
const NONE: Trainable = { documents: [] };

async function forksOf(
  parent: Fork,
  trials: readonly Trial[],
  options: Pick<CompareOptions, 'adapt' | 'signal'> & { seed: number | bigint },
): Promise<EditedFork[]> {
  const edits = trials.map((trial) => ({
    edit: trial.edit,
    seed: deriveKey(options.seed, 'compare adapt', [trial.group]),
    ...('delta' in trial.edit ? { close: async () => trial.close?.() } : {}),
  }));
  return applyEdits(parent, edits, { ...options.adapt, signal: options.signal });
}

function intervalsOf(
  values: Record<MeasureName, number[][]>,
  method: Method,
  seed: number | bigint,
): Record<MeasureName, Interval> {
  const key = deriveKey(seed, 'bootstrap', [METHODS.indexOf(method)]);
  const entries = Object.entries(values).map(([name, groups]) => [name, intervalOf(groups, key)]);
  return Object.fromEntries(entries) as Record<MeasureName, Interval>;
}

function differencesOf(
  methods: readonly MethodResult[],
  measures: readonly MeasureName[],
  seed: number | bigint,
): MethodDifference[] {
  const valuesOf = (method: Method, measure: MeasureName) =>
    methods.find((result) => result.method === method)!.values[measure]!;
  return PAIRS.flatMap(([left, right], pair) =>
    measures.map((measure) => {
      const key = deriveKey(seed, 'bootstrap difference', [pair]);
      const others = valuesOf(right, measure);
      const interval = intervalOf(
        valuesOf(left, measure).map((group, g) => group.map((value, q) => value - others[g]![q]!)),
        key,
      );
      return { left, right, measure, interval };
    }),
  );
}

const isKnown = (value: number) => !Number.isNaN(value);

/** Over what is known; no number where nothing is. */
function intervalOf(groups: readonly (readonly number[])[], key: bigint): Interval {
  const known = groups.map((group) => group.filter(isKnown));
  if (known.some((group) => group.length > 0)) return bootstrapMean(known, { key });
  const limits = { low: Number.NEGATIVE_INFINITY, high: Number.POSITIVE_INFINITY };
  return { mean: Number.NaN, ...limits, n: 0, groups: 0 };
}
