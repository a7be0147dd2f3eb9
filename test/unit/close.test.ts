/** close() waits, is idempotent, and what is closed says so. */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { adapt, generate, type Model, Policy, score } from '../../lib/index.js';
import { deltaOf, failureOf, tinyModel, tokensOf } from '../support/tiny.js';

let model: Model;
beforeAll(async () => {
  model = await tinyModel();
});
afterAll(() => model.close());

const tokens = tokensOf(60, 1);

describe('close', () => {
  it('waits for the calls in flight of the model and of all made from it', async () => {
    const other = await tinyModel();
    const delta = deltaOf(other);
    const fork = other.fork().apply(delta);
    const policy = Policy.create(other, { rank: 2 });
    const row = {
      tokens,
      promptLength: 5,
      oldLogprobs: new Float32Array(60),
      advantages: new Float32Array(60),
    };
    const controller = new AbortController();
    const blocking = adapt([{ fork: other, documents: [tokens] }], {
      epochs: 10_000_000,
      signal: controller.signal,
    });
    const calls = [
      score([{ fork, tokens }]).then(([scores]) => scores!.length),
      fork.weight(0).then((weight) => weight.length),
      policy.step({ rows: [row] }).then((stats) => stats.tokens),
      adapt([{ fork, documents: [tokens], init: delta }], { rank: 3, epochs: 1 }).then(
        ([made]) => made!.steps,
      ),
    ];
    let closed = 0;
    const closes = [fork, delta, policy, other].map((resource) => resource.close().then(() => closed++));
    for (let turn = 0; turn < 20; turn++) await sleep(1);
    expect(closed).toBe(0);
    controller.abort();
    await failureOf(blocking);
    expect(await Promise.all(calls)).toEqual([60, 40 * 48, 55, 1]);
    await Promise.all(closes);
    expect(closed).toBe(4);
  });

  it('is idempotent, refuses later uses by name, and is what await using calls', async () => {
    const other = await tinyModel();
    const delta = deltaOf(other);
    const policy = Policy.create(other, { rank: 2 });
    let outer: typeof model;
    let fork: ReturnType<Model['fork']>;
    {
      await using inner = await tinyModel();
      await using innerFork = inner.fork();
      outer = inner;
      fork = innerFork;
      await score([{ fork, tokens }]);
    }
    expect([outer.closed, fork.closed]).toEqual([true, true]);
    for (const resource of [other, delta, policy]) {
      const first = resource.close();
      expect(resource.close()).toBe(first);
      expect(resource.closed).toBe(true);
      await first;
      await resource.close();
      await resource[Symbol.asyncDispose]();
    }
    const uses: [string, () => unknown][] = [
      ['model', () => other.fork()],
      ['model', () => other.bytes],
      ['model', () => other.fingerprint()],
      ['model', () => score([{ fork: other, tokens }])],
      ['model', () => generate([{ fork: other, prompt: tokens }])],
      ['model', () => Policy.create(other)],
      ['fork', () => fork.fork()],
      ['fork', () => fork.depth],
      ['fork', () => fork.memory()],
      ['fork', () => fork.weight(0)],
      ['fork', () => fork.revert(0)],
      ['fork', () => fork.apply(deltaOf(model))],
      ['fork', () => score([{ fork, tokens }])],
      ['fork', () => adapt([{ fork, documents: [tokens] }])],
      ['delta', () => delta.parts],
      ['delta', () => delta.factors(0)],
      ['delta', () => delta.bytes],
      ['delta', () => delta.save('never')],
      ['delta', () => model.fork().apply(delta)],
      ['delta', () => adapt([{ fork: model, documents: [tokens], init: delta }], { rank: 3 })],
      ['policy', () => policy.fork()],
      ['policy', () => policy.version],
      ['policy', () => policy.values([tokens])],
      [
        'policy',
        () => policy.step({ rows: [{ tokens, promptLength: 1, advantages: new Float32Array(60) }] }),
      ],
    ];
    for (const [noun, use] of uses) {
      const error = await failureOf(use);
      expect(error, use.toString()).toMatchObject({ name: 'ClosedError', code: 'CLOSED' });
      expect(error.message, use.toString()).toBe(`the ${noun} is closed`);
    }
  });
});
