import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  bradleyTerry,
  type PairOutcome,
  type Preference,
  parsePreferences,
  preferences,
  readPreferences,
} from '../../lib/index.js';
import { appendPreference, resumePreferences } from '../../lib/reward/preference-file.js';
import { realDisk } from '../../lib/run/disk.js';
import { draws, failureOf } from '../support/tiny.js';

/** The log-posterior, written out a second time and more plainly. */
function logPosterior(
  scores: readonly number[],
  pairs: readonly PairOutcome[],
  anchors: readonly { item: number; outcome: number }[],
  deviation: number,
): number {
  const log = (chance: number, outcome: number) =>
    outcome * Math.log(chance) + (1 - outcome) * Math.log(1 - chance);
  const chance = (left: number, right: number) => Math.exp(left) / (Math.exp(left) + Math.exp(right));
  let sum = 0;
  for (const { a, b, outcome } of pairs) sum += log(chance(scores[a]!, scores[b]!), outcome);
  for (const { item, outcome } of anchors) sum += log(chance(scores[item]!, 0), outcome);
  for (const score of scores) sum -= score ** 2 / (2 * deviation ** 2);
  return sum;
}

/** The matrix of second differences at the maximum, inverted by Gauss and Jordan: the covariance. */
function covariance(scores: readonly number[], at: (scores: readonly number[]) => number): number[][] {
  const n = scores.length;
  const h = 1e-3;
  const moved = (i: number, j: number, x: number, y: number) =>
    at(scores.map((score, k) => score + (k === i ? x : 0) + (k === j ? y : 0)));
  const rows = scores.map((_, i) => [
    ...scores.map(
      (__, j) =>
        -(moved(i, j, h, h) - moved(i, j, h, -h) - moved(i, j, -h, h) + moved(i, j, -h, -h)) / (4 * h * h),
    ),
    ...scores.map((__, j) => (i === j ? 1 : 0)),
  ]);
  for (let i = 0; i < n; i++) {
    const pivot = rows[i]![i]!;
    rows[i] = rows[i]!.map((x) => x / pivot);
    for (let k = 0; k < n; k++) {
      const factor = rows[k]![i]!;
      if (k !== i) rows[k] = rows[k]!.map((x, column) => x - factor * rows[i]![column]!);
    }
  }
  return rows.map((row) => row.slice(n));
}

