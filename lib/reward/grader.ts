/** Graders: what turns an answer into a number. Some know the right answer, some ask a judge, some are the user's own. */

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
  grade(
    rows: readonly GradeRow[],
    call?: { readonly signal?: AbortSignal | undefined },
  ): Promise<readonly number[]> | readonly number[];
}
