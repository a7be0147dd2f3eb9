import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { adapt } from '../../lib/adapt.js';
import { type ContinuedOptions, continuedPretraining } from '../../lib/continued.js';
import type { Fork } from '../../lib/fork.js';
import type { Model } from '../../lib/model.js';
import { deriveKey } from '../../lib/random.js';
import { ask } from '../../lib/reward/measure.js';
import { QUESTION_TEMPLATE } from '../../lib/reward/question.js';
import type { TaskContext } from '../../lib/task/task.js';
import { failureOf } from '../support/tiny.js';
import { tinyModel } from './helpers/tiny-model.js';

const contexts = ['red', 'blue', 'green'].map(
  (colour, index): TaskContext => ({
    id: `c${index}`,
    title: `Gate ${index}`,
    context: `Gate ${index} is ${colour}.`,
    task: '',
    paying: [{ id: `${index}.0`, question: 'Which colour?', answers: [colour] }],
    report: [{ id: `${index}.1`, question: 'What colour has it?', answers: [colour] }],
  }),
);
const edits = contexts.map(({ title, paying }) => {
  const asked = QUESTION_TEMPLATE.base.replace('{title}', title).replace('{question}', paying[0]!.question);
  return { documents: [asked + paying[0]!.answers[0]!] };
});
const ADAPT = { rank: 4, alpha: 16, epochs: 12, learningRate: 2e-2, targets: ['all'] };
const REWARD = { measure: 'likelihood', form: 'base' } as const;

let model: Model;
let parent: Fork;
beforeAll(async () => {
  model = await tinyModel();
  parent = model.fork();
});
afterAll(async () => {
  await parent.close();
  await model.close();
});
const run = (more: Partial<ContinuedOptions> = {}) =>
  continuedPretraining({
    ...{ parent, contexts, edits: { edits }, adapt: ADAPT, reward: REWARD, seed: 4 },
    ...more,
  });

describe('continued pretraining', () => {
  it('trains one delta an arm on all documents, and asks all questions', async () => {
    const arms = await run();
    expect(arms.map(({ arm, documents, loss }) => [arm, documents, loss.length])).toEqual([
      ['unedited', 0, 0],
      ['passages only', 3, 36],
      ['edits', 3, 36],
    ]);
    const texts = [
      [],
      contexts.map(({ title, context }) => `${title}\n${context}`),
      edits.flatMap(({ documents }) => documents),
    ];
    for (const [index, { values }] of arms.entries()) {
      await using fork = parent.fork();
      const documents = texts[index]!.map((text) => model.tokenizer.encode(text));
      const seed = deriveKey(4, 'continued', [index]);
      const [made] = documents.length > 0 ? await adapt([{ fork, documents, seed }], ADAPT) : [];
      if (made) fork.apply(made.delta);
      const rows = contexts.flatMap(({ title, paying, report }) =>
        [...paying, ...report].map((question) => ({ fork, title, question })),
      );
      const answered = await ask(rows, {
        tokenizer: model.tokenizer,
        measures: ['likelihood'],
        form: 'base',
      });
      const expected = answered.map(({ scores }) => scores.likelihood!);
      for (const [q, value] of values.likelihood!.flat().entries())
        expect(value).toBeCloseTo(expected[q]!, 5);
    }
    const [unedited, passages, own] = arms;
    const mean = (arm: typeof own) =>
      arm!.values.likelihood!.flat().reduce((sum, value) => sum + value, 0) / 6;
    expect(own!.gain!.likelihood!.mean).toBeCloseTo(mean(own) - mean(unedited), 10);
    expect(own!.beyondPassages!.likelihood!.mean).toBeCloseTo(mean(own) - mean(passages), 10);
    expect(own!.gain!.likelihood!.low).toBeGreaterThan(0.5);
    expect([unedited!.gain, passages!.beyondPassages]).toEqual([undefined, undefined]);
    expect(own!.intervals.likelihood).toMatchObject({ n: 6, groups: 3 });
  });

  it('trains every value of the targets: the first step of AdamW moves each by the learning rate', async () => {
    const seen: string[] = [];
    const learningRate = 1e-3;
    const [, , own] = await run({
      weights: 'full',
      adapt: { learningRate, epochs: 1, batchSize: 3, targets: ['layers.0.*v_proj', 'layers.1.*down_proj'] },
      onDelta: (arm, delta) => {
        if (arm !== 'edits') return;
        for (const [index, { matrix, kind }] of delta.parts.entries()) {
          seen.push(`${kind} ${model.tensors[matrix]!.name}`);
          const part = delta.part(index);
          if (part.kind !== 'dense') throw new Error('expected a dense part');
          const sizes = part.values.map(Math.abs);
          expect(Math.max(...sizes)).toBeLessThanOrEqual(learningRate * 1.0001);
          // Nearly all: a gradient near epsilon moves a value less.
          expect(sizes.filter((size) => size > 0.99 * learningRate).length).toBeGreaterThan(
            0.95 * sizes.length,
          );
        }
      },
    });
    expect(own!.loss).toHaveLength(1);
    expect(seen).toEqual(['dense model.layers.0.self_attn.v_proj', 'dense model.layers.1.mlp.down_proj']);
  });

  it('learns more with full weights than without training', async () => {
    const arms = await run({ weights: 'full', adapt: { learningRate: 2e-3, epochs: 12 } });
    expect(arms[2]!.gain!.likelihood!.low).toBeGreaterThan(0.5);
    expect(parent.depth).toBe(0);
  });

  it('says that a training diverged instead of grading the model without it', async () => {
    const [, , own] = await run({ adapt: { ...ADAPT, learningRate: 1e30, clip: 0 } });
    expect(own!.diverged).toBe(true);
    expect(own!.values.likelihood!.flat().every(Number.isNaN)).toBe(true);
  });

  it.each<[Partial<ContinuedOptions>, RegExp]>([
    [{ contexts: [] }, /no context has a question/],
    [{ edits: { edits: [{ documents: ['a b'], invalid: 'empty' }] } }, /arm "edits" has nothing to train on/],
    [{ edits: { unedited: edits } }, /an arm of edits is called "unedited"/],
    [{ edits: { x: [{ documents: [''] }] } }, /arm "x" has no document of at least 2 tokens/],
    [{ weights: 'full', adapt: {} }, /full weights without adapt.learningRate/],
    [{ weights: 'dense' as never }, /weights are "dense"; expected lowRank or full/],
  ])('%j is refused', async (more, message) => {
    expect((await failureOf(run(more))).message).toMatch(message);
  });
});
