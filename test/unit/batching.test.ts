/** A row's result does not depend on what else is in the call, to the bit (decision 5). */
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import {
  type AdaptEdit,
  type Adapted,
  type AdaptOptions,
  adapt,
  type DivergenceRow,
  divergence,
  type Fork,
  type GenerateRow,
  type Generation,
  generate,
  type Model,
  type ScoreRow,
  score,
  setThreads,
} from '../../lib/index.js';
import { bits, deltaOf, tinyModel, tokensOf } from '../support/tiny.js';

/** Every row appears once; deterministic. */
function shuffled<T>(rows: readonly T[]): { rows: T[]; order: number[] } {
  const order = rows.map((_, i) => i).sort((a, b) => ((a * 7 + 3) % 11) - ((b * 7 + 3) % 11) || b - a);
  return { rows: order.map((i) => rows[i]!), order };
}

afterEach(() => setThreads(1));

// bfloat16 weights are rounded once more on the way; rows must agree to the bit all the same.
describe.each(['float32', 'bfloat16', 'float64'] as const)('%s', (dtype) => {
  let model: Model;
  let forks: (Fork | Model)[];
  beforeAll(async () => {
    model = await tinyModel({ dtype });
    const parent = model.fork().apply(deltaOf(model, { seed: 1, targets: ['all'], rank: 5 }));
    forks = [
      model,
      parent,
      parent.fork().apply(deltaOf(model, { seed: 2, rank: 2 }), { scale: 0.5 }),
      model.fork().apply(deltaOf(model, { seed: 3, targets: ['down_proj', 'layers.1.*'], rank: 17 })),
    ];
  });
  afterAll(() => model.close());

  describe('score', () => {
    const lengths = [1, 2, 3, 17, 40, 70, 129, 8, 1, 33, 64, 65];
    let rows: ScoreRow[];
    let expected: string[];
    beforeAll(async () => {
      rows = lengths.map((length, r) => ({ fork: forks[r % 4]!, tokens: tokensOf(length, r) }));
      expected = [];
      for (const row of rows) expected.push(bits((await score([row]))[0]!));
    });
    const found = async (...args: Parameters<typeof score>) => (await score(...args)).map(bits);

    it('alone and together', async () => {
      expect(await found(rows)).toEqual(expected);
      // The rows are not all the same, and forks matter.
      expect(new Set(expected).size).toBe(rows.length - 1); // two rows of one token: NaN only
      expect(await found([{ ...rows[4]!, fork: forks[1]! }])).not.toEqual([expected[4]]);
    });
    it('in another order', async () => {
      const mixed = shuffled(rows);
      expect(await found(mixed.rows)).toEqual(mixed.order.map((i) => expected[i]));
    });
    it.each([1, 60, 130, 4096])('with passes of %i tokens', async (maxBatchTokens) => {
      expect(await found(rows, { maxBatchTokens })).toEqual(expected);
    });
    it('with two threads', async () => {
      setThreads(2);
      expect(await found(rows)).toEqual(expected);
    });
  });

  describe('divergence', () => {
    let rows: DivergenceRow[];
    let expected: string[];
    beforeAll(async () => {
      rows = [5, 1, 40, 70, 16, 2].map((length, r) => ({
        fork: forks[r % 4]!,
        reference: forks[(r + 1 + (r >> 2)) % 4]!,
        tokens: tokensOf(length, r),
      }));
      expected = [];
      for (const row of rows) expected.push(bits((await divergence([row]))[0]!));
    });
    const found = async (...args: Parameters<typeof divergence>) => (await divergence(...args)).map(bits);

    it('alone, together, in another order, in small passes, with two threads', async () => {
      expect(await found(rows)).toEqual(expected);
      const mixed = shuffled(rows);
      expect(await found(mixed.rows)).toEqual(mixed.order.map((i) => expected[i]));
      expect(await found(rows, { maxBatchTokens: 1 })).toEqual(expected);
      setThreads(2);
      expect(await found(rows)).toEqual(expected);
    });
    it('is 0 between equal forks and positive between others', async () => {
      const [same, other] = await divergence([
        { fork: forks[1]!, reference: (forks[1] as Fork).fork(), tokens: tokensOf(30, 1) },
        { fork: forks[1]!, reference: model, tokens: tokensOf(30, 1) },
      ]);
      expect(Math.max(...same!.map(Math.abs))).toBe(0);
      expect(Math.min(...other!)).toBeGreaterThan(0);
    });
  });

  describe('generate', () => {
    let rows: GenerateRow[];
    let expected: string[];
    const text = ({ tokens, logprobs, finish }: Generation) => `${finish} ${bits(tokens)} ${bits(logprobs)}`;
    const found = async (...args: Parameters<typeof generate>) => (await generate(...args)).map(text);
    beforeAll(async () => {
      rows = [1, 30, 3, 65, 12, 100, 2, 17, 30].map((length, r) => ({
        fork: forks[r % 4]!,
        prompt: tokensOf(length, r),
        seed: 100 + r,
        maxTokens: [1, 20, 7, 33][r % 4]!,
        temperature: [1, 0, 0.7][r % 3]!,
        topP: [1, 0.8][r % 2]!,
        topK: [0, 0, 20, 5, 3][r % 5]!,
        samples: 1 + (r % 3),
      }));
      expected = [];
      for (const row of rows) expected.push(...(await found([row])));
    });

    it('alone and together', async () => {
      expect(await found(rows)).toEqual(expected);
      expect(new Set(expected).size).toBeGreaterThan(10);
    });
    it('in another order', async () => {
      const mixed = shuffled(rows);
      const results = await generate(mixed.rows);
      const starts = rows.map((_, r) => rows.slice(0, r).reduce((sum, { samples }) => sum + samples!, 0));
      expect(results.map(text)).toEqual(
        results.map(({ row, sample }) => expected[starts[mixed.order[row]!]! + sample]),
      );
    });
    it.each([1, 2, 5, 500])('with at most %i rows at once', async (maxRows) => {
      expect(await found(rows, { maxRows })).toEqual(expected);
    });
    it('with two threads', async () => {
      setThreads(2);
      expect(await found(rows)).toEqual(expected);
    });
  });

  describe('adapt', () => {
    const overrides: Partial<AdaptOptions>[] = [
      {},
      { rank: 8, targets: ['all'], learningRate: 0.01 },
      { rank: 1, schedule: 'cosine', warmupSteps: 2, clip: 0 },
      { batchSize: 3, epochs: 2, weightDecay: 0.1 },
      { schedule: 'constant', shuffle: false, targets: ['layers.2.mlp.*'], clip: 0.05 },
      { batchSize: 2, alpha: 3, betas: [0.8, 0.95], epsilon: 1e-6, epochs: 5 },
      { targets: ['layers.0.self_attn.k_proj'], rank: 19, epochs: 1 },
      { targets: ['o_proj', 'gate_proj'], batchSize: 10 },
    ];
    let edits: AdaptEdit[];
    let expected: string[];
    const call = { rank: 4, epochs: 3, learningRate: 3e-3 };
    const text = ({ delta, loss }: Adapted) => {
      const factors = delta.parts.map((part, index) => {
        const { a, b } = delta.factors(index);
        return `${part.matrix} ${part.rank} ${part.scale} ${bits(a)} ${bits(b)}`;
      });
      return [bits(loss), ...factors].join('\n');
    };
    const found = async (...args: Parameters<typeof adapt>) => (await adapt(...args)).map(text);
    beforeAll(async () => {
      edits = overrides.map((options, e) => ({
        fork: forks[e % 4]!,
        options,
        seed: e,
        documents: Array.from({ length: 1 + (e % 5) }, (_, d) =>
          tokensOf(2 + ((e * 31 + d * 17) % 90), e * 10 + d),
        ),
      }));
      edits[4] = {
        ...edits[4]!,
        lossMask: edits[4]!.documents.map((d) => new Uint8Array(d.length).map((_, i) => i % 2)),
      };
      const { delta } = (await adapt([{ ...edits[6]!, fork: model }], call))[0]!;
      edits[6] = { ...edits[6]!, init: delta };
      expected = [];
      for (const edit of edits) expected.push(...(await found([edit], call)));
    });

    it('8 edits of different ranks, targets, schedules, epochs, batch sizes and masks: alone and together', async () => {
      expect(await found(edits, call)).toEqual(expected);
      expect(new Set(expected).size).toBe(8);
      expect(await found(edits, { ...call, deterministic: true })).toEqual(expected);
    });
    it('in another order', async () => {
      const mixed = shuffled(edits);
      expect(await found(mixed.rows, call)).toEqual(mixed.order.map((i) => expected[i]));
    });
    it.each([1, 100, 10_000])('with steps of %i tokens', async (maxStepTokens) => {
      expect(await found(edits, { ...call, maxStepTokens })).toEqual(expected);
    });
    it('with two threads', async () => {
      setThreads(2);
      expect(await found(edits, call)).toEqual(expected);
    });
    it('depends on its seed, its documents and its settings', async () => {
      const edit = edits[1]!;
      const others = await found(
        [
          { ...edit, seed: 77 },
          { ...edit, documents: edit.documents.slice(1) },
          { ...edit, options: { ...edit.options, learningRate: 0.011 } },
          { ...edit, fork: forks[2]! },
        ],
        call,
      );
      for (const other of others) expect(other).not.toBe(expected[1]);
    });
  });
});

