/** Variance parts of a reward: against projection matrices in NumPy, against simulations, and on the published recording. */
import { describe, expect, it } from 'vitest';
import { samplesOfRecording } from '../../lib/cli/reward-samples.js';
import { deriveKey, uniform } from '../../lib/random.js';
import { type RewardSample, reliability, spearmanBrown } from '../../lib/reward/reliability.js';
import { readJson } from '../support/fixtures.js';
import { sharedData } from './helpers/shared-data.js';

interface Case {
  rewards: [string, string, number][];
  betweenEdits: number;
  betweenSeeds: number;
  seedsPerEdit: number;
  negative: boolean;
  reliability: Record<string, number>;
}

const samples = (rows: readonly (readonly [string, string, number])[]): RewardSample[] =>
  rows.map(([context, edit, reward]) => ({ context, edit, reward }));

/** Rewards of one context: a row an edit, a column a seed. */
const context = (name: string, rewards_ES: number[][]): RewardSample[] =>
  rewards_ES.flatMap((rewards_S, e) => rewards_S.map((reward) => ({ context: name, edit: `${e}`, reward })));

/** Normal draws by Box and Muller. */
function normals(purpose: string, count: number): number[] {
  const draws = uniform(deriveKey(3, purpose), 2 * count);
  return Array.from({ length: count }, (_, i) => {
    return Math.sqrt(-2 * Math.log(1 - draws[2 * i]!)) * Math.cos(2 * Math.PI * draws[2 * i + 1]!);
  });
}

/** Contexts of four edits of two to five seeds, with known standard deviations. */
function simulate(contexts: number, between: number, within: number): RewardSample[] {
  const noise = normals('noise', contexts * 20);
  const effects = normals('effects', contexts * 4);
  const offsets = normals('offsets', contexts);
  return Array.from({ length: contexts }, (_, c) =>
    context(
      `${c}`,
      [0, 1, 2, 3].map((e) =>
        Array.from(
          { length: 2 + ((c + e) % 4) },
          (_unused, s) =>
            5 * offsets[c]! + between * effects[4 * c + e]! + within * noise[20 * c + 5 * e + s]!,
        ),
      ),
    ),
  ).flat();
}

