import { describe, expect, it } from 'vitest';
import { deriveKey, uniform } from '../../lib/random.js';
import {
  bootstrapDifference,
  bootstrapMean,
  direction,
  normalCdf,
  normalQuantile,
  studentQuantile,
  wilson,
} from '../../lib/reward/statistics.js';

const key = deriveKey(1, 'test', []);

describe('quantiles', () => {
  // Printed tables.
  it('of the normal', () => {
    expect(normalQuantile(0.975)).toBeCloseTo(1.959964, 6);
    expect(normalQuantile(0.05)).toBeCloseTo(-1.644854, 6);
    expect(normalCdf(1)).toBeCloseTo(0.8413447461, 10);
    expect(normalCdf(-9)).toBe(0);
  });
  it.each([
    [1, 12.706205],
    [2, 4.302653],
    [3, 3.182446],
    [4, 2.776445],
    [7, 2.364624],
    [30, 2.042272],
    [119, 1.9801],
  ])("of Student's t with %i degrees of freedom", (degrees, expected) => {
    expect(studentQuantile(0.975, degrees)).toBeCloseTo(expected, 5);
    expect(studentQuantile(0.025, degrees)).toBeCloseTo(-expected, 5);
  });
});

describe("Wilson's interval", () => {
  it('agrees with published values', () => {
    const some = wilson(8, 10);
    expect([some.mean, some.low, some.high].map((value) => value.toFixed(4))).toEqual([
      '0.8000',
      '0.4902',
      '0.9433',
    ]);
    expect(wilson(0, 10).low).toBe(0);
    expect(wilson(0, 10).high).toBeCloseTo(0.2775, 4);
    expect(wilson(10, 10).high).toBe(1);
  });
  it('refuses impossible counts', () => {
    expect(() => wilson(3, 2)).toThrow(expect.objectContaining({ code: 'OPTION_INVALID' }));
    expect(() => wilson(0, 0)).toThrow(expect.objectContaining({ code: 'OPTION_INVALID' }));
  });
});

describe('bootstrap', () => {
  it('depends on the key alone', () => {
    const groups = [[1, 2], [3], [4, 5, 6]];
    expect(bootstrapMean(groups, { key })).toEqual(bootstrapMean(groups, { key }));
    expect(bootstrapMean(groups, { key }).mean).toBe(3.5);
    expect(bootstrapMean(groups, { key })).toMatchObject({ n: 6, groups: 3 });
  });

  it('resamples whole groups: equal values within a group add no certainty', () => {
    const values = [0, 1, 0, 1, 1, 0, 1, 0];
    const alone = bootstrapMean(
      values.map((value) => [value]),
      { key },
    );
    const copied = bootstrapMean(
      values.map((value) => Array(10).fill(value) as number[]),
      { key },
    );
    expect(copied.high - copied.low).toBeCloseTo(alone.high - alone.low, 10);
  });

  it('of constant values has no width, and of one group no bounds', () => {
    expect(bootstrapMean([[2], [2], [2]], { key })).toMatchObject({ mean: 2, low: 2, high: 2 });
    expect(bootstrapMean([[2, 3]], { key })).toMatchObject({ low: -Infinity, high: Infinity });
    expect(() => bootstrapMean([], { key })).toThrow(expect.objectContaining({ code: 'OPTION_INVALID' }));
  });

  it('pairs differences by question', () => {
    // Noise common to both sides cancels: the paired interval excludes zero, those of the sides overlap.
    const noise = Array.from(uniform(key, 20), (value) => [10 * value]);
    const better = noise.map(([value]) => [value! + 0.1]);
    const difference = bootstrapDifference(better, noise, { key });
    expect(difference.mean).toBeCloseTo(0.1, 10);
    expect(direction(difference)).toBe('up');
    expect(direction(bootstrapDifference(noise, better, { key }))).toBe('down');
    expect(bootstrapMean(better, { key }).low).toBeLessThan(bootstrapMean(noise, { key }).high);
    expect(() => bootstrapDifference([[1, 2]], [[1]], { key })).toThrow(/group 0/);
  });

  it('covers the true mean about as often as it says, at few groups', () => {
    // 600 samples of 6 normal values by Box and Muller; the plain percentile interval covers about 86 %.
    const rounds = 600;
    const draws = uniform(deriveKey(7, 'coverage', []), rounds * 12);
    let covered = 0;
    for (let round = 0; round < rounds; round++) {
      const groups = Array.from({ length: 6 }, (_, lane) => {
        const [radius, angle] = [draws[round * 12 + 2 * lane]!, draws[round * 12 + 2 * lane + 1]!];
        return [Math.sqrt(-2 * Math.log(1 - radius)) * Math.cos(2 * Math.PI * angle)];
      });
      const { low, high } = bootstrapMean(groups, { key: BigInt(round), resamples: 1000 });
      if (low <= 0 && 0 <= high) covered += 1;
    }
    expect(covered / rounds).toBeGreaterThan(0.915);
    expect(covered / rounds).toBeLessThan(0.985);
  });
});
