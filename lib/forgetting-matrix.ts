/** What a matrix of scores after each of a sequence of edits says about learning and forgetting. */
import { average } from './average.js';
import { makeError } from './errors.js';
import { deriveKey } from './random.js';
import { bootstrapMean, bootstrapRatio, type Interval } from './reward/statistics.js';

/** scores[i][j]: score on context j after the first i edits; row 0 is the unedited model. One row more than columns. */
export type ForgettingMatrix = readonly (readonly number[])[];

/** Means over sequences with bootstrap intervals over sequences; a gain is over the unedited model. */
export interface ForgettingFigures {
  /** Gain of a context right after its own edit, mean over contexts. */
  readonly immediate: Interval;
  /** The same at the end of the sequence. */
  readonly retained: Interval;
  /** immediate − retained: what later edits took away. */
  readonly forgotten: Interval;
  /** Score at the end less that right after the own edit, mean over all contexts but the last (1706.08840); NaN for one. */
  readonly backwardTransfer: Interval;
  /** Share of the immediate gain that is there at the end, Σ retained / Σ immediate. */
  readonly kept: Interval;
  /** The same of the first context alone. */
  readonly keptFirst: Interval;
  /** Score of the first context after 0, 1, … edits. */
  readonly first: readonly Interval[];
}

/** Figures of one sequence. */
export type SequenceFigures = Readonly<Record<'immediate' | 'retained' | 'forgotten', number>>;

/** @internal Gains of one matrix, mean over its contexts. */
export function sequenceFigures(scores: ForgettingMatrix): SequenceFigures {
  const length = scores[0]!.length;
  const gainAt = (row: (index: number) => number) =>
    average(scores[0]!.map((unedited, index) => scores[row(index)]![index]! - unedited));
  const immediate = gainAt((index) => index + 1);
  const retained = gainAt(() => length);
  return { immediate, retained, forgotten: immediate - retained };
}

/**
 * Figures of several sequences of one length, whole sequences resampled: what later edits do to earlier ones is one story
 * a sequence. Intervals are infinite for one sequence. Errors: `INPUT_INVALID` for matrices that are not (n + 1) × n.
 */
export function forgettingFigures(
  matrices: readonly ForgettingMatrix[],
  { seed = 0 }: { seed?: number | bigint } = {},
): ForgettingFigures {
  const length = checkShapes(matrices);
  const each = matrices.map(sequenceFigures);
  const over = (name: keyof SequenceFigures) => each.map((figures) => figures[name]);
  const interval = (values: readonly number[], index: number) =>
    bootstrapMean(
      values.map((value) => [value]),
      { key: deriveKey(seed, 'forgetting', [index]) },
    );
  const share = (above: readonly number[], below: readonly number[], index: number) =>
    bootstrapRatio(above, below, { key: deriveKey(seed, 'forgetting share', [index]) });
  const firstGain = (row: number) => matrices.map((scores) => scores[row]![0]! - scores[0]![0]!);
  return {
    immediate: interval(over('immediate'), 0),
    retained: interval(over('retained'), 1),
    forgotten: interval(over('forgotten'), 2),
    backwardTransfer: interval(matrices.map(backwardTransfer), 3),
    kept: share(over('retained'), over('immediate'), 0),
    keptFirst: share(firstGain(length), firstGain(1), 1),
    first: Array.from({ length: length + 1 }, (_, row) =>
      interval(
        matrices.map((scores) => scores[row]![0]!),
        4 + row,
      ),
    ),
  };
}

/** Mean of every entry over matrices of one shape. Errors: `INPUT_INVALID`. */
export function meanMatrix(matrices: readonly ForgettingMatrix[]): number[][] {
  checkShapes(matrices);
  return matrices[0]!.map((row, i) => row.map((_, j) => average(matrices.map((scores) => scores[i]![j]!))));
}

function backwardTransfer(scores: ForgettingMatrix): number {
  const last = scores.at(-1)!;
  return average(last.slice(0, -1).map((score, index) => score - scores[index + 1]![index]!));
}

function checkShapes(matrices: readonly ForgettingMatrix[]): number {
  const length = matrices[0]?.[0]?.length ?? 0;
  for (const [m, scores] of matrices.entries()) {
    if (length > 0 && scores.length === length + 1 && scores.every((row) => row.length === length)) continue;
    const found = `forgetting matrix ${m} has ${scores.length} rows of ${[...new Set(scores.map((row) => row.length))].join(' and ')}`;
    throw makeError('INPUT_INVALID', `${found}; expected ${length + 1} rows of ${length}, as the first has`);
  }
  if (matrices.length === 0) throw makeError('INPUT_INVALID', 'no forgetting matrix; expected at least one');
  return length;
}
