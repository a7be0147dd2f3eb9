import { describe, expect, it } from 'vitest';
import { jsonOf, summaryOf, tableOf } from '../../bench/reliability/report.mjs';
import { reliability } from '../../lib/reward/reliability.js';
import { draws } from '../support/tiny.js';

// The report of `npm run bench:reliability`, from rewards with known parts: edits 0, 1, 2 apart, seeds of a given noise.
const rewardsOf = (context: number, noise: number) =>
  [0, 1, 2].map((edit) => Array.from(draws(4, 10 * context + edit), (draw) => edit + noise * (draw - 0.5)));
const parts = [0, 1, 2, 3].map((id) => ({
  id: `${id}`,
  edits: 3,
  rewards: { 'log-likelihood': rewardsOf(id, 0.5), 'answers, right or wrong (local)': rewardsOf(id, 6) },
  seconds: { train: 2, likelihood: 0.5, answers: 1.5 },
  tokens: { train: 100, likelihood: 20, answers: 60 },
}));

describe('the report on reliability', () => {
  const summary = summaryOf(parts);

  it('has the reliability of each reward, and what a seed costs', () => {
    const rows = parts.flatMap(({ id, rewards }) =>
      rewards['log-likelihood'].flatMap((seeds, edit) =>
        seeds.map((reward) => ({ context: id, edit: `${edit}`, reward })),
      ),
    );
    expect(summary.rewards[0]!.of[0]!.value).toBe(reliability(rows).of[0]!.value);
    expect(summary.rewards[0]!.of[0]!.value).toBeGreaterThan(0.9);
    expect(summary.rewards[1]!.of[0]!.value).toBeLessThan(0.6);
    // A trained token counts three times.
    expect(summary.cost).toEqual({
      dense: { seconds: 2.5, tokens: 320 },
      answers: { seconds: 3.5, tokens: 360 },
    });
  });

  it('sets the dense reward at its number of seeds beside three seeds of verdicts', () => {
    const lines = tableOf(summary);
    const { high: value } = summary.rewards[0]!.advice;
    expect(lines).toContain(
      `| log-likelihood | ${value} | ≥ 0.8 | ${(value * 2.5).toFixed(1)} | ${value * 320} |`,
    );
    expect(lines.some((line) => line.startsWith('| answers, right or wrong (local) | 3 | 0.'))).toBe(true);
    expect(lines.at(-1)).toBe('| published pipeline (7B, two H100s) | 3 | 0.31 | 86.4 there | – |');
    expect(jsonOf({ a: 1 / 3, b: Number.POSITIVE_INFINITY })).toBe('{\n "a": 0.333333,\n "b": null\n}');
  });
});