describe('Bradley–Terry', () => {
  it("gives the published abilities of baseball teams, season 1987 (Agresti, Categorical Data Analysis; R's BradleyTerry2)", () => {
    const teams = ['Milwaukee', 'Detroit', 'Toronto', 'New York', 'Boston', 'Cleveland', 'Baltimore'];
    // Row: wins over the team of the column.
    const wins = [
      [0, 7, 9, 7, 7, 9, 11],
      [6, 0, 7, 5, 11, 9, 9],
      [4, 6, 0, 7, 7, 8, 12],
      [6, 8, 6, 0, 6, 7, 10],
      [6, 2, 6, 7, 0, 7, 12],
      [4, 4, 5, 6, 6, 0, 6],
      [2, 4, 1, 3, 1, 7, 0],
    ];
    const pairs = wins.flatMap((row, a) =>
      row.flatMap((count, b) => Array.from({ length: count }, () => ({ a, b, outcome: 1 }))),
    );
    const { scores } = bradleyTerry(teams.length, pairs, { priorDeviation: 1000 });
    const published = [1.5814, 1.4364, 1.2945, 1.2476, 1.1077, 0.6839, 0];
    for (const [team, ability] of published.entries()) {
      expect(scores[team]! - scores[6]!, teams[team]).toBeCloseTo(ability, 4);
    }
  });

  it('is the maximum of the log-posterior, and its errors are the curvature there', () => {
    const values = draws(300, 5);
    const pairs = Array.from({ length: 40 }, (_, index) => {
      const a = Math.floor(values[3 * index]! * 6);
      const b = (a + 1 + Math.floor(values[3 * index + 1]! * 5)) % 6;
      return { a, b, outcome: [0, 0.5, 1, 1][Math.floor(values[3 * index + 2]! * 4)]! };
    });
    for (const anchors of [
      [],
      [
        { item: 0, outcome: 0.75 },
        { item: 3, outcome: 0 },
      ],
    ]) {
      const { scores, errors } = bradleyTerry(6, pairs, { anchors, priorDeviation: 1.5 });
      const at = (given: readonly number[]) => logPosterior(given, pairs, anchors, 1.5);
      const best = at(scores);
      for (const [i] of scores.entries()) {
        for (const step of [-1e-3, 1e-3]) {
          expect(at(scores.map((score, k) => score + (k === i ? step : 0)))).toBeLessThan(best);
        }
        const h = 1e-4;
        const slope =
          (at(scores.map((s, k) => s + (k === i ? h : 0))) -
            at(scores.map((s, k) => s - (k === i ? h : 0)))) /
          (2 * h);
        expect(Math.abs(slope)).toBeLessThan(1e-6);
      }
      const inverse = covariance(scores, at);
      for (const [i, error] of errors.entries()) {
        // Without an anchor, of the distance to the mean of all.
        const contrast = scores.map((_, j) => (i === j ? 1 : 0) - (anchors.length > 0 ? 0 : 1 / 6));
        const variance = contrast.reduce(
          (sum, left, j) =>
            sum + contrast.reduce((part, right, k) => part + left * right * inverse[j]![k]!, 0),
          0,
        );
        expect(error / Math.sqrt(variance)).toBeCloseTo(1, 4);
      }
    }
  });

  it('stays finite where one always wins, and where nothing connects two groups', () => {
    const always = Array.from({ length: 1000 }, () => ({ a: 0, b: 1, outcome: 1 }));
    for (const priorDeviation of [0.1, 2, 1000]) {
      const { scores, errors } = bradleyTerry(4, [...always, { a: 2, b: 3, outcome: 0 }], { priorDeviation });
      expect(scores[0]).toBeGreaterThan(scores[1]!);
      expect(scores[3]).toBeGreaterThan(scores[2]!);
      for (const value of [...scores, ...errors]) expect(Number.isFinite(value)).toBe(true);
      // Groups that nothing connects are each centred at 0.
      expect(scores[0]! + scores[1]!).toBeCloseTo(0, 6);
      expect(scores[2]! + scores[3]!).toBeCloseTo(0, 6);
    }
  });

  it('counts a tie as half a choice each way, and knows nothing of an item without a comparison', () => {
    const tie = bradleyTerry(3, [{ a: 0, b: 1, outcome: 0.5 }]);
    expect(tie.scores).toEqual([0, 0, Number.NaN]);
    expect(tie.errors[2]).toBeNaN();
    const both = bradleyTerry(2, [
      { a: 0, b: 1, outcome: 1 },
      { a: 1, b: 0, outcome: 1 },
    ]);
    const ties = bradleyTerry(2, [
      { a: 0, b: 1, outcome: 0.5 },
      { a: 0, b: 1, outcome: 0.5 },
    ]);
    expect(ties).toEqual(both);
  });

  it.each([
    [[{ a: 0, b: 0, outcome: 1 }], {}, /items 0 and 0/],
    [[{ a: 0, b: 2, outcome: 1 }], {}, /items 0 and 2.*two of 2 items/],
    [[{ a: 0, b: 1, outcome: 1.5 }], {}, /outcome 1\.5/],
    [[], { priorDeviation: 0 }, /priorDeviation is 0/],
    [[], { priorDeviation: Number.NaN }, /priorDeviation is NaN/],
  ])('refuses %j %j', async (pairs, options, says) => {
    const error = await failureOf(() => bradleyTerry(2, pairs, options));
    expect(error).toMatchObject({ code: 'OPTION_INVALID', message: expect.stringMatching(says) });
  });
});

const pair = (a: string, b: string, choice: 'a' | 'b' | 'tie', context = '1'): Preference => ({
  version: 1,
  kind: 'pair',
  context,
  a,
  b,
  choice,
});
const rating = (edit: string, stars: number, context = '1'): Preference => ({
  version: 1,
  kind: 'rating',
  context,
  edit,
  rating: stars,
});

