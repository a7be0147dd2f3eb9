/** Puts the questions of contexts to forks: the examination of every task that does not bring its own. */
import { isOverflow, makeError } from '../errors.js';
import type { Fork } from '../fork.js';
import type { Model } from '../model.js';
import type { TaskContext } from '../task/task.js';
import { type Answered, type AskOptions, ask } from './measure.js';

/** Answers of one fork to the questions of one context. */
export interface ContextAnswers {
  readonly paying: readonly Answered[];
  readonly report: readonly Answered[];
}

/** One fork, and the context that it is examined on. */
export interface ForkExam {
  readonly fork: Fork | Model;
  readonly context: TaskContext;
}

/** What examines forks: the answers of every fork to the questions of its context, in order. */
export type ForkAnswers = (rows: readonly ForkExam[], options: AskOptions) => Promise<ContextAnswers[]>;

/** Asks every fork the questions of its context, paying and report-only ones, in one call. */
export async function askForks(rows: readonly ForkExam[], options: AskOptions): Promise<ContextAnswers[]> {
  const asked = rows.flatMap(({ fork, context: { title, context, paying, report } }) =>
    [...paying, ...report].map((question) => ({ fork, title, question, context })),
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

/** @internal As a task examines, checked: a score for every question. Throws `INPUT_INVALID`. */
export async function examine(
  rows: readonly ForkExam[],
  options: AskOptions,
  own: ForkAnswers = askForks,
): Promise<ContextAnswers[]> {
  if (rows.length === 0) return [];
  const answers = await own(rows, options);
  rows.forEach(({ context }, index) => {
    const { paying, report } = answers[index] ?? { paying: [], report: [] };
    if (paying.length === context.paying.length && report.length === context.report.length) return;
    throw makeError(
      'INPUT_INVALID',
      `the task's examination gave ${paying.length} and ${report.length} answers for context "${context.id}"; ` +
        `expected ${context.paying.length} paying and ${context.report.length} report-only ones`,
    );
  });
  return answers;
}

/**
 * @internal As `examine`; undefined for a fork whose log-probs are not finite, which fails alone: none depends on another, so
 * examining each alone gives what all together would have given.
 */
export async function examineApart(
  rows: readonly ForkExam[],
  options: AskOptions,
  own?: ForkAnswers,
): Promise<(ContextAnswers | undefined)[]> {
  try {
    return await examine(rows, options, own);
  } catch (error) {
    if (!isOverflow(error)) throw error;
    if (rows.length === 1) return [undefined];
  }
  const answers: (ContextAnswers | undefined)[] = [];
  for (const row of rows) answers.push(...(await examineApart([row], options, own)));
  return answers;
}

/** @internal As `examineApart`, with unknown scores for what is not finite. */
export async function askApart(
  rows: readonly ForkExam[],
  options: AskOptions,
  own?: ForkAnswers,
): Promise<ContextAnswers[]> {
  const answers = await examineApart(rows, options, own);
  return answers.map((found, index) => found ?? unanswered(rows[index]!.context, options));
}

/** @internal Unknown scores for every question of a context. */
export function unanswered({ paying, report }: TaskContext, { measures }: AskOptions): ContextAnswers {
  const scores = Object.fromEntries(measures.map((measure) => [measure, Number.NaN]));
  return { paying: paying.map(() => ({ scores })), report: report.map(() => ({ scores })) };
}
