/**
 * Puts questions to many forks in one call and scores what comes back. All measures that need an answer share one
 * greedy generation; the likelihood needs none.
 */
import type { PromptForm } from '../edit/prompts.js';
import { makeError } from '../errors.js';
import type { Fork } from '../fork.js';
import { generate } from '../generate.js';
import type { Model } from '../model.js';
import type { CallOptions } from '../native-job.js';
import type { Question } from '../task/task.js';
import type { Tokenizer } from '../tokenizer/tokenizer.js';
import { BUILT_IN_GRADERS, type Grader, gradeAll } from './grader.js';
import { likelihood } from './likelihood.js';
import { type QuestionTemplate, renderQuestion } from './question.js';

/** The name of a measure: one of `MEASURES`, of the caller's graders, or of what the task measures itself. */
export type MeasureName = string;

/** The built-in measures: the gold answer's log-likelihood in nats a token, and graded answers in [0, 1]. */
export const MEASURES: readonly MeasureName[] = ['likelihood', ...BUILT_IN_GRADERS.map(({ name }) => name)];

/** One question to one fork. */
export interface Asked {
  readonly fork: Fork | Model;
  readonly title: string;
  readonly question: Question;
  /** What the question is about, for graders that read it; the model does not see it. */
  readonly context?: string;
}

/** What came back: one number a measure, and the answer where one was generated. */
export interface Answered {
  /** NaN: unknown. */
  readonly scores: Readonly<Record<MeasureName, number>>;
  readonly answer?: string;
  /** Why a score is unknown, where a grader failed. */
  readonly cause?: string;
}

export interface AskOptions extends CallOptions {
  readonly tokenizer: Tokenizer;
  readonly measures: readonly MeasureName[];
  readonly form?: PromptForm;
  readonly template?: QuestionTemplate;
  /** Most tokens of an answer; 64 as in the paper. */
  readonly maxAnswerTokens?: number;
  /** Strings that end an answer. */
  readonly stop?: readonly string[];
  /** Graders beyond the built-in ones; each is a measure of its name. */
  readonly graders?: readonly Grader[];
  /** How long one call of a grader may take; 600. */
  readonly graderSeconds?: number;
}

/**
 * Scores every row by every measure, in row order. Errors: `OPTION_INVALID` for a measure that nobody knows, `INPUT_INVALID` for a
 * question without a right answer where one is needed.
 */
export async function ask(rows: readonly Asked[], options: AskOptions): Promise<Answered[]> {
  const { tokenizer, measures, form = 'auto', template, signal, onProgress } = options;
  if (rows.length === 0) return [];
  const graders = measures
    .filter((measure) => measure !== 'likelihood')
    .map((measure) => graderNamed(measure, options.graders));
  const prompts = rows.map(({ title, question }) =>
    renderQuestion({ title, question: question.question }, tokenizer, form, template),
  );
  const likelihoods = measures.includes('likelihood')
    ? await answerLikelihoods(rows, prompts, options)
    : undefined;
  const answers =
    graders.length > 0
      ? await generate(
          rows.map(({ fork, title }, row) => ({
            fork,
            prompt: prompts[row]!,
            // What comes before the question is read once a fork. A matter of the row alone, not of the other questions.
            sharedPrefix: commonLength(
              prompts[row]!,
              renderQuestion({ title, question: '?' }, tokenizer, form, template),
            ),
          })),
          {
            maxTokens: options.maxAnswerTokens ?? 64,
            temperature: 0,
            stop: [...(options.stop ?? [])],
            signal,
            onProgress,
          },
        )
      : undefined;
  const graded = new Map(
    await Promise.all(
      graders.map(async (grader) => {
        const answered = rows.map(({ title, context, question: { question, answers: golds } }, row) => ({
          ...{ title, question, answers: golds, prediction: answers![row]!.text },
          ...(context === undefined ? {} : { context }),
        }));
        const seconds = options.graderSeconds ?? 600;
        return [grader.name, await gradeAll(grader, answered, { signal, seconds })] as const;
      }),
    ),
  );
  const cause = [...graded.values()].find((found) => found.cause !== undefined)?.cause;
  return rows.map((_, row) => {
    const scores = Object.fromEntries(
      measures.map((measure) => [measure, (graded.get(measure)?.scores ?? likelihoods!)[row]!]),
    );
    const answer = answers?.[row]?.text;
    const unknown = graders.some(({ name }) => Number.isNaN(scores[name]));
    return {
      scores,
      ...(answer === undefined ? {} : { answer }),
      ...(unknown && cause !== undefined ? { cause } : {}),
    };
  });
}

async function answerLikelihoods(
  rows: readonly Asked[],
  prompts: readonly Int32Array[],
  { tokenizer, signal, onProgress }: AskOptions,
): Promise<number[]> {
  const asked = rows.map(({ fork, question }, row) => ({
    fork,
    prompt: prompts[row]!,
    answer: tokenizer.encode(goldOf(question), { specialTokens: false }),
  }));
  const values = await likelihood(asked, { signal, onProgress });
  // An answer without tokens has none, which is unknown; where another's is NaN, what the model computes is not finite.
  return values.map((value, row) =>
    Number.isNaN(value) && asked[row]!.answer.length > 0 ? Number.NEGATIVE_INFINITY : value,
  );
}

function goldOf({ question, answers }: Question): string {
  if (answers.length > 0) return answers[0]!;
  throw makeError(
    'INPUT_INVALID',
    `question "${question}" has no right answer; expected at least one for the measure "likelihood"`,
  );
}

function graderNamed(measure: MeasureName, own: readonly Grader[] = []): Grader {
  const all = [...own, ...BUILT_IN_GRADERS];
  const found = all.find(({ name }) => name === measure);
  if (found) return found;
  const known = ['likelihood', ...all.map(({ name }) => name)];
  throw makeError('OPTION_INVALID', `measure is "${measure}"; expected one of ${known.join(', ')}`);
}

/** Length of the longest common beginning, less than the prompt's own length. */
function commonLength(prompt: Int32Array, other: Int32Array): number {
  let length = 0;
  while (length < prompt.length - 1 && prompt[length] === other[length]) length++;
  return length;
}
