/** Scores from pairwise choices: the model of Bradley and Terry (1952), with a prior that keeps every score finite. */
import { makeError } from '../errors.js';

/** What came of one comparison of items `a` and `b`. */
export interface PairOutcome {
  readonly a: number;
  readonly b: number;
  /** 1: a was chosen; 0: b was; 1/2: a tie. */
  readonly outcome: number;
}

/** An item set against a fixed point: an item of score 0, that is, one of average worth. */
export interface AnchorOutcome {
  readonly item: number;
  /** Share in [0, 1] of choices that it would win there. */
  readonly outcome: number;
}

export interface BradleyTerryOptions {
  readonly anchors?: readonly AnchorOutcome[];
  /** Standard deviation of the prior N(0, σ²) of a score, in log-odds; above 0, at most 1,000. 2. */
  readonly priorDeviation?: number;
}

/** One entry an item; NaN for an item that nothing is known of. */
export interface BradleyTerry {
  /** Log-odds of being chosen over an item of average worth: item i is chosen over j with probability 1 / (1 + exp(s_j − s_i)). */
  readonly scores: readonly number[];
  /**
   * Standard errors. Of items that were only compared with each other, the common level is not observed: their errors are those of
   * the distance to their mean.
   */
  readonly errors: readonly number[];
}

/**
 * Maximum of the log-posterior Σ y log σ(d) + (1 − y) log σ(−d) − Σ s² / (2 priorDeviation²), d = s_a − s_b (s_a alone for an anchor),
 * by Newton's method; standard errors from the curvature there. A tie counts as half a choice each way. It is strictly concave,
 * so perfect separation and items that no chain of comparisons connects have one finite solution too.
 * Errors: `OPTION_INVALID` for a prior, an item or an outcome out of range.
 */
export function bradleyTerry(
  items: number,
  pairs: readonly PairOutcome[],
  { anchors = [], priorDeviation = 2 }: BradleyTerryOptions = {},
): BradleyTerry {
  if (!(priorDeviation > 0 && priorDeviation <= 1000)) {
    throw makeError(
      'OPTION_INVALID',
      `priorDeviation is ${priorDeviation}; expected above 0 and at most 1000`,
    );
  }
  const terms = [
    ...pairs.map(({ a, b, outcome }) => ({ a, b, outcome })),
    ...anchors.map(({ item, outcome }) => ({ a: item, b: undefined, outcome })),
  ];
  const inRange = (item: number) => Number.isInteger(item) && item >= 0 && item < items;
  for (const { a, b, outcome } of terms) {
    if (inRange(a) && (b === undefined || (inRange(b) && a !== b)) && outcome >= 0 && outcome <= 1) continue;
    throw makeError(
      'OPTION_INVALID',
      `a comparison of items ${a} and ${b} with outcome ${outcome}; expected two of ${items} items and a share in [0, 1]`,
    );
  }
  const precision = 1 / priorDeviation ** 2;
  const distance = (scores: readonly number[], { a, b }: { a: number; b: number | undefined }) =>
    scores[a]! - (b === undefined ? 0 : scores[b]!);
  const logPosterior = (scores: readonly number[]) =>
    terms.reduce((sum, term) => {
      const d = distance(scores, term);
      // y log σ(d) + (1 − y) log σ(−d) = y d − log(1 + exp(d))
      return sum + term.outcome * d - Math.max(d, 0) - Math.log1p(Math.exp(-Math.abs(d)));
    }, 0) -
    (precision / 2) * scores.reduce((sum, score) => sum + score ** 2, 0);
  const curvature = (scores: readonly number[]) => {
    const gradient = scores.map((score) => -precision * score);
    const hessian = scores.map((_, i) => scores.map((__, j) => (i === j ? precision : 0)));
    for (const term of terms) {
      const { a, b, outcome } = term;
      const chance = 1 / (1 + Math.exp(-distance(scores, term)));
      const weight = chance * (1 - chance);
      gradient[a]! += outcome - chance;
      hessian[a]![a]! += weight;
      if (b === undefined) continue;
      gradient[b]! -= outcome - chance;
      hessian[b]![b]! += weight;
      hessian[a]![b]! -= weight;
      hessian[b]![a]! -= weight;
    }
    return { gradient, factor: cholesky(hessian) };
  };

  let scores: number[] = new Array(items).fill(0);
  let value = logPosterior(scores);
  for (let iteration = 0; iteration < 500; iteration++) {
    const { gradient, factor } = curvature(scores);
    const step = solve(factor, gradient);
    if (step.every((part) => Math.abs(part) < 1e-10)) break;
    // Halved until it is no step back: far from the maximum, a whole one may overshoot.
    let size = 1;
    let next = scores;
    let nextValue = Number.NEGATIVE_INFINITY;
    for (; size > 1e-9; size /= 2) {
      next = scores.map((score, i) => score + size * step[i]!);
      nextValue = logPosterior(next);
      if (nextValue >= value) break;
    }
    // Rounding leaves nothing to gain.
    if (!(nextValue >= value)) break;
    scores = next;
    value = nextValue;
  }
  return withErrors(scores, curvature(scores).factor, terms);
}

