/**
 * Continued pretraining (SEAL, arXiv 2506.10943): the documents of many contexts' edits are trained into one delta, low-rank
 * or of full weights, and then all questions are asked.
 */
import { Delta } from './delta.js';
import { applyEdits, type InnerOptions, type Trainable } from './edit/apply.js';
import { type ParseOptions, passageOnly } from './edit/parse.js';
import { makeError } from './errors.js';
import type { Fork } from './fork.js';
import type { Model } from './model.js';
import { deriveKey } from './random.js';
import { askApart } from './reward/ask-forks.js';
import { askOptions, examinedOptions, type RewardOptions } from './reward/options.js';
import { bootstrapDifference, bootstrapMean, type Interval } from './reward/statistics.js';
import { resolveTargets } from './targets.js';
import type { TaskContext } from './task/task.js';

export interface ContinuedOptions {
  /** What is trained on top of; not changed. */
  parent: Fork;
  /** Paying and report questions of all of them are asked alike. */
  contexts: readonly TaskContext[];
  /**
   * Edits by the name of their arm, any number a context; invalid ones are left out. Beside them stand `unedited` and
   * `passages only`, the contexts' own texts.
   */
  edits?: Readonly<Record<string, readonly Trainable[]>>;
  /** What is trained: factors of `adapt.rank`, or every value of the targets. `lowRank`. */
  weights?: 'lowRank' | 'full';
  /** Constants of the training. Full weights: all linear maps unless `targets` say otherwise; `learningRate` is required. */
  adapt?: InnerOptions;
  /** How the passages become documents. */
  parse?: Partial<ParseOptions>;
  reward?: Partial<RewardOptions>;
  seed?: number | bigint;
  signal?: AbortSignal;
  /** Called when the work on an arm begins. */
  onArm?: (arm: string) => void;
  /** Gets every arm's delta before it is closed, for example to save it. */
  onDelta?: (arm: string, delta: Delta) => void | Promise<void>;
}

export interface ContinuedArm {
  readonly arm: string;
  readonly documents: number;
  /** Loss of every optimizer step, nats a token. */
  readonly loss: Float32Array;
  /** The training ended in a loss that is not finite: all scores are NaN. */
  readonly diverged: boolean;
  /** By measure: contexts × questions. */
  readonly values: Readonly<Record<string, readonly (readonly number[])[]>>;
  /** By measure: mean over questions, bootstrap over contexts. */
  readonly intervals: Readonly<Record<string, Interval>>;
  /** By measure: mean difference from `unedited` on the same questions; of every other arm. */
  readonly gain?: Readonly<Record<string, Interval>>;
  /** The same from `passages only`; of the arms of edits. */
  readonly beyondPassages?: Readonly<Record<string, Interval>>;
}

export const UNEDITED = 'unedited';
export const PASSAGES = 'passages only';

/**
 * Trains one delta an arm and asks every question of every context, the passage not shown. Errors: `INPUT_INVALID` when
 * there is nothing to ask, or an arm has nothing to train on; `OPTION_INVALID`; those of `adapt` and `ask`.
 */
export async function continuedPretraining(options: ContinuedOptions): Promise<ContinuedArm[]> {
  const { parent, seed = 0, signal, weights = 'lowRank' } = options;
  const { model } = parent;
  const reward = examinedOptions(options.reward);
  const asking = askOptions(reward, model.tokenizer, { signal });
  const contexts = options.contexts
    .map((context) => ({ ...context, paying: [], report: [...context.paying, ...context.report] }))
    .filter(({ report }) => report.length > 0);
  if (contexts.length === 0)
    throw makeError('INPUT_INVALID', 'no context has a question; expected at least one');
  const arms = armsOf(options);
  const adapt = adaptOptions(weights, options.adapt);

  const done: ContinuedArm[] = [];
  for (const [index, { arm, documents }] of arms.entries()) {
    options.onArm?.(arm);
    const init =
      weights === 'full' && documents.length > 0 ? zeroDelta(model, adapt.targets ?? ['all']) : undefined;
    const edit = { documents, seed: deriveKey(seed, 'continued', [index]), ...(init ? { init } : {}) };
    const [copy] = await applyEdits(parent, [edit], { ...adapt, signal });
    try {
      const { fork, delta, loss, diverged } = copy!;
      if (documents.length > 0 && !delta && !diverged) {
        throw makeError('INPUT_INVALID', `arm "${arm}" has no document of at least 2 tokens`);
      }
      if (delta) await options.onDelta?.(arm, delta);
      const answers = await askApart(
        contexts.map((context) => ({ fork, context })),
        asking,
        reward.examine,
      );
      const values = Object.fromEntries(
        asking.measures.map((name) => [
          name,
          answers.map(({ report }) =>
            report.map(({ scores }) => (diverged ? Number.NaN : (scores[name] ?? Number.NaN))),
          ),
        ]),
      );
      const key = deriveKey(seed, 'continued bootstrap', [index]);
      const against = (other: ContinuedArm) =>
        Object.fromEntries(
          Object.entries(values).map(([name, own]) => {
            return [name, bootstrapDifference(own, other.values[name]!, { key })];
          }),
        );
      const [unedited, passages] = done;
      done.push({
        ...{ arm, documents: documents.length, loss, diverged, values },
        intervals: Object.fromEntries(
          Object.entries(values).map(([name, groups]) => [name, bootstrapMean(groups, { key })]),
        ),
        ...(unedited ? { gain: against(unedited) } : {}),
        ...(passages ? { beyondPassages: against(passages) } : {}),
      });
    } finally {
      await copy?.close();
      await init?.close();
    }
  }
  return done;
}

function armsOf({
  contexts,
  edits = {},
  parse,
}: ContinuedOptions): { arm: string; documents: Trainable['documents'] }[] {
  const passages = contexts.flatMap((context) => passageOnly(context, parse).documents);
  const arms = Object.entries(edits).map(([arm, own]) => {
    if (arm === UNEDITED || arm === PASSAGES) {
      throw makeError('OPTION_INVALID', `an arm of edits is called "${arm}"; expected another name`);
    }
    const documents = own.flatMap((edit) => (edit.invalid ? [] : edit.documents));
    if (documents.length > 0) return { arm, documents };
    throw makeError(
      'INPUT_INVALID',
      `arm "${arm}" has nothing to train on; expected at least one valid edit`,
    );
  });
  return [{ arm: UNEDITED, documents: [] }, { arm: PASSAGES, documents: passages }, ...arms];
}

function adaptOptions(weights: 'lowRank' | 'full', given: InnerOptions = {}): InnerOptions {
  if (weights === 'lowRank') return given;
  if (weights !== 'full') {
    throw makeError('OPTION_INVALID', `weights are "${String(weights)}"; expected lowRank or full`);
  }
  if (given.learningRate === undefined) {
    const why = 'that of low-rank factors would destroy the model';
    throw makeError('OPTION_INVALID', `full weights without adapt.learningRate; expected one, as ${why}`);
  }
  return given;
}

/** Every value of the targets, starting at zero: what full weights are trained from. */
function zeroDelta(model: Model, targets: readonly string[]): Delta {
  const parts = Array.from(resolveTargets(model, targets), (matrix) => {
    const { out, in: width } = model.tensors[matrix]!;
    return { kind: 'dense' as const, matrix, values: new Float32Array(out * width) };
  });
  return Delta.fromParts(model, parts);
}
