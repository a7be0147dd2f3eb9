/** Numbers out of answers: by one measure, by all that pay, and their means. */
import { average } from '../average.js';
import type { Answered, MeasureName } from './measure.js';
import { type RewardOptions, weightsOf } from './options.js';

/** Scores by one measure; NaN where it is unknown. */
export function scoresOf(answers: readonly Answered[], measure: MeasureName): number[] {
  return answers.map(({ scores }) => scores[measure] ?? Number.NaN);
}

/** @internal Scores of questions: the weighted sum over the measures that pay; NaN where one of them is unknown. */
export function weightedScores(
  answers: readonly Answered[],
  options: Pick<RewardOptions, 'measure'>,
): number[] {
  const columns = weightsOf(options).map(([name, weight]) => ({ weight, scores: scoresOf(answers, name) }));
  return answers.map((_, q) => columns.reduce((sum, { weight, scores }) => sum + weight * scores[q]!, 0));
}

/** @internal Mean of `weightedScores`; NaN where one is unknown or there is none. */
export function meanScore(answers: readonly Answered[], measure: RewardOptions['measure']): number {
  return average(weightedScores(answers, { measure }));
}

/** @internal How much lower each score is after than before; with `clip` at least 0. */
export function dropsOf(before: readonly number[], after: readonly number[], clip: boolean): number[] {
  return before.map((score, index) => {
    const drop = score - after[index]!;
    return clip && drop < 0 ? 0 : drop;
  });
}
