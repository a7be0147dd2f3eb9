/** Tests edited forks against the model that they were made from: questions and retention texts, all in one batch. */

import { divergence } from '../divergence.js';
import type { PromptForm } from '../edit/prompts.js';
import { isOverflow, makeError } from '../errors.js';
import type { Fork } from '../fork.js';
import type { Model } from '../model.js';
import type { CallOptions } from '../native-job.js';
import type { TaskContext } from '../task/task.js';
import type { Tokenizer } from '../tokenizer/tokenizer.js';
import { type Answered, type AskOptions, ask, MEASURES, type MeasureName } from './measure.js';
import { checkQuestionTemplate, QUESTION_TEMPLATE, type QuestionTemplate } from './question.js';
import { floorReward, SHAPE_DEFAULTS, type ShapedReward, shapeReward } from './shape.js';

export interface RewardOptions {
  /** What pays. */
  measure: MeasureName;
  /** Further measures that are only reported. */
  report: readonly MeasureName[];
  /** Weight of KL(edited ‖ unedited) on the retention texts. */
  beta: number;
  /** Reward of an edit that cannot be applied; no edit gets less. */
  floor: number;
  /** Retention texts that each edit of a round is tested on (keyed choice); 0 leaves the KL out. */
  retentionTexts: number;
  /** Most tokens of a retention text. */
  retentionTokens: number;
  form: PromptForm;
  question: QuestionTemplate;
  maxAnswerTokens: number;
  stop: readonly string[];
}

export const REWARD_DEFAULTS: Readonly<RewardOptions> = {
  measure: 'likelihood',
  report: [],
  ...SHAPE_DEFAULTS,
  retentionTexts: 2,
  retentionTokens: 256,
  form: 'auto',
  question: QUESTION_TEMPLATE,
  maxAnswerTokens: 64,
  stop: [],
};

/** Defaults filled in and checked. Throws `OPTION_INVALID`. */
export function rewardOptions(given: Partial<RewardOptions> = {}): RewardOptions {
  const options = { ...REWARD_DEFAULTS, ...given };
  for (const measure of [options.measure, ...options.report]) {
    if (MEASURES.includes(measure)) continue;
    throw makeError(
      'OPTION_INVALID',
      `reward measure is "${measure}"; expected one of ${MEASURES.join(', ')}`,
    );
  }
  if (!(options.beta >= 0)) {
    throw makeError('OPTION_INVALID', `reward beta is ${options.beta}; expected a number of at least 0`);
  }
  if (!Number.isFinite(options.floor)) {
    throw makeError('OPTION_INVALID', `reward floor is ${options.floor}; expected a finite number`);
  }
  if (options.beta > 0 && !(options.retentionTexts > 0)) {
    throw makeError('OPTION_INVALID', 'reward beta is set but retentionTexts is 0; expected at least 1 text');
  }
  checkQuestionTemplate(options.question);
  return options;
}

/** How questions are asked under these options. */
export function askOptions(options: RewardOptions, tokenizer: Tokenizer, call: CallOptions = {}): AskOptions {
  return {
    tokenizer,
    measures: [...new Set([options.measure, ...options.report])],
    form: options.form,
    template: options.question,
    maxAnswerTokens: options.maxAnswerTokens,
    stop: options.stop,
    ...call,
  };
}

/** Answers of one fork to the questions of one context. */
export interface ContextAnswers {
  readonly paying: readonly Answered[];
  readonly report: readonly Answered[];
}

/** Asks every fork the questions of its context, paying and report-only ones, in one call. */
export async function askForks(
  rows: readonly { readonly fork: Fork | Model; readonly context: TaskContext }[],
  options: AskOptions,
): Promise<ContextAnswers[]> {
  const asked = rows.flatMap(({ fork, context }) =>
    [...context.paying, ...context.report].map((question) => ({ fork, title: context.title, question })),
  );
  const answered = await ask(asked, options);
  let next = 0;
  const take = (count: number) => {
    next += count;
    return answered.slice(next - count, next);
  };
  return rows.map(({ context }) => ({
    paying: take(context.paying.length),
    report: take(context.report.length),
  }));
}

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
  readonly edit?: { readonly invalid?: unknown };
}

/** What a fork earned, and the answers that it earned it with. */
export interface ForkReward extends ShapedReward {
  readonly answers: ContextAnswers;
  readonly baseline: ContextAnswers;
  /** The inner training, or what the copy computes, is not finite: the floor, and scores of NaN where it was asked. */
  readonly diverged: boolean;
}

