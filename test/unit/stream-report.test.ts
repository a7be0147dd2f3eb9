// The report of `npm run bench:stream`; what it finds is for the benchmark itself to say.
import { describe, expect, it } from 'vitest';
import { chartOf, jsonOf, matrixTable, summaryOf, textOf } from '../../bench/stream/report.mjs';

interface Figure {
  mean: number;
}
interface Row {
  arm: string;
  streams: number;
  refused: number;
  scaled: number;
  likelihood: {
    immediate: Figure;
    keptFirst: Figure;
    matrix: number[][];
    difference?: { immediate: Figure; retained: Figure; first: Figure };
  };
  recall?: object;
}

const stream = (last: number, recall: boolean, scale = 1) => {
  const report = [
    [0, 0],
    [2, 0],
    [last, 1],
  ];
  const scores = {
    likelihood: { report, paying: report },
    ...(recall ? { recall: { report, paying: report } } : {}),
  };
  return {
    contexts: ['a', 'b'],
    scores,
    steps: [
      { scale: 1, steps: 3 },
      { scale, steps: 5 },
    ],
  };
};
const parts = [
  { block: 0, arm: 'none', seconds: 1, results: [stream(0, true), stream(1, true)] },
  { block: 0, arm: 'gate', seconds: 2, results: [stream(2, false, 0), stream(2, false, 0.5)] },
  { block: 1, arm: 'none', seconds: 3, results: [stream(-1, true)] },
];

describe('the report on streams', () => {
  const summary = summaryOf(parts) as unknown as [Row, Row];

  it('pools the streams of all blocks, and compares an arm with no remedy on its own streams', () => {
    const [none, gate] = summary;
    expect(none).toMatchObject({ arm: 'none', streams: 3, refused: 0, scaled: 0 });
    expect(gate).toMatchObject({ arm: 'gate', streams: 2, refused: 1, scaled: 1 });
    expect(none.likelihood.matrix[2]).toEqual([0, 1]);
    expect(none.likelihood.keptFirst.mean).toBeCloseTo(0, 12);
    expect(gate.likelihood.keptFirst.mean).toBeCloseTo(1, 12);
    // On the streams of block 0: (2 − 0 + 2 − 1) / 2 more of the first passage, half of it of the mean over two.
    expect(gate.likelihood.difference!.first.mean).toBeCloseTo(1.5, 12);
    expect(gate.likelihood.difference!.retained.mean).toBeCloseTo(0.75, 12);
    expect(gate.likelihood.difference!.immediate.mean).toBeCloseTo(0, 12);
    expect([none.recall === undefined, gate.recall === undefined]).toEqual([false, true]);
  });

  it('becomes tables beside the published one, a chart, and a file that reads back', () => {
    const published = [
      [0.5, 0.25],
      [0.6, 0],
      [0.4, 0.75],
    ];
    const text = textOf(summary, parts, published).join('\n');
    expect(text).toContain('| gate | 2 | 1.50 [1.50, 1.50] |');
    expect(text).toContain('| 1 / 1 of 4 |');
    expect(text).toContain('3 streams, 3 parts, 6 s');
    // What was not measured is left blank, a measured zero is not.
    expect(matrixTable(published, { triangle: true })[3]).toBe('| 1 | 60.0 |  |');
    expect(matrixTable(published)[3]).toBe('| 1 | 60.0 | 0.0 |');
    expect(
      matrixTable([
        [0, 0.5],
        [0.1, 0.5],
        [0, 0],
      ])[4],
    ).toBe('| 2 | 0.0 | 0.0 |');
    const chart = chartOf(summary, published);
    expect(chart.match(/<svg /g)).toHaveLength(3);
    expect(chart).not.toMatch(/NaN|Infinity/);
    const file = JSON.parse(jsonOf({ settings: {}, versions: {}, summary, parts })) as { parts: unknown };
    expect(file.parts).toEqual(parts);
  });
});
