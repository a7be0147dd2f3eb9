import { describe, expect, it } from 'vitest';
import { floorReward, meanReward, shapeReward } from '../../lib/reward/shape.js';

const options = { beta: 0.5, floor: -1 };

describe('reward shaping', () => {
  it('is the mean improvement less β times the KL, with every part kept', () => {
    const { reward, parts } = shapeReward({ edited: [1, 0, 1], unedited: [0, 0, 1], kl: 0.2 }, options);
    expect(reward).toBeCloseTo(1 / 3 - 0.1, 12);
    expect(parts.edited).toBeCloseTo(2 / 3, 12);
    expect(parts.unedited).toBeCloseTo(1 / 3, 12);
    expect(parts.gain).toBeCloseTo(1 / 3, 12);
    expect(parts.kl).toBe(0.2);
    expect(parts.klPenalty).toBeCloseTo(0.1, 12);
  });

  it('never pays less than the floor, nor a number that is not finite', () => {
    expect(shapeReward({ edited: [-9], unedited: [0], kl: 0 }, options).reward).toBe(-1);
    expect(shapeReward({ edited: [Number.NaN], unedited: [0], kl: 0 }, options).reward).toBe(-1);
    expect(shapeReward({ edited: [1], unedited: [0], kl: Number.POSITIVE_INFINITY }, options).reward).toBe(
      -1,
    );
  });

  it('does without a divergence when β is 0', () => {
    const { reward } = shapeReward({ edited: [1], unedited: [0], kl: Number.NaN }, { beta: 0, floor: -1 });
    expect(reward).toBe(1);
    // With β > 0 an unmeasured divergence is not silently free.
    expect(shapeReward({ edited: [1], unedited: [0], kl: Number.NaN }, options).reward).toBe(-1);
  });

  it('averages repeats part by part and reports their spread', () => {
    const first = shapeReward({ edited: [1], unedited: [0], kl: 0.2 }, options);
    const second = shapeReward({ edited: [0.5], unedited: [0], kl: 0.4 }, options);
    const mean = meanReward([first, second]);
    expect(mean.reward).toBeCloseTo((0.9 + 0.3) / 2, 12);
    expect(mean.parts.kl).toBeCloseTo(0.3, 12);
    expect(mean.spread).toBeCloseTo(0.6 / Math.SQRT2, 12);
    expect(meanReward([first]).spread).toBeNaN();
  });

  it('gives the floor to an edit that was not applied', () => {
    const { reward, parts } = floorReward([0.2, 0.4], options);
    expect(reward).toBe(-1);
    expect(parts.unedited).toBeCloseTo(0.3, 12);
    expect(parts.edited).toBeNaN();
  });
});
