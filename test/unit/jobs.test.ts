/** Calls as jobs: the event loop, stopping, progress, stacks, many at once. */
import { getEventListeners } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { native } from '../../lib/binding.js';
import {
  AbortedError,
  adapt,
  type CallOptions,
  divergence,
  generate,
  Model,
  Policy,
  type Progress,
  score,
  watch,
} from '../../lib/index.js';
import { fixture } from '../support/fixtures.js';
import { bits, deltaOf, failureOf, tinyModel, tokensOf } from '../support/tiny.js';

let model: Model;
beforeAll(async () => {
  model = await tinyModel();
});
afterAll(() => model.close());

const tokens = tokensOf(60, 1);
/** Work that would take hours: it ends by being stopped. */
const endless = (options: CallOptions = {}) =>
  adapt([{ fork: model, documents: [tokens, tokens] }], { epochs: 10_000_000, rank: 2, ...options });
const scoreBits = async (options: CallOptions = {}) =>
  bits((await score([{ fork: model, tokens }], options))[0]!);

/** Calls of every kind, each with several steps. */
const kinds: Record<string, (options: CallOptions) => Promise<unknown>> = {
  score: (options) =>
    score(
      Array.from({ length: 6 }, () => ({ fork: model, tokens })),
      { maxBatchTokens: 60, ...options },
    ),
  divergence: (options) =>
    divergence(
      Array.from({ length: 6 }, () => ({ fork: model, reference: model, tokens })),
      {
        maxBatchTokens: 60,
        ...options,
      },
    ),
  generate: (options) =>
    generate([{ fork: model, prompt: tokens, samples: 5 }], { maxTokens: 9, maxRows: 2, ...options }),
  'generate of one token': (options) =>
    generate(
      Array.from({ length: 9 }, () => ({ fork: model, prompt: tokens })),
      { maxTokens: 1, maxRows: 2, ...options },
    ),
  adapt: (options) =>
    adapt(
      [2, 5, 3].map((n, e) => ({
        fork: model,
        documents: Array.from({ length: n }, (_, d) => tokensOf(20 + d, e)),
      })),
      { epochs: 4, rank: 2, maxStepTokens: 60, ...options },
    ),
  load: async (options) => (await Model.load(fixture('models', 'llama-sharded'), options)).close(),
};

describe('the event loop', () => {
  it('turns while work runs', async () => {
    const controller = new AbortController();
    let ended = false;
    const work = endless({ signal: controller.signal }).finally(() => {
      ended = true;
    });
    for (let turn = 0; turn < 50; turn++) await sleep(1);
    expect(ended).toBe(false);
    controller.abort();
    expect(await failureOf(work)).toBeInstanceOf(AbortedError);
  });
});

describe('an AbortSignal', () => {
  it.each(Object.keys(kinds))('that is aborted already: %s does not start', async (kind) => {
    let reports = 0;
    const reason = new Error('enough');
    const error = await failureOf(
      kinds[kind]!({ signal: AbortSignal.abort(reason), onProgress: () => reports++ }),
    );
    expect(error).toMatchObject({ name: 'AbortedError', code: 'ABORTED', cause: reason });
    expect(reports).toBe(0);
  });

  it('stops work in the middle; aborting again and later changes nothing', async () => {
    const before = await scoreBits();
    const controller = new AbortController();
    const error = await failureOf(
      endless({
        signal: controller.signal,
        onProgress: () => {
          controller.abort('stop here');
          controller.abort('again');
        },
      }),
    );
    expect(error).toMatchObject({ name: 'AbortedError', code: 'ABORTED', cause: 'stop here' });
    controller.abort();
    expect(await scoreBits()).toBe(before);
  });

  it('stops generate and score between passes', async () => {
    for (const kind of ['generate', 'score', 'divergence']) {
      let reports = 0;
      const rows = Array.from({ length: 3000 }, () => ({
        fork: model,
        reference: model,
        tokens,
        prompt: tokens,
      }));
      const controller = new AbortController();
      const options = {
        maxBatchTokens: 60,
        maxRows: 1,
        maxTokens: 1,
        signal: controller.signal,
        onProgress: ({ done, total }: Progress) => {
          reports++;
          expect(done).toBeLessThan(total);
          controller.abort();
        },
      };
      const work = { generate, score, divergence }[kind]!(rows as never, options);
      expect(await failureOf(work), kind).toBeInstanceOf(AbortedError);
      expect(reports).toBeGreaterThan(0);
    }
  });

  it('stops a call that waits for its turn, and only that one', async () => {
    const first = new AbortController();
    const second = new AbortController();
    const running = endless({ signal: first.signal });
    const waiting = endless({ signal: second.signal });
    const last = scoreBits();
    const failures = Promise.all([failureOf(running), failureOf(waiting)]);
    second.abort();
    first.abort();
    for (const error of await failures) expect(error).toBeInstanceOf(AbortedError);
    expect(await last).toBe(await scoreBits());
  });

  it('is left without listeners', async () => {
    const { signal } = new AbortController();
    await scoreBits({ signal });
    await failureOf(score([{ fork: model, tokens: [99_999] }], { signal }));
    expect(getEventListeners(signal, 'abort')).toEqual([]);
  });

  it('must be one', async () => {
    const error = await failureOf(scoreBits({ signal: {} as AbortSignal }));
    expect(error).toMatchObject({ code: 'OPTION_INVALID' });
    expect(error.message).toContain('AbortSignal');
  });

  it('cancel of a native job may come often and late', async () => {
    const spec = {
      tokens,
      offsets: Int32Array.of(0, 60),
      forks: [model.base],
      rowFork: Int32Array.of(0),
      temperature: 1,
      maxBatchTokens: 0,
    };
    // It waits behind other work, so that cancelling comes before its start.
    const controller = new AbortController();
    const other = endless({ signal: controller.signal });
    const job = native().score(spec, undefined);
    job.cancel();
    job.cancel();
    controller.abort();
    await failureOf(other);
    await expect(job.promise).rejects.toMatchObject({ code: 'ABORTED' });
    job.cancel();
    expect((await native().score(spec, undefined).promise).length).toBe(60);
  });
});

