// What `npm run bench:learns` is made of; whether the methods learn is for the benchmark itself to say.
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { METHODS } from '../../bench/learns/methods.mjs';
import { openModel, pretrain } from '../../bench/learns/pretrain.mjs';
import { curvesOf, jsonOf, tableOf } from '../../bench/learns/report.mjs';
import { referenceScores } from '../../bench/learns/text-edits.mjs';
import { overSeeds, verdictOf } from '../../bench/learns/verdict.mjs';
import { averageOf } from '../../bench/learns/weight-edits.mjs';
import { corpus, linesOf, passages, retentionTexts, taskOf } from '../../bench/learns/world.mjs';

let folder: string;
let model: Awaited<ReturnType<typeof openModel>>;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'selfedit-learns-'));
  await pretrain(folder, { steps: 2, batchSize: 4 });
  model = await openModel(folder);
});
afterAll(async () => {
  await model.close();
  await rm(folder, { recursive: true });
});

describe('the world', () => {
  it('is a function of its seed', () => {
    expect(passages(3, 5)).toEqual(passages(3, 5));
    expect(passages(3, 5)).not.toEqual(passages(4, 5));
    expect(passages(3, 5)).toEqual(passages(3, 9).slice(0, 5));
  });

  it('asks for facts that the context states', () => {
    for (const { context, questions } of passages(1, 20)) {
      expect(questions).toHaveLength(3);
      const [entity, ...pairs] = context.split(' ');
      for (const { question, answers } of questions) {
        const attribute = question.at(-1);
        expect(question).toBe(`?${entity} ${attribute}`);
        expect(pairs).toContain(`${attribute}${answers[0]}`);
      }
    }
  });

  it('knows the family of a line, and whether it is true', () => {
    const context = 'abc X7 YC';
    const lines = (text: string) => linesOf([{ text, context }]);
    expect(lines('?abc X7\n=7X abc\n:abc CY\n!abc Y.')).toEqual({
      answer: 0.25,
      reverse: 0.25,
      claim: 0.25,
      topic: 0.25,
      other: 0,
      true: 1,
    });
    expect(lines('?abc X8\nabc')).toMatchObject({ answer: 0.5, other: 0.5, true: 0 });
  });

  it('has texts that its tokenizer gives back, and a mask over what cannot be predicted', () => {
    const { tokenizer } = model;
    const documents = corpus(tokenizer, 2, 50) as { tokens: Int32Array; mask: Uint8Array }[];
    for (const { tokens, mask } of documents) {
      const text = tokenizer.decode(tokens);
      expect(Array.from(tokenizer.encode(text))).toEqual(Array.from(tokens.subarray(0, -1)));
      expect(tokens.at(-1)).toBe(tokenizer.eosTokenIds[0]);
      const learnt = tokenizer.decode(tokens.filter((_, t) => mask[t] === 1));
      expect(text.endsWith(learnt)).toBe(true);
      expect(learnt).not.toContain('>');
    }
    expect(retentionTexts(1, 3)).toHaveLength(3);
  });
});

