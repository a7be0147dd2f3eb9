// The report of `npm run bench:forgetting`; what it finds is for the benchmark itself to say.
import { describe, expect, it } from 'vitest';
import { chartOf, jsonOf, summaryOf, tableOf } from '../../bench/forgetting/report.mjs';

interface Figure {
  mean: number;
  high: number;
  n: number;
  difference?: Figure;
}
interface Row {
  seeds: number;
  gain: Figure;
  kl: Figure;
}

const betas = [0, 1];
const value = (gain: number, kl: number) => ({ gain, kl, text: kl / 2, other: 0 });
const parts = [1, 2].flatMap((seed) => [
  {
    seed,
    part: 'gradient 0',
    seconds: 3,
    results: [{ arm: 'gradient', beta: 0, scale: 2, values: [value(1, 0.4), value(3, 0.6)] }],
  },
  {
    seed,
    part: 'gradient 1',
    seconds: 4,
    results: [{ arm: 'gradient', beta: 1, scale: 1, values: [value(0.5, 0.1), value(1.5, 0.1)] }],
  },
]);

describe('the summary', () => {
  it('takes means over passages of all seeds, and differences from β = 0 on the same passages', () => {
    const [none, one] = summaryOf(parts, betas) as unknown as [Row, Row];
    expect(none).toMatchObject({ arm: 'gradient', beta: 0, seeds: 2, scale: 2 });
    expect(none.gain).toMatchObject({ mean: 2, n: 4 });
    expect(none.gain.difference).toBeUndefined();
    expect(one.gain.difference!.mean).toBeCloseTo(-1, 10);
    expect(one.kl.difference!.mean).toBeCloseTo(-0.4, 10);
    expect(one.kl.difference!.high).toBeLessThan(0);
  });

  it('compares only seeds that have both', () => {
    const [none, one] = summaryOf(parts.slice(0, 3), betas) as unknown as [Row, Row];
    expect([none.seeds, one.seeds]).toEqual([2, 1]);
    expect(one.gain.difference!.n).toBe(2);
  });

  it('becomes a table, a chart with β = 0 on its logarithmic axis, and a file that reads back', () => {
    const summary = summaryOf(parts, betas);
    expect(tableOf(summary, parts).join('\n')).toContain('4 unseen passages, 2 seeds, 14 s');
    const chart = chartOf(summary, betas);
    expect(chart).toMatch(/>0<\/text>/);
    expect(chart.match(/<svg /g)).toHaveLength(4);
    expect(chart).not.toMatch(/NaN|Infinity/);
    expect(JSON.parse(jsonOf({ settings: {}, versions: {}, summary, parts })).parts).toEqual(parts);
  });
});
