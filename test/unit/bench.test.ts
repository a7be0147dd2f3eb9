// What the benchmarks are made of: statistics, comparison of answers, bars, the random model's files, charts.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { compareAnswers } from '../../bench/lib/answers.mjs';
import { judge } from '../../bench/lib/bars.mjs';
import { tensorsOf, writeModel } from '../../bench/lib/folder.mjs';
import { draws, normal } from '../../bench/lib/random.mjs';
import { largestDifference, median, spread } from '../../bench/lib/statistics.mjs';
import { lineChart } from '../../bench/lib/svg.mjs';
import { makeTokenizer } from '../../bench/lib/tokenizer.mjs';
import { Tokenizer } from '../../lib/index.js';
import { float32Of, readSafetensors } from '../support/safetensors.js';

describe('statistics', () => {
  it('median of odd and even numbers, which it leaves in their order', () => {
    const values = [9, 1, 10, 2];
    expect(median(values)).toBe(5.5);
    expect(values).toEqual([9, 1, 10, 2]);
    expect(median([3, 20, 1])).toBe(3);
    expect(() => median([])).toThrow(RangeError);
  });

  it('spread as a share of the median', () => {
    expect(spread([4, 2, 5])).toEqual({ low: 2, high: 5, share: 0.75 });
  });

  it('largest difference, absolute and relative; what cannot be compared is not small', () => {
    expect(largestDifference([1, 5], [1.5, 4])).toBe(1);
    expect(largestDifference([1, 5], [0.5, 4], { relative: true })).toBe(1);
    expect(largestDifference([1], [1, 2])).toBeNaN();
    expect(largestDifference([1, Number.NaN], [1, 2])).toBeNaN();
  });
});

describe('answers of both sides', () => {
  const mine = [{ tokens: [1, 2, 3], logprobs: [-1, -2, -3] }];
  const compare = (tokens: number[], logprobs: number[], dtype = 'float32') =>
    compareAnswers(mine, { tokens: [tokens], logprobs: [logprobs] }, dtype).map(
      ({ value, tolerance }: { value: number; tolerance: number }) => value <= tolerance,
    );

  it('equal ones are equal', () => {
    expect(compare([1, 2, 3], [-1, -2, -3])).toEqual([true, true]);
  });
  it('a tie may part them, and what follows does not count; but not often', () => {
    expect(compare([1, 9, 9], [-1, -2, -30])).toEqual([true, false]);
    expect(compare([1, 9, 9], [-1, -2, -30], 'bfloat16')).toEqual([true, true]);
  });
  it('another log-prob, or none, is another answer', () => {
    expect(compare([1, 2, 3], [-1, -2.1, -3])[0]).toBe(false);
    expect(compare([1, 9, 3], [-1, -2.1, -3])[0]).toBe(false);
    expect(compare([1, 2, 3], [-1, Number.NaN, -3])[0]).toBe(false);
    expect(compare([1, 2], [-1, -2])[0]).toBe(false);
  });
});

describe('bars', () => {
  const figure = { device: 'cpu', shape: 'S', ours: 1, ratio: 3 as number | null, fractionOfLimit: null };
  it('are met, missed, or cannot be told', () => {
    expect(judge(figure, 'inner-loop').met).toBe(true);
    expect(judge({ ...figure, ratio: 2 }, 'inner-loop').met).toBe(false);
    expect(judge({ ...figure, ratio: null }, 'inner-loop').met).toBe(null);
    expect(judge({ ...figure, shape: 'tiny' }, 'inner-loop')).toEqual({ bar: null, met: null });
    expect(judge({ ...figure, share: 1.21 }, 'load memory').met).toBe(false);
    expect(judge({ ...figure, ours: 9e-6 }, 'fork').met).toBe(true);
  });
  it('of the GPU ask for a share of the limit too', () => {
    const gpu = { device: 'cuda:0', shape: 'S', ours: 1, ratio: 600, fractionOfLimit: 0.19 };
    expect(judge(gpu, 'inner-loop').met).toBe(false);
    expect(judge({ ...gpu, fractionOfLimit: 0.2 }, 'inner-loop').met).toBe(true);
  });
});

