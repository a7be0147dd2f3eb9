// Medians, spreads and distances of what the benchmarks measure.

/** Middle value; the mean of the two middle ones of an even number. */
export function median(values) {
  if (values.length === 0) throw new RangeError('median of nothing');
  const sorted = [...values].sort((a, b) => a - b);
  const half = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

/** Smallest, largest, and their distance as a share of the median. */
export function spread(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  return { low, high, share: (high - low) / median(values) };
}

/** Largest |a − b|, or of |a − b| / |b| when `relative`. NaN when the lengths differ or an entry is not a number. */
export function largestDifference(a, b, { relative = false } = {}) {
  if (a.length !== b.length) return Number.NaN;
  let largest = 0;
  for (let i = 0; i < a.length; i++) {
    const difference = Math.abs(a[i] - b[i]) / (relative ? Math.abs(b[i]) : 1);
    if (Number.isNaN(difference)) return Number.NaN;
    largest = Math.max(largest, difference);
  }
  return largest;
}

export function sum(values) {
  return values.reduce((total, value) => total + value, 0);
}
