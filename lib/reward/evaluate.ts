/** Tests edited forks against the model that they were made from: questions, earlier contexts and retention texts. */

import { average } from '../average.js';
import { divergence } from '../divergence.js';
import { textOf } from '../edit/documents.js';
import type { SelfEdit } from '../edit/edit.js';
import { isOverflow, makeError } from '../errors.js';
import type { Fork } from '../fork.js';
import type { Model } from '../model.js';
import type { CallOptions } from '../native-job.js';
import type { TaskContext } from '../task/task.js';
import { type ContextAnswers, examine, type ForkExam, unanswered } from './ask-forks.js';
import { BaselineCache } from './baseline.js';
import type { Answered, AskOptions } from './measure.js';
import { askOptions, examinedOptions, payingOnly, type RewardOptions, weightsOf } from './options.js';
import { dropsOf, meanScore, weightedScores } from './scores.js';
import { floorReward, type ShapedReward, shapeReward, type WrittenShape } from './shape.js';
import { valuesOfTerms } from './terms.js';

/** KL(fork ‖ reference) in nats a token, mean over all positions of all texts, for each fork. */
export async function meanDivergence(
  forks: readonly (Fork | Model)[],
  reference: Fork | Model,
  texts: readonly Int32Array[],
  call: CallOptions = {},
): Promise<number[]> {
  if (texts.length === 0 || forks.length === 0) return forks.map(() => Number.NaN);
  const rows = forks.flatMap((fork) => texts.map((tokens) => ({ fork, reference, tokens })));
  const divergences = await divergence(rows, call);
  return forks.map((_, index) => {
    const own = divergences.slice(index * texts.length, (index + 1) * texts.length);
    const sum = own.reduce((total, row) => total + row.reduce((part, value) => part + value, 0), 0);
    return sum / own.reduce((total, row) => total + row.length, 0);
  });
}

/** The context that a fork is judged on; an invalid edit gets the floor whatever its fork answers. */
export interface RewardRow {
  readonly context: TaskContext;
  /** The edit itself, for terms that look at it and penalties on its text. */
  readonly edit?: SelfEdit | { readonly invalid?: unknown };
  /** How writing it went; a text edit of which this is not known pays for neither length nor form. */
  readonly samplerLogprobs?: { readonly length: number };
  readonly finish?: 'length' | 'stop' | 'context';
}

/** What a fork earned, and the answers that it earned it with. */
export interface ForkReward extends ShapedReward {
  readonly answers: ContextAnswers;
  readonly baseline: ContextAnswers;
  /** The inner training, or what the copy computes, is not finite: the floor, and scores of NaN where it was asked. */
  readonly diverged: boolean;
}

/** What is known beforehand, beside the settings of the reward. */
export interface RewardCall extends CallOptions {
  /** The parent's answers, one a row. */
  baselines?: readonly ContextAnswers[];
  /** Contexts edited earlier, for `lambda`: what their paying questions lose is forgetting. */
  earlier?: readonly TaskContext[];
  /** The parent's answers to these. */
  earlierBaselines?: readonly ContextAnswers[];
}

/**
 * Rewards of edited forks over the fork that they were made from: the gain on the paying questions of row r, as
 * `copies[r]` answers them, less β times the KL on the texts of `retention` (text or tokens; all of them) and what else
 * the options ask for. A copy whose log-probs are not finite gets the floor. A grader or a term that fails leaves the
 * reward of that edit unknown.
 */
