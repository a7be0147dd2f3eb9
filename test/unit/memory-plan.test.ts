/** The memory planner, the limit, and what happens when an allocation fails in the middle. */
import { afterEach, beforeAll, describe, expect, it } from 'vitest';
import {
  adapt,
  generate,
  type Model,
  planAdapt,
  planGenerate,
  score,
  setMemoryLimit,
} from '../../lib/index.js';
import { bits, deltaOf, failureOf, tinyModel, tokensOf } from '../support/tiny.js';

let model: Model;
beforeAll(async () => {
  model = await tinyModel({}, { hiddenSize: 96, intermediateSize: 200, maxPositions: 2048 });
});
afterEach(() => setMemoryLimit(0));

const edits = (count: number, length = 40) =>
  Array.from({ length: count }, (_, e) => ({
    fork: model,
    documents: [tokensOf(length, e), tokensOf(length, e + 90)],
    seed: e,
  }));

/** Warnings that the process emits while the work runs. */
async function warned<T>(work: () => Promise<T>): Promise<{ result: T; texts: string[] }> {
  const texts: string[] = [];
  const listen = (warning: Error): void => {
    if (warning.name === 'SelfeditWarning') texts.push(warning.message);
  };
  process.on('warning', listen);
  try {
    const result = await work();
    await new Promise((resolve) => setTimeout(resolve, 20));
    return { result, texts };
  } finally {
    process.off('warning', listen);
  }
}

describe('a plan', () => {
  it('says what a call takes before it runs', async () => {
    const plan = await planAdapt(edits(9), { rank: 8, targets: ['all'] });
    const values = model.matrices.reduce((sum, { out, in: width }) => sum + 8 * (out + width), 0);
    expect(plan.each).toBe(4 * 4 * values);
    expect(plan.count).toBe(9);
    expect(plan.tokens).toBeGreaterThanOrEqual(40);
    expect(plan.total).toBe(plan.fixed + plan.each * plan.count + plan.token * plan.tokens);
    expect(plan.total).toBeLessThanOrEqual(plan.budget);
    expect((await planAdapt(edits(9), { slots: 2 })).count).toBe(2);
    const rows = [{ fork: model, prompt: tokensOf(10, 1), samples: 5 }];
    const generation = await planGenerate(rows, { maxTokens: 30 });
    expect(generation.count).toBe(5);
    const cache = model.config.layers * 2 * model.config.kvHeads * model.config.headDim * 4;
    expect(generation.each).toBeGreaterThan(cache * 40);
  });

  it('has fewer slots and shorter steps where memory is short', async () => {
    const call = { rank: 64, targets: ['all'] };
    await adapt(edits(1), { ...call, epochs: 1 }); // packs the weights
    const wide = await planAdapt(edits(64), call);
    setMemoryLimit(Math.round(model.bytes + 24e6));
    const narrow = await planAdapt(edits(64), call);
    expect(wide.count).toBe(64);
    expect(narrow.count).toBeLessThan(64);
    expect(narrow.total).toBeLessThanOrEqual(narrow.budget);
  });

  it('refuses what cannot fit, with both numbers, and the next call works', async () => {
    setMemoryLimit(Math.round(model.bytes + 3e6));
    const error = await failureOf(adapt(edits(2, 1500), { rank: 256, targets: ['all'] }));
    expect(error).toMatchObject({ code: 'OUT_OF_MEMORY', exitCode: 1 });
    expect(error.message).toMatch(/one edit needs \d+ MB, but \d+ MB can be used/);
    const row = await failureOf(generate([{ fork: model, prompt: tokensOf(1800, 1) }], { maxTokens: 200 }));
    expect(row.code).toBe('OUT_OF_MEMORY');
    setMemoryLimit(0);
    expect((await adapt(edits(1), { epochs: 1, rank: 2 })).length).toBe(1);
  });

  it('is asked for one edit or row at least; a limit is a number of bytes', async () => {
    expect((await failureOf(planAdapt([]))).code).toBe('INPUT_INVALID');
    expect((await failureOf(planGenerate([]))).code).toBe('INPUT_INVALID');
    expect((await failureOf(adapt(edits(1), { slots: -1 }))).message).toMatch(/slots is -1/);
    expect((await failureOf(adapt(edits(1), { slots: 0 }))).message).toMatch(
      /slots is 0; expected an integer from 1/,
    );
    expect((await failureOf(() => setMemoryLimit(-5))).code).toBe('OPTION_INVALID');
  });
});

describe('an allocation that fails', () => {
  // A delta of 40 MB held by nobody in the call: it takes memory that the plan of the call does not know of.
  it('makes the call go on by halves, tells so, and changes no result', async () => {
    const rows = Array.from({ length: 40 }, (_, r) => ({ fork: model, tokens: tokensOf(100, r) }));
    const expected = (await score(rows)).map(bits);
    setMemoryLimit(Math.round(model.bytes + 14.5e6));
    const { result, texts } = await warned(() => score(rows, { maxBatchTokens: 4000 }));
    setMemoryLimit(0);
    expect(result.map(bits)).toEqual(expected);
    expect(texts).toEqual([
      expect.stringMatching(/^score: not enough memory for 4000 tokens or rows at once; going on with 2000/),
    ]);
  });

  it('a second time is a typed error; forks and process are intact', async () => {
    await using fork = model.fork().apply(deltaOf(model));
    const tokens = tokensOf(50, 1);
    const before = bits((await score([{ fork, tokens }]))[0]!);
    const rows = Array.from({ length: 40 }, (_, r) => ({ fork, tokens: tokensOf(1000, r) }));
    setMemoryLimit(Math.round(model.bytes + 2e6));
    const error = await failureOf(score(rows, { maxBatchTokens: 20000 }));
    expect(error).toMatchObject({ code: 'OUT_OF_MEMORY', name: 'WorkError' });
    expect(error.message).toMatch(/does not fit: \d+ bytes of the limit of \d+ are in use/);
    setMemoryLimit(0);
    expect(bits((await score([{ fork, tokens }]))[0]!)).toBe(before);
  });
});
