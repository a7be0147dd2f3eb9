/**
 * Puts questions to many forks in one call and scores what comes back. All measures that need an answer share one
 * greedy generation; the likelihood needs none.
 */
import type { PromptForm } from '../edit/prompts.js';
import type { Fork } from '../fork.js';
import { generate } from '../generate.js';
import type { Model } from '../model.js';
import type { CallOptions } from '../native-job.js';
import type { Question } from '../task/task.js';
import type { Tokenizer } from '../tokenizer/tokenizer.js';
import { exact } from './exact.js';
import { f1 } from './f1.js';
import { likelihood } from './likelihood.js';
import { type QuestionTemplate, renderQuestion } from './question.js';
import { recall } from './recall.js';

const GRADERS = { exact, f1, recall };

/** Names of the measures: graded answers in [0, 1], and the gold answer's log-likelihood in nats a token. */
export const MEASURES = ['likelihood', 'exact', 'f1', 'recall'] as const;
export type MeasureName = (typeof MEASURES)[number];

/** One question to one fork. */
export interface Asked {
  readonly fork: Fork | Model;
  readonly title: string;
  readonly question: Question;
}

/** What came back: one number a measure, and the answer where one was generated. */
export interface Answered {
  readonly scores: Readonly<Partial<Record<MeasureName, number>>>;
  readonly answer?: string;
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
}

/** Scores every row by every measure, in row order. */
export async function ask(rows: readonly Asked[], options: AskOptions): Promise<Answered[]> {
  const { tokenizer, measures, form = 'auto', template, signal, onProgress } = options;
  if (rows.length === 0) return [];
  const prompts = rows.map(({ title, question }) =>
    renderQuestion({ title, question: question.question }, tokenizer, form, template),
  );
  const likelihoods = measures.includes('likelihood')
    ? await likelihood(
        rows.map(({ fork, question }, row) => ({
          fork,
          prompt: prompts[row]!,
          answer: tokenizer.encode(question.answers[0]!, { specialTokens: false }),
        })),
        { signal, onProgress },
      )
    : undefined;
  const answers = measures.some((measure) => measure !== 'likelihood')
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
  return rows.map(({ question }, row) => {
    const scores: Partial<Record<MeasureName, number>> = {};
    const answer = answers?.[row]?.text;
    for (const measure of measures) {
      scores[measure] =
        measure === 'likelihood' ? likelihoods![row]! : GRADERS[measure](answer!, question.answers);
    }
    return answer === undefined ? { scores } : { scores, answer };
  });
}

/** Length of the longest common beginning, less than the prompt's own length. */
function commonLength(prompt: Int32Array, other: Int32Array): number {
  let length = 0;
  while (length < prompt.length - 1 && prompt[length] === other[length]) length++;
  return length;
}
