import { describe, expect, it } from 'vitest';
import { type RewardOptions, rewardOptions } from '../../lib/reward/options.js';
import { floorReward, meanReward, shapeReward, whitenRewards } from '../../lib/reward/shape.js';

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
    expect(shapeReward({ edited: [Number.NEGATIVE_INFINITY], unedited: [0], kl: 0 }, options).reward).toBe(
      -1,
    );
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

  it('leaves questions out whose score is unknown, and is unknown where all are', () => {
    const nan = Number.NaN;
    const measured = { edited: [1, nan, 0.5], unedited: [0, 0, nan], kl: 0 };
    expect(shapeReward(measured, options)).toMatchObject({ reward: 1, parts: { edited: 1, unedited: 0 } });
    const none = shapeReward(
      { ...measured, edited: [nan, 1, 0], unedited: [0, nan, nan], cause: 'judge' },
      options,
    );
    expect(none).toMatchObject({ reward: nan, unknown: 'judge' });
    // Of repeats, those that are known count.
    expect(meanReward([none, shapeReward(measured, options)])).toMatchObject({
      reward: 1,
      rewards: [nan, 1],
    });
    expect(meanReward([none, none])).toMatchObject({ reward: nan, unknown: 'judge' });
    // A trial that broke has no parts; those of the others stay.
    const terms = { mine: { value: 3, weight: 1 } };
    const sound = shapeReward({ ...measured, terms }, options);
    const mean = meanReward([floorReward([0], options), sound]);
    expect(mean.parts).toMatchObject({ gain: 1, terms: { mine: 3 } });
    expect(mean.reward).toBe((-1 + 4) / 2);
  });

  it('adds terms by their weights and subtracts forgetting, length and form', () => {
    const terms = { human: { value: 0.5, weight: 2 }, cost: { value: 3, weight: -0.1 } };
    const written = { tokens: 350, cutOff: true, repeats: 0.25 };
    const measured = { edited: [1], unedited: [0.5], kl: 0.2, forgetting: 0.4, terms, written };
    const shape = {
      ...options,
      ...{ lambda: 0.5, lengthPenalty: 0.1, lengthFree: 100, cutOffPenalty: 0.05, repeatPenalty: 0.2 },
    };
    const { reward, parts } = shapeReward(measured, shape);
    // 0.5 + 2 · 0.5 − 0.1 · 3 − 0.5 · 0.2 − 0.5 · 0.4 − 0.1 · 250 / 100 − (0.05 + 0.2 · 0.25)
    expect(reward).toBeCloseTo(0.5 + 1 - 0.3 - 0.1 - 0.2 - 0.25 - 0.1, 12);
    expect(parts).toMatchObject({
      terms: { human: 0.5, cost: 3 },
      forgettingPenalty: 0.2,
      lengthPenalty: 0.25,
    });
    expect(parts.formatPenalty).toBeCloseTo(0.1, 12);
    expect(parts.total).toBe(reward);
    // Clipped, but never below the floor; the part that says so stays.
    expect(shapeReward(measured, { ...shape, clip: [-0.1, 0.2] })).toMatchObject({ reward: 0.2, parts });
    expect(shapeReward({ ...measured, edited: [-9] }, { ...shape, clip: [-5, 1] }).reward).toBe(-1);
    // Nothing was forgotten before there was anything to forget; what is unknown makes the reward unknown.
    expect(shapeReward({ ...measured, forgetting: undefined }, shape).reward).toBeCloseTo(reward + 0.2, 12);
    expect(shapeReward({ ...measured, forgetting: Number.NaN, cause: 'judge' }, shape).unknown).toBe('judge');
    expect(shapeReward({ ...measured, forgetting: Number.NaN }, { ...shape, lambda: 0 }).reward).toBeCloseTo(
      reward + 0.2,
      12,
    );
    const unknown = { ...terms, human: { value: Number.NaN, weight: 2 } };
    expect(shapeReward({ ...measured, terms: unknown }, shape).reward).toBeNaN();
    // Without questions the terms alone pay.
    const alone = { edited: [], unedited: [], kl: 0, terms: { human: { value: 0.5, weight: 2 } } };
    expect(shapeReward(alone, options).reward).toBe(1);
  });

  it('whitens what is known', () => {
    const nan = Number.NaN;
    const deviation = Math.sqrt((4 + 0 + 4) / 3);
    expect(whitenRewards([1, nan, 3, 5])).toEqual([-2 / deviation, nan, 0, 2 / deviation]);
    expect(whitenRewards([0.3, 0.3, 0.1 + 0.2])).toEqual([0, 0, 0]);
  });

  it('refuses weights and bounds that are none', () => {
    for (const [given, text] of [
      [{ lambda: -1 }, 'reward lambda is -1'],
      [{ lengthPenalty: Number.NaN }, 'reward lengthPenalty is NaN'],
      [{ clip: [1, 0] }, 'reward clip is [1, 0]'],
      [{ measure: { f1: Number.POSITIVE_INFINITY } }, 'the weight of reward measure "f1" is Infinity'],
      [{ measure: {} }, 'neither a measure nor a term'],
      [{ measure: { f2: 1 } }, 'reward measure is "f2"'],
      [{ lambda: 1, earlierContexts: 0 }, 'earlierContexts is 0'],
      [{ patience: 0 }, 'reward patience is 0'],
      [{ terms: [{ name: 'a', reward: 3 }] }, 'reward term "a" lacks a name or a function'],
      [
        { terms: [{ name: 'a', weight: Number.NaN, reward: () => 0 }] },
        'the weight of reward term "a" is NaN',
      ],
    ] as [Partial<RewardOptions>, string][]) {
      expect(() => rewardOptions(given), text).toThrow(text);
    }
  });

  it('gives the floor to an edit that was not applied', () => {
    const { reward, parts } = floorReward([0.2, 0.4], options);
    expect(reward).toBe(-1);
    expect(parts.unedited).toBeCloseTo(0.3, 12);
    expect(parts.edited).toBeNaN();
  });
});