describe('progress', () => {
  it.each(Object.keys(kinds))(
    'of %s grows, comes at most once a step, and ends at the total',
    async (kind) => {
      const reports: Progress[] = [];
      await kinds[kind]!({ onProgress: (progress) => reports.push({ ...progress }) });
      expect(reports.length).toBeGreaterThan(0);
      const last = reports.at(-1)!;
      expect(last.done).toBe(last.total);
      for (const [i, report] of reports.entries()) {
        expect(report.total).toBe(last.total);
        const previous = reports[i - 1] ?? { done: 0, step: 0 };
        expect(report.done).toBeGreaterThanOrEqual(previous.done);
        expect(report.step).toBeGreaterThan(previous.step);
        expect(Number.isFinite(report.loss)).toBe(kind === 'adapt');
      }
    },
  );

  it('of a callback that throws stops the call, which rejects with what was thrown', async () => {
    for (const thrown of [new RangeError('my own mistake'), 'a string', undefined]) {
      const error = await failureOf(
        endless({
          onProgress: () => {
            throw thrown;
          },
        }),
      );
      expect(error).toBeInstanceOf(AbortedError);
      expect(error.message).toContain(
        `the progress callback threw: ${thrown instanceof Error ? thrown.message : thrown}`,
      );
      expect(error.cause).toBe(thrown);
    }
    await scoreBits();
  });

  it('of a callback that throws at the last report rejects too', async () => {
    const onProgress = ({ done, total }: Progress) => {
      if (done === total) throw new Error('at the end');
    };
    expect((await failureOf(scoreBits({ onProgress }))).message).toContain('at the end');
  });

  it('needs a function', async () => {
    const error = await failureOf(scoreBits({ onProgress: 'log' as never }));
    expect(error).toMatchObject({ code: 'OPTION_INVALID' });
    expect(error.message).toContain('onProgress is string');
  });
});