describe('matrices of the size of a real model', () => {
  // oneDNN chooses its blocks by shape: tiny matrices would not show a choice that depends on the number of rows.
  it.each(['float32', 'bfloat16'] as const)('%s rows keep their bits', async (dtype) => {
    const shape = {
      vocabSize: 3000,
      hiddenSize: 576,
      intermediateSize: 1536,
      heads: 9,
      kvHeads: 3,
      headDim: 64,
    };
    await using model = await tinyModel({ dtype, std: 0.05 }, { ...shape, layers: 1, maxPositions: 1024 });
    const rows = [1, 15, 33, 100, 700].map((length, r) => ({
      fork: model,
      tokens: tokensOf(length, r, 3000),
    }));
    const alone: string[] = [];
    for (const row of rows) alone.push(bits((await score([row]))[0]!));
    for (const threads of [1, 2]) {
      setThreads(threads);
      for (const maxBatchTokens of [100, 1000]) {
        expect((await score(rows, { maxBatchTokens })).map(bits), `${threads} threads`).toEqual(alone);
      }
    }
    const edits = [20, 100, 7].map((length, e) => ({
      fork: model,
      documents: [tokensOf(length, e, 3000)],
      seed: e,
    }));
    const call = { epochs: 2, rank: 4 };
    const factors = ({ delta }: Adapted) => bits(delta.factors(1).b);
    const apart: string[] = [];
    for (const edit of edits) apart.push(...(await adapt([edit], call)).map(factors));
    expect((await adapt(edits, call)).map(factors)).toEqual(apart);
  });
});