describe('preferences', () => {
  it('puts choices and ratings of a context on one scale, and other contexts apart', () => {
    const found = preferences([
      pair('x', 'y', 'a'),
      pair('y', 'x', 'b'),
      pair('y', 'z', 'tie'),
      rating('x', 5),
      rating('w', 1),
      pair('x', 'y', 'b', '2'),
    ]);
    const score = (text: string, context = '1') => found.score(context, text);
    expect(score('x')).toBeGreaterThan(score('y'));
    expect(score('y')).toBeGreaterThan(score('w'));
    expect(score('x', '2')).toBeLessThan(score('y', '2'));
    expect(score('z', '2')).toBeNaN();
    expect(found.edits[0]).toMatchObject({
      context: '1',
      text: 'x',
      wins: 2,
      losses: 0,
      ties: 0,
      ratings: [5],
    });
    expect(found.edits[1]).toMatchObject({ text: 'y', wins: 0, losses: 2, ties: 1, ratings: [] });
    // Shown first: x chosen, y not, x not.
    expect(found.firstChosen).toMatchObject({ n: 3, mean: 1 / 3 });
    expect(found.unknown).toEqual({ count: 0 });
  });

  it('a rating is that share of a choice against an average edit', () => {
    const { edits } = preferences([rating('x', 4)], { priorDeviation: 2 });
    // The slope of the log-posterior is zero: 3/4 − σ(s) = s / 4.
    const [{ score }] = edits as [(typeof edits)[0]];
    expect(0.75 - 1 / (1 + Math.exp(-score)) - score / 4).toBeCloseTo(0, 12);
    expect(preferences([rating('x', 3)]).score('1', 'x')).toBe(0);
  });

  it('counts edits that it does not know, names the first, and does not use them', () => {
    const records = [
      pair('x', 'y', 'a'),
      pair('x', 'gone\naway', 'b'),
      pair('lost', 'x', 'a', '9'),
      rating('lost', 2, '9'),
    ];
    const edits = ['x', 'y'].map((text) => ({ context: '1', text }));
    const found = preferences(records, { edits });
    expect(found.unknown).toEqual({ count: 3, first: 'context 1: "gone away"' });
    expect(found.edits).toEqual(preferences(records.slice(0, 1)).edits);
    expect(found.firstChosen?.n).toBe(1);
  });
});

describe('the file', () => {
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'selfedit-preferences-'));
  });
  afterEach(() => rmSync(folder, { recursive: true }));

  const good = JSON.stringify(pair('x', 'y', 'a'));
  it.each([
    ['[1]', /line 2 is no JSON object/],
    ['{"version": 1', /line 2 is not JSON/],
    [JSON.stringify({ ...pair('x', 'y', 'a'), version: 2 }), /line 2: "version" is 2; expected 1/],
    [
      JSON.stringify({ ...pair('x', 'y', 'a'), kind: 'poll' }),
      /line 2: "kind" is "poll"; expected "pair" or "rating"/,
    ],
    [JSON.stringify({ ...pair('x', 'y', 'a'), choice: 'c' }), /line 2: "choice" is "c"/],
    [JSON.stringify({ ...pair('x', 'y', 'a'), context: 3 }), /line 2: "context" is 3; expected a string/],
    [JSON.stringify(pair('x', 'x', 'a')), /line 2 compares an edit with itself/],
    [JSON.stringify(rating('x', 6)), /line 2: "rating" is 6; expected a number from 1 to 5/],
    [JSON.stringify({ ...rating('x', 6), rating: undefined }), /line 2: "rating" is missing/],
  ])('names the malformed line %s', async (line, says) => {
    const error = await failureOf(() => parsePreferences(`${good}\n${line}\n${good}\n`, 'file.jsonl'));
    expect(error).toMatchObject({ code: 'INPUT_INVALID', message: expect.stringMatching(says) });
    expect(error.message).toContain('file.jsonl');
  });

  it('is read back, without what a kill cut short, and goes on after it', async () => {
    const path = join(folder, 'p.jsonl');
    expect(await resumePreferences(realDisk, path)).toEqual([]);
    const records = [pair('x', 'y', 'a'), rating('é\n"', 2)];
    for (const record of records) await appendPreference(realDisk, path, record);
    expect(await readPreferences(path)).toEqual(records);
    writeFileSync(path, readFileSync(path).subarray(0, -5));
    expect(await readPreferences(path)).toEqual(records.slice(0, 1));
    expect(await resumePreferences(realDisk, path)).toEqual(records.slice(0, 1));
    await appendPreference(realDisk, path, records[1]!);
    expect(await readPreferences(path)).toEqual(records);
    expect(await failureOf(readPreferences(join(folder, 'none')))).toMatchObject({ code: 'FILE_NOT_FOUND' });
  });
});