/**
 * Rewards of edited forks over the fork that they were made from: the gain on the paying questions of row r, as
 * `copies[r]` answers them, less β times the KL on the texts of `retention` (text or tokens; all of them).
 * `baselines`: the parent's answers, one a row, where they are known. A copy whose log-probs are not finite gets the floor.
 */
export async function rewardForks(
  parent: Fork,
  rows: readonly RewardRow[],
  copies: readonly { readonly fork: Fork; readonly diverged?: boolean }[],
  retention: readonly (string | Int32Array)[],
  given: Partial<RewardOptions> & CallOptions & { baselines?: readonly ContextAnswers[] } = {},
): Promise<ForkReward[]> {
  const { signal, onProgress, baselines: known, ...rest } = given;
  if (rows.length !== copies.length) {
    throw makeError(
      'INPUT_INVALID',
      `${rows.length} edits and ${copies.length} copies; expected one copy an edit`,
    );
  }
  const call = { signal, onProgress };
  const options = rewardOptions(rest);
  const { tokenizer } = parent.model;
  const asking = askOptions(options, tokenizer, call);
  const contexts = rows.map(({ context }) => context);
  const baselines = known ?? (await new BaselineCache().get(parent, '', contexts, asking));
  const texts = retention.map((text) => (typeof text === 'string' ? tokenizer.encode(text) : text));
  const tested = copies.map(({ fork }, index) => ({ fork, context: contexts[index]! }));
  const results = await testForks(tested, parent, texts, asking);
  return rows.map(({ edit }, index) => {
    const { answers, kl, overflows } = results[index]!;
    const edited = scoresOf(answers.paying, options.measure);
    const unedited = scoresOf(baselines[index]!.paying, options.measure);
    const diverged = overflows || copies[index]!.diverged === true;
    const shaped =
      edit?.invalid || diverged
        ? floorReward(unedited, options)
        : shapeReward({ edited, unedited, kl }, options);
    return { ...shaped, answers, baseline: baselines[index]!, diverged };
  });
}

interface Tested {
  readonly answers: ContextAnswers;
  readonly kl: number;
  /** What the copy computes is not finite. */
  readonly overflows: boolean;
}

// One copy that overflows fails the whole call. The others do not depend on it, so testing each alone gives what testing
// all together would have given, and shows which one it was.
async function testForks(
  rows: readonly { readonly fork: Fork; readonly context: TaskContext }[],
  parent: Fork,
  texts: readonly Int32Array[],
  asking: AskOptions,
): Promise<Tested[]> {
  const call = { signal: asking.signal, onProgress: asking.onProgress };
  const test = async (some: typeof rows): Promise<Tested[]> => {
    const answers = await askForks(some, asking);
    const forks = some.map(({ fork }) => fork);
    const kl = await meanDivergence(forks, parent, texts, call);
    return some.map((_, index) => ({ answers: answers[index]!, kl: kl[index]!, overflows: false }));
  };
  try {
    return await test(rows);
  } catch (error) {
    if (!isOverflow(error)) throw error;
  }
  const results: Tested[] = [];
  for (const row of rows) {
    const alone = test([row]).catch((error: unknown) => {
      if (isOverflow(error))
        return [{ answers: noAnswers(row.context, asking), kl: Number.NaN, overflows: true }];
      throw error;
    });
    results.push((await alone)[0]!);
  }
  return results;
}

function noAnswers({ paying, report }: TaskContext, { measures }: AskOptions): ContextAnswers {
  const scores = Object.fromEntries(measures.map((measure) => [measure, Number.NaN]));
  return { paying: paying.map(() => ({ scores })), report: report.map(() => ({ scores })) };
}

/** Scores by one measure. */
export function scoresOf(answers: readonly Answered[], measure: MeasureName): number[] {
  return answers.map(({ scores }) => scores[measure] ?? Number.NaN);
}

/** Scores of the unedited model, kept by (context, version of the parent): the version moves with every update. */
export class BaselineCache {
  #version = '';
  readonly #answers = new Map<string, ContextAnswers>();

  /** The answers for `contexts`, asking `parent` only for those not yet known at this `version`. */
  async get(
    parent: Fork | Model,
    version: string,
    contexts: readonly TaskContext[],
    options: AskOptions,
  ): Promise<ContextAnswers[]> {
    if (version !== this.#version) this.#answers.clear();
    this.#version = version;
    const unknown = contexts.filter(({ id }, index) => {
      return !this.#answers.has(id) && contexts.findIndex((other) => other.id === id) === index;
    });
    const answers = await askForks(
      unknown.map((context) => ({ fork: parent, context })),
      options,
    );
    unknown.forEach(({ id }, index) => {
      this.#answers.set(id, answers[index]!);
    });
    return contexts.map(({ id }) => this.#answers.get(id)!);
  }
}
