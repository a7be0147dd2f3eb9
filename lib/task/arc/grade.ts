/** Scores of problems whose output is known: solved within two attempts, and denser measures. */
import { makeError } from '../../errors.js';
import type { Fork } from '../../fork.js';
import type { Model } from '../../model.js';
import type { CallOptions } from '../../native-job.js';
import { likelihood } from '../../reward/likelihood.js';
import type { Answered } from '../../reward/measure.js';
import { gridText, sameGrid } from './grids.js';
import { fittingPrompt, modelOf, type Prediction, predictGrids } from './predict.js';
import { ARC_FORM, type ArcForm, answerText, type ProblemView, type SolvedProblem } from './problems.js';
import { cellShare } from './vote.js';

/** Measures of the few-shot task. */
export const ARC_MEASURES = ['solved', 'attempt1', 'cells', 'likelihood'] as const;
export type ArcMeasure = (typeof ARC_MEASURES)[number];

/** A problem put to a fork, and under which views. */
export interface GradedRow {
  readonly fork: Fork | Model;
  readonly problem: SolvedProblem;
  readonly views: readonly ProblemView[];
}

export interface GradeProblemOptions extends CallOptions {
  /** All by default. The likelihood alone needs no generation. */
  readonly measures?: readonly string[];
  readonly form?: ArcForm;
}

/**
 * One answer a row. `solved`: the output is among the two attempts; `attempt1`: it is the first one; `cells`: share of its
 * cells that the better attempt has right; `likelihood`: of the output and its end, given the problem as it is, mean nats a
 * token (NaN, unknown, where the model's context cannot hold them). The first three are 0 or more even when nothing was predicted.
 * `answer`: the attempts as text, parted by a blank line. Errors: `OPTION_INVALID` for another measure.
 */
export async function gradeProblems(
  rows: readonly GradedRow[],
  { measures = ARC_MEASURES, form = ARC_FORM, ...call }: GradeProblemOptions = {},
): Promise<Answered[]> {
  const unknown = measures.find((measure) => !(ARC_MEASURES as readonly string[]).includes(measure));
  if (unknown !== undefined) {
    throw makeError('OPTION_INVALID', `measure is "${unknown}"; expected one of ${ARC_MEASURES.join(', ')}`);
  }
  const dense = measures.includes('likelihood') ? await likelihoods(rows, form, call) : undefined;
  const voted = measures.some((measure) => measure !== 'likelihood');
  const predictions = voted ? await predictGrids(rows, { form, ...call }) : undefined;
  return rows.map(({ problem }, row) => {
    const prediction = predictions?.[row];
    const all: Partial<Record<ArcMeasure, number>> = {
      ...(dense ? { likelihood: dense[row]! } : {}),
      ...(prediction ? scoresOf(prediction, problem) : {}),
    };
    const wanted = ARC_MEASURES.filter((measure) => measures.includes(measure));
    const scores = Object.fromEntries(wanted.map((measure) => [measure, all[measure]!]));
    if (prediction === undefined) return { scores };
    const answer = prediction.attempts.map((grid) => gridText(grid, form.gap)).join('\n\n');
    return { scores, answer };
  });
}

function scoresOf(
  { attempts }: Prediction,
  { output }: SolvedProblem,
): Record<'solved' | 'attempt1' | 'cells', number> {
  const right = attempts.map((grid) => sameGrid(grid, output));
  return {
    solved: right.includes(true) ? 1 : 0,
    attempt1: right[0] ? 1 : 0,
    cells: Math.max(0, ...attempts.map((grid) => cellShare(grid, output))),
  };
}

async function likelihoods(rows: readonly GradedRow[], form: ArcForm, call: CallOptions): Promise<number[]> {
  const scored = rows.map(({ fork, problem }) => {
    const { tokenizer, config } = modelOf(fork);
    const prompt = fittingPrompt(modelOf(fork), problem, form)?.tokens;
    const answer = tokenizer.encode(answerText(problem.output, form), { specialTokens: false });
    const holds = prompt !== undefined && prompt.length + answer.length <= config.maxPositions;
    return holds ? { fork, prompt, answer } : undefined;
  });
  const fitting = scored.filter((row) => row !== undefined);
  const values = (await likelihood(fitting, call)).values();
  // What does not fit is unknown; what is no number is no better than impossible.
  return scored.map((row) => {
    if (row === undefined) return Number.NaN;
    const value = values.next().value!;
    return Number.isNaN(value) ? Number.NEGATIVE_INFINITY : value;
  });
}