export async function rewardForks(
  parent: Fork,
  rows: readonly RewardRow[],
  copies: readonly { readonly fork: Fork; readonly diverged?: boolean }[],
  retention: readonly (string | Int32Array)[],
  given: Partial<RewardOptions> & RewardCall = {},
): Promise<ForkReward[]> {
  const { signal, onProgress, baselines: known, earlier = [], earlierBaselines, ...rest } = given;
  if (rows.length !== copies.length) {
    throw makeError(
      'INPUT_INVALID',
      `${rows.length} edits and ${copies.length} copies; expected one copy an edit`,
    );
  }
  const call = { signal, onProgress };
  const options = examinedOptions(rest);
  const { tokenizer } = parent.model;
  const asking = askOptions(options, tokenizer, call);
  const before = (contexts: readonly TaskContext[], how: AskOptions) =>
    new BaselineCache().get(parent, '', contexts, how, options.examine);
  const baselines =
    known ??
    (await before(
      rows.map(({ context }) => context),
      asking,
    ));
  const past = (options.lambda ?? 0) > 0 ? earlier.map((context) => ({ ...context, report: [] })) : [];
  const pastBaselines =
    past.length > 0 ? (earlierBaselines ?? (await before(past, payingOnly(asking, options)))) : [];
  if (options.beta > 0 && retention.length === 0) {
    throw makeError(
      'OPTION_INVALID',
      'reward beta is set but there are no retention texts; expected at least 1',
    );
  }
  const texts = retention.map((text) => (typeof text === 'string' ? tokenizer.encode(text) : text));
  const exams = copies.map(({ fork }, index) => ({ fork, context: rows[index]!.context, earlier: past }));
  const results = await testForks(exams, parent, texts, asking, options);
  const subjects = rows.flatMap((row, index) => {
    const { answers, overflows } = results[index]!;
    if (row.edit?.invalid || overflows || copies[index]!.diverged) return [];
    const edit = row.edit && 'kind' in row.edit ? { edit: row.edit } : {};
    const { fork } = copies[index]!;
    return [{ index, ...edit, context: row.context, fork, parent, answers, baseline: baselines[index]! }];
  });
  const terms = await valuesOfTerms(options.terms, subjects, { signal, seconds: options.patience });
  const termsOf = new Map(subjects.map(({ index }, at) => [index, terms[at]!]));
  return rows.map((row, index): ForkReward => {
    const { answers, kl, overflows, earlierAnswers } = results[index]!;
    const baseline = baselines[index]!;
    const diverged = overflows || copies[index]!.diverged === true;
    const unedited = weightedScores(baseline.paying, options);
    if (row.edit?.invalid || diverged) {
      return { ...floorReward(unedited, options), answers, baseline, diverged };
    }
    const { values, cause } = termsOf.get(index)!;
    const weighted = options.terms.map(({ name, weight = 1 }) => {
      return [name, { value: values[name]!, weight }] as const;
    });
    const measured = {
      edited: weightsOf(options).length === 0 ? [] : weightedScores(answers.paying, options),
      unedited,
      kl,
      forgetting: past.length > 0 ? meanDrop(pastBaselines, earlierAnswers, options) : undefined,
      terms: Object.fromEntries(weighted),
      ...writtenShape(row),
      cause:
        cause ??
        causeOf([answers, baseline, ...earlierAnswers, ...pastBaselines].flatMap(({ paying }) => paying)),
    };
    return { ...shapeReward(measured, options), answers, baseline, diverged };
  });
}

function causeOf(answers: readonly Answered[]): string | undefined {
  return answers.find(({ cause }) => cause !== undefined)?.cause;
}

/** Mean drop over the earlier contexts of which both scores are known; NaN where there is none. */
function meanDrop(
  before: readonly ContextAnswers[],
  after: readonly ContextAnswers[],
  { measure }: RewardOptions,
): number {
  const means = (some: readonly ContextAnswers[]) => some.map(({ paying }) => meanScore(paying, measure));
  return average(dropsOf(means(before), means(after), true).filter((drop) => !Number.isNaN(drop)));
}

function writtenShape({ edit, samplerLogprobs, finish }: RewardRow): { written?: WrittenShape } {
  if (!edit || !('kind' in edit) || edit.kind !== 'text' || !samplerLogprobs) return {};
  const distinct = new Set(edit.documents.map((document) => textOf(document).trim().toLowerCase()));
  const { length } = edit.documents;
  return {
    written: {
      tokens: samplerLogprobs.length,
      cutOff: finish === 'length',
      repeats: length > 0 ? 1 - distinct.size / length : 0,
    },
  };
}

interface Tested {
  readonly answers: ContextAnswers;
  readonly earlierAnswers: readonly ContextAnswers[];
  readonly kl: number;
  /** What the copy computes is not finite. */
  readonly overflows: boolean;
}

type Exam = ForkExam & { readonly fork: Fork; readonly earlier: readonly TaskContext[] };

// One copy that overflows fails the whole call. The others do not depend on it, so testing each alone gives what testing
// all together would have given, and shows which one it was.
async function testForks(
  rows: readonly Exam[],
  parent: Fork,
  texts: readonly Int32Array[],
  asking: AskOptions,
  options: RewardOptions,
): Promise<Tested[]> {
  const call = { signal: asking.signal, onProgress: asking.onProgress };
  const test = async (some: readonly Exam[]): Promise<Tested[]> => {
    const answers = await examine(some, asking, options.examine);
    const exams = some.flatMap(({ fork, earlier }) => earlier.map((context) => ({ fork, context })));
    const past = await examine(exams, payingOnly(asking, options), options.examine);
    const forks = some.map(({ fork }) => fork);
    const kl = await meanDivergence(forks, parent, texts, call);
    let next = 0;
    return some.map(({ earlier }, index) => {
      const own = answers[index]!;
      next += earlier.length;
      const earlierAnswers = past.slice(next - earlier.length, next);
      const overflows = own.paying.some(({ scores }) => Object.values(scores).some(isInfinite));
      return { answers: own, earlierAnswers, kl: kl[index]!, overflows };
    });
  };
  try {
    return await test(rows);
  } catch (error) {
    if (!isOverflow(error)) throw error;
  }
  const results: Tested[] = [];
  for (const row of rows) {
    const alone = test([row]).catch((error: unknown) => {
      if (!isOverflow(error)) throw error;
      const answers = unanswered(row.context, asking);
      return [{ answers, earlierAnswers: [], kl: Number.NaN, overflows: true }];
    });
    results.push((await alone)[0]!);
  }
  return results;
}

function isInfinite(score: number): boolean {
  return !Number.isNaN(score) && !Number.isFinite(score);
}