describe('the verdict', () => {
  it("has Student's interval over seeds", () => {
    // mean 3, sample deviation √2.5, t(4) = 2.776
    const { mean, low, high } = overSeeds([1, 2, 3, 4, 5]);
    expect(mean).toBe(3);
    expect(high - 3).toBeCloseTo((2.776 * Math.sqrt(2.5)) / Math.sqrt(5), 10);
    expect(3 - low).toBeCloseTo(high - 3, 10);
    expect(overSeeds([1])).toMatchObject({ low: Number.NEGATIVE_INFINITY });
  });

  const seeds = (gains: number[]) =>
    gains.map((gain) => {
      const scores = { untrained: [[0, 1], [2]], trained: [[gain, 1 + gain], [2 + gain]] };
      return { ...scores, exact: { untrained: [[0, 0], [1]], trained: [[0, 1], [1]] } };
    });
  it('is up only where both intervals exclude zero', () => {
    expect(verdictOf({ expect: 'up' }, seeds([1, 1.1, 0.9, 1, 1.2]))).toMatchObject({
      up: true,
      holds: true,
    });
    expect(verdictOf({ expect: 'up' }, seeds([3, -1, 1, -0.5, 0.1]))).toMatchObject({
      up: false,
      holds: false,
    });
    expect(verdictOf({ expect: 'up' }, seeds([-1, -1, -1.1, -1, -1]))).toMatchObject({ holds: false });
  });
  it('condemns a control that learns', () => {
    expect(verdictOf({ expect: 'flat' }, seeds([1, 1.1, 0.9, 1, 1.2])).holds).toBe(false);
    expect(verdictOf({ expect: 'flat' }, seeds([1, -1, 0.2, -0.3, 0])).holds).toBe(true);
  });
  it('takes no control for flat that says nothing', () => {
    expect(verdictOf({ expect: 'flat' }, seeds([9])).holds).toBe(false);
    expect(verdictOf({ expect: 'flat' }, seeds([1, Number.NaN, 0, 0.1, 0.2])).holds).toBe(false);
    expect(() => overSeeds(Array.from({ length: 11 }, () => 1))).toThrow('11 seeds; expected at most 10');
  });
  it('demands nothing of what is only reported, and says the share of exact answers', () => {
    expect(verdictOf({ expect: 'report' }, seeds([1, 1.1, 0.9, 1, 1.2]))).toMatchObject({
      up: true,
      holds: true,
    });
    expect(verdictOf({ expect: 'report' }, seeds([0, 0, 0, 0, 0]))).toMatchObject({ up: false, holds: true });
    expect(verdictOf({ expect: 'up' }, seeds([1, 1])).exact).toEqual({
      mean: 1 / 3,
      low: 1 / 3,
      high: 1 / 3,
      n: 2,
    });
  });
});

it('gives every context the mean of the vectors', () => {
  const mean = Float32Array.of(2, -1);
  expect(averageOf([Float32Array.of(1, 2), Float32Array.of(3, -4)])).toEqual([mean, mean]);
});

it('every method trains, is examined on the same unseen contexts, and is told in table and curves', async () => {
  const task = taskOf(1, { training: 4, evaluation: 2 });
  const world = { model, task, seed: 1, rounds: 1, contexts: 2, examine: 1, signal: undefined };
  const reference = await referenceScores(world);
  expect(Object.keys(reference)).toEqual(['unedited', 'answer', 'reverse', 'claim', 'topic', 'passage']);
  expect(new Set(Object.values(reference).map(({ score }) => score)).size).toBe(6);
  const results = [];
  for (const method of METHODS) {
    const run = await method.train(world);
    expect(run.curve).toHaveLength(2);
    expect(run.untrained.flat()).toHaveLength(6);
    expect(run.trained.flat().every(Number.isFinite)).toBe(true);
    results.push({ ...method, ...verdictOf(method, [run, run]), runs: [run, run] });
  }
  // Before training all are the same policy, or the same head of a space.
  for (const one of results) {
    const first = results.find(({ space }) => space === one.space)!;
    expect(one.runs[0]!.untrained).toEqual(first.runs[0]!.untrained);
  }
  const table = tableOf({ references: [reference], results, seconds: 1 });
  expect(table.filter((line: string) => line.startsWith('|'))).toHaveLength(2 + METHODS.length);
  const curves = curvesOf({ results, seeds: [1] });
  for (const { name, chart } of METHODS) {
    expect(curves[`${chart}.svg`]).toContain(`>${name}<`);
    expect(curves[`${chart}-exact.svg`]).toContain(`>${name}<`);
  }
  expect(Object.keys(curves)).toHaveLength(6);
  const json = JSON.parse(jsonOf({ seeds: [1], results })) as { seeds: number[]; results: typeof results };
  expect(json.seeds).toEqual([1]);
  expect(json.results[0]!.bySeed.mean).toBeCloseTo(results[0]!.bySeed.mean, 4);
});
