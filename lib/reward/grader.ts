/** Graders: what turns an answer into a number. Some know the right answer, some ask a judge, some are the user's own. */
import { makeError, SelfeditError } from '../errors.js';
import { exact } from './exact.js';
import { f1 } from './f1.js';
import { localGrader } from './local.js';
import { recall } from './recall.js';
import { withinTime } from './time-limit.js';

/** An answer to be graded. */
export interface GradeRow {
  readonly title: string;
  readonly question: string;
  /** Right answers; the first is the reference. Empty for questions that have none. */
  readonly answers: readonly string[];
  readonly prediction: string;
  /** What the question is about, for graders that read it. */
  readonly context?: string;
}

/** Grades answers: one number a row, in [0, 1]; NaN where the grade is unknown, which is never the same as wrong. */
export interface Grader {
  readonly name: string;
  /** Whether it can grade a question without a right answer. */
  readonly openEnded?: boolean;
  /** It keeps time itself: its calls end, and may take long. */
  readonly patient?: boolean;
  grade(
    rows: readonly GradeRow[],
    call?: { readonly signal?: AbortSignal | undefined },
  ): Promise<readonly number[]> | readonly number[];
  /** Why grades of the last call are unknown, in words, where it can say so. */
  cause?(): string | undefined;
}

const byAnswers = (
  name: string,
  grade: (prediction: string, golds: readonly string[]) => number,
): Grader => ({
  name,
  grade: (rows) => rows.map(({ prediction, answers }) => grade(prediction, answers)),
});

/** The graders that need nothing but the right answers, by name. */
export const BUILT_IN_GRADERS: readonly Grader[] = [
  byAnswers('exact', exact),
  byAnswers('f1', f1),
  byAnswers('recall', recall),
  localGrader,
];

/** Grades of rows, and why some are unknown. */
export interface Graded {
  readonly scores: readonly number[];
  /** Of the first row whose grade is unknown. */
  readonly cause?: string;
}

/**
 * Grades rows by any grader and puts its mistakes in order: one that throws, never ends (`seconds`), or gives something
 * other than a number in [0, 1] leaves the grade unknown. Throws `ABORTED` when the signal fires,
 * `INPUT_INVALID` for a row without a right answer where the grader needs one, and what the grader itself says about wrong
 * usage (a judge whose key is refused).
 */
export async function gradeAll(
  grader: Grader,
  rows: readonly GradeRow[],
  { signal, seconds }: { readonly signal?: AbortSignal | undefined; readonly seconds: number },
): Promise<Graded> {
  const bare = grader.openEnded ? undefined : rows.find(({ answers }) => answers.length === 0);
  if (bare) {
    throw makeError(
      'INPUT_INVALID',
      `question "${bare.question}" has no right answer; expected at least one for the measure "${grader.name}"`,
    );
  }
  if (rows.length === 0) return { scores: [] };
  const unknown = (cause: string): Graded => ({ scores: rows.map(() => Number.NaN), cause });
  let scores: readonly number[];
  try {
    scores = await withinTime(
      `grader "${grader.name}"`,
      grader.patient ? Number.POSITIVE_INFINITY : seconds,
      (inner) => grader.grade(rows, { signal: inner }),
      signal,
    );
  } catch (error) {
    if (signal?.aborted) throw abortedError(error);
    // A refused key, a model that is not there: a matter of the settings, which no waiting mends.
    if (error instanceof SelfeditError && error.exitCode === 2) throw error;
    return unknown(`grader "${grader.name}" failed: ${(error as Error)?.message ?? String(error)}`);
  }
  if (!Array.isArray(scores) || scores.length !== rows.length) {
    const found = Array.isArray(scores) ? `${scores.length} grades` : `${typeof scores}`;
    return unknown(`grader "${grader.name}" gave ${found} for ${rows.length} answers`);
  }
  const odd = scores.findIndex((score) => !(score >= 0 && score <= 1));
  if (odd < 0) return { scores };
  return {
    scores: scores.map((score) => (score >= 0 && score <= 1 ? score : Number.NaN)),
    cause: grader.cause?.() ?? `grader "${grader.name}" gave ${scores[odd]} for "${rows[odd]!.question}"`,
  };
}

function abortedError(error: unknown): Error {
  if (error instanceof SelfeditError && error.code === 'ABORTED') return error;
  return makeError('ABORTED', 'stopped by its signal while grading', error);
}
