/** Intervals for scores: Wilson's for a share, and a bootstrap over passages for everything else. */
import { makeError } from '../errors.js';
import { uniform } from '../random.js';

/** An estimate with its confidence interval. */
export interface Interval {
  readonly mean: number;
  readonly low: number;
  readonly high: number;
  /** Number of values. */
  readonly n: number;
  /** Number of groups that were resampled (n when values are independent). */
  readonly groups: number;
}

/** Wilson's score interval for `successes` out of `n` independent trials (Wilson 1927). */
export function wilson(successes: number, n: number, level = 0.95): Interval {
  if (!(n > 0) || successes < 0 || successes > n) {
    throw makeError(
      'OPTION_INVALID',
      `wilson: ${successes} successes of ${n}; expected 0 ≤ successes ≤ n, n > 0`,
    );
  }
  const z = normalQuantile(1 - (1 - level) / 2);
  const share = successes / n;
  const center = (share + z ** 2 / (2 * n)) / (1 + z ** 2 / n);
  const half = (z / (1 + z ** 2 / n)) * Math.sqrt((share * (1 - share)) / n + z ** 2 / (4 * n ** 2));
  const low = successes === 0 ? 0 : center - half;
  const high = successes === n ? 1 : center + half;
  return { mean: share, low, high, n, groups: n };
}

export interface BootstrapOptions {
  /** Philox key of the resampling. */
  readonly key: bigint;
  /** 10,000 by default. */
  readonly resamples?: number;
  /** 0.95 by default. */
  readonly level?: number;
}

/**
 * Bootstrap interval for the mean of all values, whole groups resampled: questions about one passage share one edit,
 * so they are not independent. The percentiles are those of the expanded percentile interval (Hesterberg 2015), which
 * makes up for the narrowness of the plain one at few groups. Infinite with one group.
 */
export function bootstrapMean(groups: readonly (readonly number[])[], options: BootstrapOptions): Interval {
  const filled = groups.filter((group) => group.length > 0);
  const m = filled.length;
  const n = filled.reduce((sum, group) => sum + group.length, 0);
  if (m === 0) throw makeError('OPTION_INVALID', 'bootstrap of no values; expected at least one');
  const sums = filled.map((group) => group.reduce((sum, value) => sum + value, 0));
  const sizes = filled.map((group) => group.length);
  return { ...resampledRatio(sums, sizes, options), n };
}

/**
 * Bootstrap interval for Σ above / Σ below, pairs of values resampled: a share of something that varies from group to
 * group itself, which a mean of shares would let the smallest groups decide. Percentiles as in `bootstrapMean`.
 */
export function bootstrapRatio(
  above: readonly number[],
  below: readonly number[],
  options: BootstrapOptions,
): Interval {
  if (above.length !== below.length || above.length === 0) {
    const found = `${above.length} values over ${below.length}`;
    throw makeError(
      'OPTION_INVALID',
      `bootstrap of a ratio: ${found}; expected as many of both, at least one`,
    );
  }
  return { ...resampledRatio(above, below, options), n: above.length };
}

function resampledRatio(
  above: readonly number[],
  below: readonly number[],
  options: BootstrapOptions,
): Omit<Interval, 'n'> {
  const pairs = above.map((value, index) => [value, below[index]!]);
  return resampledSums(pairs, ([numerator, denominator]) => numerator! / denominator!, options);
}

/**
 * @internal Bootstrap interval of what can be computed from sums over groups: each group gives a row of the same length,
 * rows are resampled whole. Resamples in which the figure does not exist (NaN) are left out.
 */