describe('watch', () => {
  it('yields reports and has the result', async () => {
    const work = watch((onProgress) =>
      score(
        Array.from({ length: 9 }, () => ({ fork: model, tokens })),
        { maxBatchTokens: 60, onProgress },
      ),
    );
    const seen: Progress[] = [];
    for await (const progress of work) seen.push(progress);
    expect(seen.at(-1)).toMatchObject({ done: 540, total: 540 });
    expect((await work.result).length).toBe(9);
  });

  it('yields the latest report only to a consumer that is slow', async () => {
    const controller = new AbortController();
    const work = watch((onProgress) => endless({ onProgress, signal: controller.signal }));
    const steps: number[] = [];
    const loop = async (): Promise<void> => {
      for await (const { step } of work) {
        steps.push(step);
        if (steps.length === 3) controller.abort();
        for (let turn = 0; turn < 20; turn++) await sleep(1);
      }
    };
    expect(await failureOf(loop())).toBeInstanceOf(AbortedError);
    expect(await failureOf(work.result)).toBeInstanceOf(AbortedError);
    expect(steps.length).toBeLessThanOrEqual(5);
    for (const [i, step] of steps.entries()) expect(step).toBeGreaterThan(steps[i - 1] ?? 0);
  });

  it('ends for each of several consumers, and one may leave early', async () => {
    const work = watch((onProgress) => kinds.adapt!({ onProgress }));
    const all = async (): Promise<number> => {
      let reports = 0;
      for await (const _ of work) reports++;
      return reports;
    };
    const one = async (): Promise<void> => {
      for await (const _ of work) break;
    };
    const [first, second] = await Promise.all([all(), all(), one()]);
    expect(first + second).toBeGreaterThan(0);
    await work.result;
  });

  it('rejects in the loop when the call fails', async () => {
    const work = watch((onProgress) => score([{ fork: model, tokens: [-1] }], { onProgress }));
    const loop = async (): Promise<void> => {
      for await (const _ of work) throw new Error('no report is expected');
    };
    expect(await failureOf(loop())).toMatchObject({ code: 'TOKEN_RANGE' });
    expect(await failureOf(work.result)).toMatchObject({ code: 'TOKEN_RANGE' });
  });
});

describe('the stack of an error names the caller', () => {
  const functions: Record<string, () => Promise<unknown>> = {
    'found while running': async function callerOfRunning() {
      await score([{ fork: model, tokens: Int32Array.of(1, 331) }]);
    },
    aborted: async function callerOfAborted() {
      const controller = new AbortController();
      await endless({ signal: controller.signal, onProgress: () => controller.abort() });
    },
    'found before the start': async function callerOfEarly() {
      await score([{ fork: model, tokens: [] }]);
    },
    'found by the addon at the start': async function callerOfStart() {
      await score([{ fork: model, tokens: [1] }], { maxBatchTokens: 0.5 });
    },
    synchronous: async function callerOfSync() {
      model.fork().revert(7);
    },
  };
  it.each(Object.keys(functions))('%s', async (kind) => {
    const call = functions[kind]!;
    const error = await failureOf(call);
    expect(error.stack).toContain(`${error.name}: ${error.message}`);
    expect(error.stack).toContain(call.name);
    expect(error.stack).toContain('jobs.test.ts');
  });
});

describe('many at once', () => {
  it('calls of one model, some of which fail', async () => {
    const forks = [1, 2, 3].map((seed) => model.fork().apply(deltaOf(model, { seed })));
    const alone: string[] = [];
    for (const fork of forks) alone.push(bits((await score([{ fork, tokens }]))[0]!));
    const calls = Array.from({ length: 30 }, (_, i) =>
      i % 5 === 4
        ? failureOf(score([{ fork: model, tokens: [5000] }])).then(({ code }) => code)
        : score([{ fork: forks[i % 3]!, tokens }]).then(([row]) => bits(row!)),
    );
    expect(await Promise.all(calls)).toEqual(
      calls.map((_, i) => (i % 5 === 4 ? 'TOKEN_RANGE' : alone[i % 3])),
    );
  });

  it('a policy takes one call at a time, and nothing else meanwhile', async () => {
    await using policy = Policy.create(model, { rank: 2, valueHead: true });
    const filled = (value: number) => new Float32Array(60).fill(value);
    const row = {
      tokens,
      promptLength: 5,
      oldLogprobs: filled(-5),
      advantages: filled(1),
      returns: filled(1),
      oldValues: filled(0),
    };
    const step = () => policy.step({ rows: [row] });
    // Behind other work, so that it cannot have ended meanwhile.
    const controller = new AbortController();
    const other = endless({ signal: controller.signal });
    const running = step();
    const uses: (() => unknown)[] = [
      step,
      () => policy.values([tokens]),
      () => policy.fork(),
      () => policy.delta(),
      () => policy.parameters(),
      () => policy.gradients(),
      () => policy.setParameters(new Float32Array(1)),
      () => policy.version,
      () => policy.save('never'),
    ];
    for (const use of uses) {
      const error = await failureOf(use);
      expect(error).toMatchObject({ name: 'InputError', code: 'INPUT_INVALID' });
      expect(error.message).toContain('await that call');
    }
    controller.abort();
    await failureOf(other);
    await running;
    expect(policy.version).toBe(1);
    await step();
    expect(policy.version).toBe(2);
    expect(Number.isNaN((await policy.values([tokens]))[0]![1]!)).toBe(false);
  });
});
