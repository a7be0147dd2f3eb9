import { describe, expect, it } from 'vitest';
import { forgettingFigures, meanMatrix } from '../../lib/forgetting-matrix.js';
import { bootstrapMean, bootstrapRatio } from '../../lib/reward/statistics.js';

// Two streams of three contexts, small enough for the head.
const one = [
  [0, 1, 2],
  [4, 1, 2],
  [3, 5, 2],
  [1, 4, 8],
];
const two = [
  [0, 0, 0],
  [2, 0, 0],
  [2, 2, 1],
  [2, 1, 2],
];

describe('figures of forgetting matrices', () => {
  const figures = forgettingFigures([one, two], { seed: 1 });

  it('are those computed by hand', () => {
    // Immediate: (4 + 4 + 6) / 3 and (2 + 2 + 2) / 3; retained: (1 + 3 + 6) / 3 and (2 + 1 + 2) / 3.
    expect(figures.immediate.mean).toBeCloseTo((14 / 3 + 2) / 2, 12);
    expect(figures.retained.mean).toBeCloseTo((10 / 3 + 5 / 3) / 2, 12);
    expect(figures.forgotten.mean).toBeCloseTo((4 / 3 + 1 / 3) / 2, 12);
    // Without the last context: (1 − 4 + 4 − 5) / 2 and (2 − 2 + 1 − 2) / 2.
    expect(figures.backwardTransfer.mean).toBeCloseTo((-2 - 0.5) / 2, 12);
    expect(figures.kept.mean).toBeCloseTo((10 + 5) / (14 + 6), 12);
    expect(figures.keptFirst.mean).toBeCloseTo((1 + 2) / (4 + 2), 12);
    expect(figures.first.map(({ mean }) => mean)).toEqual([0, 3, 2.5, 1.5]);
    expect(figures.immediate).toMatchObject({ groups: 2, n: 2 });
    expect(meanMatrix([one, two])[3]).toEqual([1.5, 2.5, 5]);
  });

  it('have intervals over streams, infinite for one', () => {
    expect(figures.immediate.low).toBeLessThan(figures.immediate.mean);
    expect(figures.keptFirst.low).toBeCloseTo(0.25, 12);
    expect(figures.keptFirst.high).toBeCloseTo(1, 12);
    expect(forgettingFigures([one]).immediate.high).toBe(Number.POSITIVE_INFINITY);
    expect(forgettingFigures([one, two], { seed: 1 })).toEqual(figures);
  });

  it.each([
    [[], /no forgetting matrix/],
    [[[]], /matrix 0 has 0 rows/],
    [[one, two.slice(0, 3)], /matrix 1 has 3 rows of 3; expected 4 rows of 3/],
    [[[[1, 2], [1], [1, 2]]], /matrix 0 has 3 rows of 2 and 1; expected 3 rows of 2/],
  ])('of %j are refused', (matrices, message) => {
    expect(() => forgettingFigures(matrices)).toThrow(message);
  });
});

describe('the bootstrap of a ratio', () => {
  it('is the bootstrap of a mean where the lower values count the upper ones', () => {
    const groups = [[1, 2], [5], [0, 0, 3], [4]];
    const sums = groups.map((group) => group.reduce((sum, value) => sum + value, 0));
    const sizes = groups.map((group) => group.length);
    const { n: _, ...mean } = bootstrapMean(groups, { key: 5n });
    expect(bootstrapRatio(sums, sizes, { key: 5n })).toEqual({ ...mean, n: 4 });
    expect(() => bootstrapRatio([1], [1, 2], { key: 5n })).toThrow(/1 values over 2/);
  });
});