export function resampledSums(
  rows: readonly (readonly number[])[],
  figure: (sums: Float64Array) => number,
  { key, resamples = 10_000, level = 0.95 }: BootstrapOptions,
): Omit<Interval, 'n'> {
  const m = rows.length;
  const columns = rows[0]!.length;
  const sums = new Float64Array(columns);
  const addRow = (row: readonly number[]) => {
    for (let column = 0; column < columns; column++) sums[column]! += row[column]!;
  };
  rows.forEach(addRow);
  const mean = figure(sums);
  if (m === 1) return { mean, low: Number.NEGATIVE_INFINITY, high: Number.POSITIVE_INFINITY, groups: 1 };
  const draws = uniform(key, resamples * m);
  const figures = new Float64Array(resamples);
  let known = 0;
  for (let sample = 0; sample < resamples; sample++) {
    sums.fill(0);
    for (let lane = 0; lane < m; lane++) addRow(rows[Math.floor(draws[sample * m + lane]! * m)]!);
    const value = figure(sums);
    if (!Number.isNaN(value)) figures[known++] = value;
  }
  const sorted = figures.subarray(0, known).sort();
  const tail = normalCdf(Math.sqrt(m / (m - 1)) * studentQuantile((1 - level) / 2, m - 1));
  return { mean, low: percentile(sorted, tail), high: percentile(sorted, 1 - tail), groups: m };
}

/** Bootstrap interval for the mean difference left − right of values measured on the same questions. */
export function bootstrapDifference(
  left: readonly (readonly number[])[],
  right: readonly (readonly number[])[],
  options: BootstrapOptions,
): Interval {
  const differences = left.map((group, index) => {
    const other = right[index];
    if (other?.length !== group.length) {
      throw makeError(
        'OPTION_INVALID',
        `paired values: group ${index} has ${group.length} and ${other?.length ?? 0}`,
      );
    }
    return group.map((value, position) => value - other[position]!);
  });
  return bootstrapMean(differences, options);
}

/** Whether the interval lies wholly above ('up') or below ('down') zero. */
export function direction(interval: Interval): 'up' | 'down' | 'undecided' {
  if (interval.low > 0) return 'up';
  return interval.high < 0 ? 'down' : 'undecided';
}

// Linear interpolation between order statistics.
function percentile(sorted: Float64Array, share: number): number {
  const position = Math.min(Math.max(share, 0), 1) * (sorted.length - 1);
  const below = Math.floor(position);
  if (sorted.length === 0) return Number.NaN;
  const low = sorted[below]!;
  const high = sorted[Math.min(below + 1, sorted.length - 1)]!;
  return low + (position - below) * (high - low);
}

/** Distribution function of the standard normal. */
export function normalCdf(x: number): number {
  // Φ(x) = ½ + φ(x) (x + x³/3 + x⁵/(3·5) + …), all terms of one sign (Marsaglia 2004).
  if (x < -8) return 0;
  if (x > 8) return 1;
  let term = x;
  let sum = x;
  for (let i = 3; sum + term !== sum; i += 2) {
    term *= x ** 2 / i;
    sum += term;
  }
  return 0.5 + (sum * Math.exp(-(x ** 2) / 2)) / Math.sqrt(2 * Math.PI);
}

/** Quantile of the standard normal. */
export function normalQuantile(probability: number): number {
  return bisect(normalCdf, probability);
}

/** Quantile of Student's t with an integer number of degrees of freedom. */
export function studentQuantile(probability: number, degrees: number): number {
  return bisect((t) => studentCdf(t, degrees), probability);
}

// Closed form for integer degrees (Abramowitz and Stegun 26.7.3 and 26.7.4).
function studentCdf(t: number, degrees: number): number {
  const angle = Math.atan(t / Math.sqrt(degrees));
  const cos = Math.cos(angle);
  const even = degrees % 2 === 0;
  let term = even ? 1 : cos;
  let sum = degrees === 1 ? 0 : term;
  for (let k = even ? 1 : 2; k <= degrees - 3; k += 2) {
    term *= (k / (k + 1)) * cos ** 2;
    sum += term;
  }
  const area = even ? Math.sin(angle) * sum : (2 / Math.PI) * (angle + Math.sin(angle) * sum);
  return 0.5 + area / 2;
}

function bisect(cdf: (x: number) => number, probability: number): number {
  let low = -1e6;
  let high = 1e6;
  for (let step = 0; step < 200; step++) {
    const middle = (low + high) / 2;
    if (cdf(middle) < probability) low = middle;
    else high = middle;
  }
  return (low + high) / 2;
}