describe('reliability', () => {
  it.each(['balanced', 'ragged', 'flat'])('has the components of projection matrices: %s', (name) => {
    const expected = readJson<Case>('reliability', `${name}.json`);
    const found = reliability(samples(expected.rewards), { seeds: [1, 3, 10], resamples: 10 });
    // The fixture keeps eight digits.
    const close = (value: number, target: number) =>
      expect(Math.abs(value - target)).toBeLessThanOrEqual(1e-7 * Math.abs(target));
    close(found.betweenEdits, expected.betweenEdits);
    close(found.betweenSeeds, expected.betweenSeeds);
    close(found.seedsPerEdit, expected.seedsPerEdit);
    expect(found.negative).toBe(expected.negative);
    for (const { n, value } of found.of) close(value, expected.reliability[n]!);
    expect(found.rewards).toBe(expected.rewards.length);
  });

  it('by hand: two contexts, two edits, two seeds', () => {
    // Context a: edit means 1 and 5, mean 3: SS between 2·(4 + 4) = 16, within 2 + 2 = 4. Context b: means 2 and 2, within 2 + 0.
    const found = reliability(
      [
        ...context('a', [
          [0, 2],
          [4, 6],
        ]),
        ...context('b', [
          [1, 3],
          [2, 2],
        ]),
      ],
      { seeds: [2], wanted: 0.5 },
    );
    // MS edits 16 / 2 = 8, MS seeds 6 / 4 = 1.5, between (8 − 1.5) / 2 = 3.25.
    expect(found.betweenEdits).toBeCloseTo(3.25, 12);
    expect(found.betweenSeeds).toBeCloseTo(1.5, 12);
    expect(found.of[0]!.value).toBeCloseTo(3.25 / (3.25 + 0.75), 12);
    expect(found.advice.value).toBe(1);
  });

  it('finds the parts that rewards were drawn with, whatever the contexts differ by', () => {
    const found = reliability(simulate(4000, 0.6, 1.2), { seeds: [3], resamples: 400 });
    // Standard errors at this size: about 0.014 and 0.01; the differences of the contexts (variance 25) play no part.
    expect(Math.abs(found.betweenEdits - 0.36)).toBeLessThan(0.05);
    expect(Math.abs(found.betweenSeeds - 1.44)).toBeLessThan(0.04);
    const { value, low, high } = found.of[0]!;
    expect(Math.abs(value - 0.36 / (0.36 + 1.44 / 3))).toBeLessThan(0.04);
    expect([low < value, value < high, high - low < 0.1]).toEqual([true, true, true]);
    expect(found.advice.low).toBeLessThanOrEqual(16);
    expect(found.advice.high).toBeGreaterThanOrEqual(16);
  });

  it('has intervals that hold the truth about as often as they say', () => {
    // 100 worlds of 12 contexts at 80 %; a count below 65 or above 95 has a chance of less than one in a thousand.
    const all = simulate(1200, 0.8, 1);
    const truth = 0.64 / 1.64;
    let held = 0;
    for (let world = 0; world < 100; world++) {
      const own = all.filter(({ context: name }) => Math.floor(Number(name) / 12) === world);
      const { low, high } = reliability(own, { seeds: [1], resamples: 300, level: 0.8 }).of[0]!;
      if (low <= truth && truth <= high) held++;
    }
    expect(held).toBeGreaterThanOrEqual(65);
    expect(held).toBeLessThanOrEqual(95);
  });

  it('is the same again, and does not depend on the order of the rewards', () => {
    const all = simulate(20, 1, 1);
    const found = reliability(all);
    expect(reliability(all)).toEqual(found);
    expect(reliability(all, { seed: 1 }).of[0]!.low).not.toBe(found.of[0]!.low);
    expect(reliability([...all].reverse()).betweenEdits).toBeCloseTo(found.betweenEdits, 10);
  });

  it('advises the least number whose mean is reliable enough', () => {
    // One seed: betweenEdits 2, betweenSeeds 2 → 0.5; 0.8 needs exactly four.
    const four = [-1, 1].map((effect) => [effect * 2 + Math.SQRT2, effect * 2 - Math.SQRT2]);
    const found = reliability(context('a', four), { seeds: [1], wanted: 0.8 });
    const single = found.of[0]!.value;
    const { value } = found.advice;
    expect(spearmanBrown(single, value)).toBeGreaterThanOrEqual(0.8 - 1e-12);
    if (value > 1) expect(spearmanBrown(single, value - 1)).toBeLessThan(0.8);
  });

  it('says that no number will do where edits do not differ, and that one will where seeds do not', () => {
    const same = [1, 2].flatMap((c) =>
      context(`${c}`, [
        [0, 1],
        [1, 0],
      ]),
    );
    const none = reliability(same, { seeds: [1] });
    expect(none).toMatchObject({ betweenEdits: 0, negative: true, betweenSeeds: 0.5 });
    expect(none.of[0]!.value).toBe(0);
    expect(none.advice.value).toBe(Number.POSITIVE_INFINITY);
    const sure = [1, 2].flatMap((c) =>
      context(`${c}`, [
        [0, 0],
        [1, 1],
      ]),
    );
    expect(reliability(sure, { seeds: [1] })).toMatchObject({ of: [{ value: 1 }], advice: { value: 1 } });
    const flat = [1, 2].flatMap((c) =>
      context(`${c}`, [
        [3, 3],
        [3, 3],
      ]),
    );
    expect(reliability(flat, { seeds: [1] })).toMatchObject({
      of: [{ value: Number.NaN }],
      advice: { value: Number.NaN },
    });
  });

  it('leaves unknown rewards out, and has no interval from one context', () => {
    const rewards = [[1, Number.NaN, 2], [3, 5], [Number.NaN]];
    const found = reliability(context('a', rewards), { seeds: [1] });
    expect(found).toMatchObject({ edits: 2, rewards: 4, unknown: 2, contexts: 1 });
    expect(found.of[0]).toMatchObject({ low: 0, high: 1 });
    expect(found.advice).toMatchObject({ low: 1, high: Number.POSITIVE_INFINITY });
  });

  it.each([
    [[], {}, /found 0 edits of 0 contexts.*two edits of one context/],
    [context('a', [[1], [2]]), {}, /found 2 edits of 1 contexts.*two rewards of one edit/],
    [context('a', [[1, 2]]), {}, /found 1 edits.*two edits of one context/],
    [context('a', [[1, Number.POSITIVE_INFINITY], [2]]), {}, /reward of edit 0 of context a is Infinity/],
    [
      context('a', [[1, 2], [2]]),
      { wanted: 1 },
      /wanted reliability is 1; expected a number between 0 and 1/,
    ],
    [context('a', [[1, 2], [2]]), { seeds: [0] }, /number of seeds is 0; expected whole numbers from 1/],
  ])('refuses what tells nothing (%#)', (rewards, options, says) => {
    expect(() => reliability(rewards, options)).toThrow(says);
  });
});

describe('the published recording', () => {
  it('has a reliability of 0.31 for the mean of three seeds, on the 40 passages', async ({ skip }) => {
    const path = sharedData('seal/recorded_rewards.json');
    if (!path) return skip('no ../shared/data/seal/recorded_rewards.json beside the repository');
    const recorded = await samplesOfRecording(path);
    const found = reliability(recorded, { seeds: [3] });
    expect(found).toMatchObject({ contexts: 40, edits: 200, rewards: 600, seedsPerEdit: 3, negative: false });
    expect(found.of[0]!.value.toFixed(2)).toBe('0.31');
    expect(found.advice.value).toBe(27);
    // The same figure without the library: mean correlation of seeds from mean squares, 1 − MS seeds / MS edits.
    const byEdit = new Map<string, number[]>();
    for (const { context: c, edit, reward } of recorded) {
      byEdit.set(`${c}/${edit}`, [...(byEdit.get(`${c}/${edit}`) ?? []), reward]);
    }
    const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
    const variance = (values: readonly number[]) =>
      values.reduce((sum, value) => sum + (value - mean(values)) ** 2, 0) / (values.length - 1);
    const seeds = mean([...byEdit.values()].map(variance));
    const edits = mean(
      Array.from({ length: 40 }, (_, c) =>
        variance([...byEdit].filter(([key]) => key.startsWith(`${c}/`)).map(([, values]) => mean(values))),
      ),
    );
    expect(found.of[0]!.value).toBeCloseTo(1 - seeds / (3 * edits), 12);
  });
});
