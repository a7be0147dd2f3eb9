/** What a reward is made of: its settings, their defaults and checks. */
import type { PromptForm } from '../edit/prompts.js';
import { makeError } from '../errors.js';
import type { CallOptions } from '../native-job.js';
import type { TaskHooks } from '../task/task.js';
import type { Tokenizer } from '../tokenizer/tokenizer.js';
import type { ForkAnswers } from './ask-forks.js';
import type { Grader } from './grader.js';
import { type AskOptions, MEASURES, type MeasureName } from './measure.js';
import { checkQuestionTemplate, QUESTION_TEMPLATE, type QuestionTemplate } from './question.js';
import { checkShape, SHAPE_DEFAULTS, type ShapeOptions } from './shape.js';
import { checkTerms, type RewardTerm } from './terms.js';

/** What pays, in what shape, and how questions are put. */
export interface RewardOptions extends ShapeOptions {
  /** What pays: a measure, or weights of several (`{ likelihood: 1, f1: 0.5 }`; `{}`: only the terms pay). */
  measure: MeasureName | Readonly<Record<MeasureName, number>>;
  /** Further measures that are only reported. */
  report: readonly MeasureName[];
  /** Graders of the caller's own, such as a judge; each is a measure of its name. */
  graders: readonly Grader[];
  /** Terms beyond the questions: functions of the edit and the edited model. */
  terms: readonly RewardTerm[];
  /** How long one call of a grader or a term may take before its result is unknown, seconds. */
  patience: number;
  /** Unit variance and zero mean over a round's edits, after all else. */
  whiten: boolean;
  /** Earlier contexts whose paying questions each edit is tested on for `lambda` (keyed choice). */
  earlierContexts: number;
  /** Retention texts that each edit of a round is tested on (keyed choice); 0 leaves the KL out. */
  retentionTexts: number;
  /** Most tokens of a retention text. */
  retentionTokens: number;
  form: PromptForm;
  question: QuestionTemplate;
  maxAnswerTokens: number;
  stop: readonly string[];
  /** How forks are examined, where a task does it in its own way. */
  examine?: ForkAnswers | undefined;
}

export const REWARD_DEFAULTS: Readonly<RewardOptions> = {
  measure: 'likelihood',
  report: [],
  graders: [],
  terms: [],
  patience: 600,
  ...SHAPE_DEFAULTS,
  whiten: false,
  earlierContexts: 4,
  retentionTexts: 2,
  retentionTokens: 256,
  form: 'auto',
  question: QUESTION_TEMPLATE,
  maxAnswerTokens: 64,
  stop: [],
};

/** Defaults filled in and checked; `own` names the measures of the task. Throws `OPTION_INVALID`. */
export function rewardOptions(
  given: Partial<RewardOptions> = {},
  own: readonly MeasureName[] = [],
): RewardOptions {
  const options = { ...REWARD_DEFAULTS, ...given };
  const known = [...new Set([...MEASURES, ...options.graders.map(({ name }) => name), ...own])];
  for (const measure of [...weightsOf(options).map(([name]) => name), ...options.report]) {
    if (known.includes(measure)) continue;
    throw makeError('OPTION_INVALID', `reward measure is "${measure}"; expected one of ${known.join(', ')}`);
  }
  const bad = weightsOf(options).find(([, weight]) => !Number.isFinite(weight));
  if (bad) {
    throw makeError(
      'OPTION_INVALID',
      `the weight of reward measure "${bad[0]}" is ${bad[1]}; expected a finite number`,
    );
  }
  if (weightsOf(options).length === 0 && options.terms.length === 0) {
    throw makeError('OPTION_INVALID', 'the reward has neither a measure nor a term; expected at least one');
  }
  if (!(options.patience > 0)) {
    throw makeError('OPTION_INVALID', `reward patience is ${options.patience}; expected a positive number`);
  }
  if (options.beta > 0 && !(options.retentionTexts > 0)) {
    throw makeError('OPTION_INVALID', 'reward beta is set but retentionTexts is 0; expected at least 1 text');
  }
  if (options.lambda && !(options.earlierContexts > 0)) {
    throw makeError('OPTION_INVALID', 'reward lambda is set but earlierContexts is 0; expected at least 1');
  }
  checkShape(options);
  checkTerms(options.terms);
  checkQuestionTemplate(options.question);
  return options;
}

/** @internal Reward options under a task, which may examine forks, word questions and measure in its own way. */
export function rewardUnder(
  { ask, question, measures }: TaskHooks,
  given: Partial<RewardOptions> = {},
): RewardOptions {
  const own = { ...(ask ? { examine: ask } : {}), ...(question ? { question } : {}) };
  return rewardOptions({ ...own, ...given }, measures);
}

/** @internal Options where a task that examines in its own way may have measures of its own. Throws `OPTION_INVALID`. */
export function examinedOptions(given: Partial<RewardOptions> = {}): RewardOptions {
  const { examine: own, measure = {}, report = [] } = given;
  return rewardOptions(given, own ? measuresOf({ measure, report }) : []);
}

/** @internal The measures that pay, with their weights. */
export function weightsOf({ measure }: Pick<RewardOptions, 'measure'>): (readonly [MeasureName, number])[] {
  return typeof measure === 'string'
    ? [[measure, 1]]
    : Object.entries(measure).filter(([, weight]) => weight !== 0);
}

/** @internal All measures that are taken: those that pay, then those that only report. */
export function measuresOf(options: Pick<RewardOptions, 'measure' | 'report'>): MeasureName[] {
  return [...new Set([...weightsOf(options).map(([name]) => name), ...options.report])];
}

/** How questions are asked under these options. */
export function askOptions(options: RewardOptions, tokenizer: Tokenizer, call: CallOptions = {}): AskOptions {
  return {
    tokenizer,
    measures: measuresOf(options),
    form: options.form,
    template: options.question,
    maxAnswerTokens: options.maxAnswerTokens,
    stop: options.stop,
    graders: options.graders,
    graderSeconds: options.patience,
    ...call,
  };
}

/** @internal How earlier contexts are asked: by what pays. What is only reported would cost a generation a context and edit. */
export function payingOnly(asking: AskOptions, options: Pick<RewardOptions, 'measure'>): AskOptions {
  return { ...asking, measures: weightsOf(options).map(([name]) => name) };
}