describe('random weights', () => {
  it('have the mean and deviation that are asked for', () => {
    const values: Float32Array = normal(200_000, 0.5, draws(1));
    const mean = values.reduce((total, value) => total + value, 0) / values.length;
    const variance = values.reduce((total, value) => total + (value - mean) ** 2, 0) / values.length;
    expect(Math.abs(mean)).toBeLessThan(0.01);
    expect(Math.sqrt(variance)).toBeCloseTo(0.5, 2);
  });

  describe('as a folder', () => {
    let folder: string;
    beforeAll(() => {
      folder = mkdtempSync(join(tmpdir(), 'selfedit-bench-test-'));
    });
    afterAll(() => rmSync(folder, { recursive: true, force: true }));
    const config = {
      model_type: 'qwen2',
      vocab_size: 24,
      hidden_size: 8,
      intermediate_size: 12,
      num_hidden_layers: 2,
      num_attention_heads: 4,
      num_key_value_heads: 2,
      tie_word_embeddings: false,
    };

    it('the bfloat16 file holds the float32 values rounded to the nearest', async () => {
      const [wide, narrow] = await Promise.all(
        (['float32', 'bfloat16'] as const).map(async (dtype) => {
          await writeModel(join(folder, dtype), { config }, dtype);
          return readSafetensors(join(folder, dtype, 'model.safetensors'));
        }),
      );
      expect([...narrow!.keys()]).toEqual(tensorsOf(config).map(({ name }: { name: string }) => name));
      for (const [name, tensor] of wide!) {
        const halves = new Uint16Array(narrow!.get(name)!.bytes.buffer);
        for (const [i, value] of float32Of(tensor).entries()) {
          const found = new Float32Array(Uint32Array.of(halves[i]! << 16).buffer)[0]!;
          // bfloat16 keeps 8 bits of the significand.
          const step = value === 0 ? 0 : 2 ** (Math.floor(Math.log2(Math.abs(value))) - 7);
          expect(Math.abs(found - value)).toBeLessThanOrEqual(step / 2);
        }
      }
    });
  });
});

describe('chart', () => {
  it('draws every point once, and escapes its words', () => {
    const svg = lineChart({
      title: 'a < b',
      x: { label: 'K', log: true },
      y: { label: 'ms' },
      series: [
        {
          name: 'train & test',
          points: [
            [1, 3],
            [8, 1.5],
            [32, 1],
          ],
        },
      ],
    });
    expect(svg.match(/<circle/g)).toHaveLength(3);
    expect(svg).toContain('a &lt; b');
    expect(svg).toContain('train &amp; test');
    // The first point is the highest and at the left edge.
    const [first, , last] = /points="([^"]+)"/
      .exec(svg)![1]!
      .split(' ')
      .map((p) => p.split(',').map(Number));
    expect(first![0]).toBe(70);
    expect(first![1]).toBeLessThan(last![1]!);
    expect(svg).not.toContain('NaN');
  });

  it('go below zero where the values do', () => {
    const points = [
      [0, 0],
      [1, -0.4],
      [2, 1.7],
    ];
    const svg = lineChart({ title: '', x: { label: '' }, y: { label: '' }, series: [{ name: 'a', points }] });
    const heights = [...svg.matchAll(/<circle cx="[^"]+" cy="([^"]+)"/g)].map((match) => Number(match[1]));
    // The axis ends at a mark of −0.5 below and 2 above.
    expect(heights[1]).toBeLessThan(360 - 52);
    expect(heights[1]).toBeGreaterThan(heights[0]!);
    expect(heights[2]).toBeGreaterThan(44);
    expect(svg).toContain('>-0.5<');
  });
});

describe("the random model's words", () => {
  const line = 8;
  const json = makeTokenizer(900, line);
  const folder = mkdtempSync(join(tmpdir(), 'selfedit-words-'));
  afterAll(() => {
    rmSync(folder, { recursive: true, force: true });
  });

  it('are as many as asked for, each its own, and random ids are text that is about the same ids again', async () => {
    expect(Object.keys(json.model.vocab)).toHaveLength(900);
    expect(new Set(Object.values(json.model.vocab)).size).toBe(900);
    writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify(json));
    const tokenizer = await Tokenizer.fromFolder(folder);
    const draw = draws(3);
    const ids = Int32Array.from({ length: 400 }, () => 256 + (draw() % 644));
    const text = tokenizer.decode(ids);
    const newlines = text.split('\n').length - 1;
    // One token in eight begins a line.
    expect(newlines).toBe(Array.from(ids).filter((id) => id % line === 0).length);
    expect(newlines).toBeGreaterThan(30);
    // Encoded again a newline is a token of its own.
    expect(Math.abs(tokenizer.encode(text).length - newlines - 400)).toBeLessThan(8);
  });
});