function withErrors(
  scores: readonly number[],
  factor: readonly (readonly number[])[],
  terms: readonly { a: number; b: number | undefined }[],
): BradleyTerry {
  const inverse = scores.map((_, i) =>
    solve(
      factor,
      scores.map((__, j) => (i === j ? 1 : 0)),
    ),
  );
  const known = new Set(terms.flatMap(({ a, b }) => (b === undefined ? [a] : [a, b])));
  const groups = components(scores.length, terms);
  const anchored = new Set(terms.flatMap(({ a, b }) => (b === undefined ? [groups[a]!] : [])));
  const errors = scores.map((_, i) => {
    if (!known.has(i)) return Number.NaN;
    if (anchored.has(groups[i]!)) return Math.sqrt(inverse[i]![i]!);
    // Variance of s_i − mean(s) over its group.
    const group = scores.flatMap((__, j) => (groups[j] === groups[i] ? [j] : []));
    const contrast = (j: number) => (i === j ? 1 : 0) - 1 / group.length;
    let variance = 0;
    for (const j of group) for (const k of group) variance += contrast(j) * contrast(k) * inverse[j]![k]!;
    return Math.sqrt(variance);
  });
  return { scores: scores.map((score, i) => (known.has(i) ? score : Number.NaN)), errors };
}

/** The least item that a chain of comparisons leads to, for each item. */
function components(items: number, terms: readonly { a: number; b: number | undefined }[]): number[] {
  const parent = Array.from({ length: items }, (_, item) => item);
  const root = (item: number): number => {
    let at = item;
    while (parent[at] !== at) at = parent[at] = parent[parent[at]!]!;
    return at;
  };
  for (const { a, b } of terms) {
    if (b === undefined) continue;
    const [low, high] = [root(a), root(b)].sort((x, y) => x - y) as [number, number];
    parent[high] = low;
  }
  return parent.map((_, item) => root(item));
}

/** L of H = L Lᵀ, for a symmetric positive definite H. */
function cholesky(matrix: readonly (readonly number[])[]): number[][] {
  const factor = matrix.map((row) => row.map(() => 0));
  for (const [i, row] of matrix.entries()) {
    for (let j = 0; j <= i; j++) {
      let sum = row[j]!;
      for (let k = 0; k < j; k++) sum -= factor[i]![k]! * factor[j]![k]!;
      factor[i]![j] = i === j ? Math.sqrt(sum) : sum / factor[j]![j]!;
    }
  }
  return factor;
}

/** x of L Lᵀ x = right. */
function solve(factor: readonly (readonly number[])[], right: readonly number[]): number[] {
  const x = [...right];
  const n = x.length;
  for (let i = 0; i < n; i++) {
    for (let k = 0; k < i; k++) x[i]! -= factor[i]![k]! * x[k]!;
    x[i]! /= factor[i]![i]!;
  }
  for (let i = n - 1; i >= 0; i--) {
    for (let k = i + 1; k < n; k++) x[i]! -= factor[k]![i]! * x[k]!;
    x[i]! /= factor[i]![i]!;
  }
  return x;
}
