import { describe, expect, it } from 'vitest';
import { searchFactor } from '../../lib/edit/calibrate.js';
import { failureOf } from '../support/tiny.js';

const TARGET = 0.02;
/** log(KL / target) over the log of the factor: what spaces were seen to do, and worse. */
const CURVES: Record<string, (position: number) => number> = {
  quadratic: (x) => 2 * x - 3,
  'far away': (x) => 2 * (x - 9),
  'flat, slope 0.6': (x) => 0.6 * x + 2,
  // Noise in the exponent of a small step, as the gradient space has it: secants of a bounded slope jump to and fro.
  'steep, slope 15.4': (x) => 15.4 * (x - 0.3),
  'steep beyond a knee': (x) => (x < 3.6 ? 2 * (x - 3.6) - 0.5 : 40 * (x - 3.6) - 0.5),
  'levelling off': (x) => Math.min(20 * x + 30, 0.7 + x / 10),
  'infinite where it overflows': (x) => (x > 0.5 ? Number.POSITIVE_INFINITY : 2 * x + 1),
  'overflowing soon after the target': (x) => (x > 1.02 ? Number.POSITIVE_INFINITY : 2 * (x - 1)),
  'infinite over thirty decades': (x) => (x > -69 ? Number.POSITIVE_INFINITY : 2 * (x + 71)),
  'zero over ten decades': (x) => (x < 23 ? Number.NEGATIVE_INFINITY : 2 * (x - 24)),
  'zero where it is too small': (x) => (x < 1 ? Number.NEGATIVE_INFINITY : 3 * (x - 2)),
  'falling for a while': (x) => 2 * (x - 1) + 3 * Math.sin(3 * x),
};

describe('the search for the noise of a stated KL', () => {
  it.each(Object.entries(CURVES))('finds it: %s', async (_, curve) => {
    let asked = Number.NaN;
    const measure = async (factor: number) => {
      asked = factor;
      return TARGET * Math.exp(curve(Math.log(factor)));
    };
    const { kl, factor, evaluations } = await searchFactor(measure, TARGET, 0.05);
    expect(Math.abs(curve(Math.log(factor)))).toBeLessThanOrEqual(Math.log1p(0.05) + 1e-9);
    expect(kl).toBeCloseTo(TARGET * Math.exp(curve(Math.log(factor))), 10);
    // The noise is left where the last measurement was.
    expect(asked).toBe(factor);
    expect(evaluations).toBeLessThanOrEqual(20);
  });

  it('says what it found last where there is no such noise', async () => {
    const error = await failureOf(searchFactor(async () => 0.5, TARGET, 0.05));
    expect(error).toMatchObject({ code: 'INPUT_INVALID' });
    expect(error.message).toMatch(/KL of 0\.02.*the last had 0\.5\); expected edits that change/);
    const broken = await failureOf(searchFactor(async () => Number.POSITIVE_INFINITY, TARGET, 0.05));
    expect(broken.message).toMatch(/the last had Infinity\); expected a mean edit that the model can be run/);
  });
});
