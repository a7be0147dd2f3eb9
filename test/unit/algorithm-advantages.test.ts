import { describe, expect, it } from 'vitest';
import { generalizedAdvantages, leaveOneOut, whiten } from '../../lib/algorithm/advantages.js';
import { KlController } from '../../lib/algorithm/kl-controller.js';
import { deriveKey, uniform } from '../../lib/random.js';

const draw = (lane: number, n: number) => uniform(deriveKey(11, 'advantages', [lane]), n);

describe('leave-one-out', () => {
  it('compares each reward with the mean of the others of its group', () => {
    const rewards = Array.from(draw(0, 9));
    const groups = [0, 1, 0, 2, 1, 0, 2, 1, 0];
    const advantages = leaveOneOut(rewards, groups);
    rewards.forEach((reward, index) => {
      const others = rewards.filter((_, other) => other !== index && groups[other] === groups[index]);
      const mean = others.reduce((sum, value) => sum + value, 0) / others.length;
      expect(advantages[index]).toBeCloseTo(reward - mean, 12);
    });
  });

  it('needs two in each group', () => {
    expect(() => leaveOneOut([1, 2, 3], [0, 0, 1])).toThrow(
      expect.objectContaining({ code: 'OPTION_INVALID' }),
    );
  });
});

describe('generalised advantages', () => {
  it.each([
    [1, 1],
    [1, 0.95],
    [0.9, 0.7],
    [1, 0],
  ])('are the sums of their definition (γ %d, λ %d)', (discount, lambda) => {
    const [rewards, values] = [draw(1, 12), draw(2, 12)];
    const { advantages, returns } = generalizedAdvantages(rewards, values, discount, lambda);
    // Â_t = Σ_l (γλ)^l δ_{t+l}, summed outright.
    const delta = (t: number) => rewards[t]! + (t + 1 < 12 ? discount * values[t + 1]! : 0) - values[t]!;
    for (let t = 0; t < 12; t++) {
      let expected = 0;
      for (let l = 0; t + l < 12; l++) expected += (discount * lambda) ** l * delta(t + l);
      expect(advantages[t]).toBeCloseTo(expected, 12);
      expect(returns[t]).toBeCloseTo(expected + values[t]!, 12);
    }
  });

  it('reach the first token undiminished at λ = 1, and not at 0.95', () => {
    const rewards = new Float64Array(200);
    rewards[199] = 1;
    const values = new Float64Array(200);
    expect(generalizedAdvantages(rewards, values, 1, 1).advantages[0]).toBe(1);
    expect(generalizedAdvantages(rewards, values, 1, 0.95).advantages[0]).toBeLessThan(1e-4);
  });
});

describe('whitening', () => {
  it('counts each sequence once, whatever its length', () => {
    const sequences = [draw(3, 1), draw(4, 50), draw(5, 7)];
    const before = sequences.map((sequence) => Array.from(sequence));
    const { mean, deviation } = whiten(sequences);
    const flat = before.flatMap((sequence) =>
      sequence.map((value) => ({ value, weight: 1 / (3 * sequence.length) })),
    );
    const expectedMean = flat.reduce((sum, { value, weight }) => sum + weight * value, 0);
    const variance = flat.reduce((sum, { value, weight }) => sum + weight * (value - expectedMean) ** 2, 0);
    expect(mean).toBeCloseTo(expectedMean, 12);
    expect(deviation).toBeCloseTo(Math.sqrt(variance), 12);
    sequences.forEach((sequence, row) => {
      sequence.forEach((value, t) => {
        expect(value).toBeCloseTo((before[row]![t]! - expectedMean) / Math.sqrt(variance), 10);
      });
    });
  });

  it('does not turn rounding into a signal', () => {
    const sequences = [Float64Array.of(0.3), Float64Array.of(0.1 + 0.2)];
    whiten(sequences);
    expect(sequences.map((sequence) => sequence[0])).toEqual([0, 0]);
  });
});

describe('the adaptive KL coefficient', () => {
  it('moves by at most K · 20 % towards the target', () => {
    const controller = new KlController(1, 0.02);
    controller.observe(0.021);
    expect(controller.coefficient).toBeCloseTo(1 + 0.1 * 0.05, 12);
    controller.observe(5);
    expect(controller.coefficient).toBeCloseTo(1.005 * 1.02, 12);
    controller.observe(-5);
    expect(controller.coefficient).toBeCloseTo(1.005 * 1.02 * 0.98, 12);
    controller.observe(Number.NaN);
    expect(controller.coefficient).toBeCloseTo(1.005 * 1.02 * 0.98, 12);
  });
  it('stays fixed without a target', () => {
    const controller = new KlController(0.3);
    controller.observe(7);
    expect(controller.coefficient).toBe(0.3);
  });
});
