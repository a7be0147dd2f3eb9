import { beforeEach, describe, expect, it, vi } from 'vitest';
import type { Algorithm, Rollout } from '../../lib/algorithm/algorithm.js';
import { compareMethods } from '../../lib/compare.js';
import { comparisonText } from '../../lib/comparison-text.js';
import type { RoundResult } from '../../lib/edit-result.js';
import { makeError } from '../../lib/errors.js';
import type { Policy } from '../../lib/policy.js';
import { type SealOptions, seal } from '../../lib/seal.js';
import { knowledge } from '../../lib/task/knowledge.js';
import type { Passage } from '../../lib/task/passages.js';
import { FakeModel, fakeEngine, fakePolicy, type Writer } from './helpers/fake-engine.js';

// The loop against a model layer that is a few lines of TypeScript: what it asks for, in what order, and what it makes
// of the answers. test/unit/run-train.test.ts runs the same loop on a real model.
const engine = vi.hoisted(() => ({ current: {} as ReturnType<typeof fakeEngine> }));
vi.mock('../../lib/generate.js', () => ({
  generate: (...args: [never, never]) => engine.current.generate(...args),
}));
vi.mock('../../lib/score.js', () => ({ score: (...args: [never]) => engine.current.score(...args) }));
vi.mock('../../lib/adapt.js', async (original) => ({
  ...(await original<object>()),
  adapt: (...args: [never]) => engine.current.adapt(...args),
}));
vi.mock('../../lib/divergence.js', () => ({
  divergence: (...args: [never]) => engine.current.divergence(...args),
}));

const PASSAGES: Passage[] = Array.from({ length: 10 }, (_, index) => ({
  title: `T${index}`,
  context: `Passage ${index}: fact${index}a and more.`,
  questions: ['a', 'b', 'c', 'd'].map((letter) => ({
    question: `What of key${index}${letter}?`,
    answers: [`fact${index}${letter}`],
  })),
}));
const task = knowledge(PASSAGES, { retention: 2, evaluation: 3 });

let model: FakeModel;
let policy: Policy & { version: number };
let updates: { rollouts: readonly Rollout[]; round: number; temperature: number }[];
let writer: { write: Writer };
const algorithm: Algorithm = {
  name: 'fake',
  update: async (_, rollouts, { round = -1, temperature = -1 } = {}) => {
    updates.push({ rollouts, round, temperature });
    policy.version += 1;
    return { steps: 1 };
  },
  state: () => ({}),
  restore: () => {},
};

beforeEach(() => {
  model = new FakeModel();
  policy = fakePolicy(model);
  updates = [];
  // Sample 0 states facts b and c, sample 1 nothing of use, sample 2 nothing at all.
  writer = {
    write: (prompt, sample) => {
      const index = /Passage (\d)/.exec(prompt)![1]!;
      return [`fact${index}b holds.\nfact${index}c holds.`, 'Nothing follows.', ''][sample]!;
    },
  };
  engine.current = fakeEngine(model, writer);
});

const options = (more: Partial<SealOptions> = {}): SealOptions => ({
  policy,
  task,
  rounds: 1,
  contextsPerRound: 2,
  editsPerContext: 3,
  algorithm,
  reward: { beta: 1, floor: -3, retentionTexts: 2 },
  ...more,
});
async function collect(given: SealOptions): Promise<RoundResult[]> {
  const results: RoundResult[] = [];
  for await (const result of seal(given)) results.push(result);
  return results;
}

describe('an update that is not finite', () => {
  it('is skipped and recorded; the loop goes on', async () => {
    const failing: Algorithm = {
      ...algorithm,
      update: async (...args) => {
        const statistics = await algorithm.update(...args);
        if (args[2]?.round === 1) throw makeError('LOSS_NOT_FINITE', 'the loss is nan');
        return statistics;
      },
    };
    const results = await collect(options({ rounds: 3, algorithm: failing }));
    expect(results.map(({ round }) => round)).toEqual([0, 1, 2]);
    expect(results.map(({ skipped }) => skipped)).toEqual([undefined, 'the loss is nan', undefined]);
    expect(results.map(({ update }) => update)).toEqual([{ steps: 1 }, {}, { steps: 1 }]);
    expect(model.forks.every(({ closed }) => closed)).toBe(true);
  });

  it('any other failure ends the loop', async () => {
    const failing: Algorithm = {
      ...algorithm,
      update: async () => {
        throw makeError('OUT_OF_MEMORY', 'too large');
      },
    };
    await expect(collect(options({ rounds: 3, algorithm: failing }))).rejects.toMatchObject({
      code: 'OUT_OF_MEMORY',
    });
  });
});

describe('a round', () => {
  it('pays the improvement on the paying questions less the KL on texts that no edit has seen', async () => {
    const [result] = await collect(options());
    const contexts = task.contexts(0, 2);
    for (const [group, context] of contexts.entries()) {
      const [useful, useless, empty] = result!.edits.slice(3 * group, 3 * group + 3);
      const taught = (letters: string) =>
        context.paying.filter(({ answers }) => letters.includes(answers[0]!.at(-1)!)).length /
        context.paying.length;
      // The passage, always a document, holds fact a; the useful edit adds b and c.
      expect(useful!.parts).toMatchObject({ unedited: -2, edited: -2 + taught('abc'), gain: taught('abc') });
      expect(useful!.parts.kl).toBeCloseTo(0.03, 6);
      expect(useful!.reward).toBeCloseTo(taught('abc') - 0.03, 6);
      expect(useless!.reward).toBeCloseTo(taught('a') - 0.02, 6);
      expect(empty).toMatchObject({ invalid: 'empty', reward: -3 });
      expect(useful!.documents).toHaveLength(3);
      expect(useful).toMatchObject({
        round: 0,
        context: context.id,
        title: context.title,
        sample: 0,
        finish: 'stop',
      });
      expect(useful!.loss).toEqual({ first: 2, last: 1 });
    }
    expect(result!.reward).toMatchObject({ invalid: 2, invalidBy: { empty: 2 } });
    const asked = engine.current.divergence.mock.calls[0]![0] as unknown as { tokens: Int32Array }[];
    const texts = new Set(asked.map(({ tokens }) => model.tokenizer.decode(tokens)));
    expect([...texts].sort()).toEqual([...task.retention].sort());
  });

  it('goes on whatever an edit is: empty, control characters, endless, directives that cannot be followed', async () => {
    const texts = [
      '',
      '\u0000\u0007\u001b\u0008\u009f\r\u001b[',
      Array.from({ length: 100_000 }, (_, line) => `${line}. Line.`).join('\n'),
      '{"epochs": 1e9}\nNothing.',
      '{"epochs": \nNothing.',
      '{"epochs": 3, "rank": 8, "layers": [1], "loss": "output", "augmentations": ["repeat"]}\nNothing.',
      '{"data_generation": {"use_repeat_augmentations": true}, "training": {"strategy": "train_using_all_tokens", "learning_rate": 0.001, "num_train_epochs": 2}}',
      '---\n***',
    ];
    writer.write = (_, sample) => texts[sample]!;
    const [result] = await collect(
      options({
        contextsPerRound: 1,
        editsPerContext: texts.length,
        edit: { directives: {}, maxTokens: 2_000_000 },
        adapt: { rank: 2, alpha: 6 },
      }),
    );
    const { edits, reward } = result!;
    expect(edits.map(({ invalid }) => invalid)).toEqual([
      'empty',
      'empty',
      undefined,
      'directives-out-of-bounds',
      'directives-not-json',
      undefined,
      undefined,
      'empty',
    ]);
    expect(reward.invalid).toBe(5);
    expect(reward.invalidBy).toEqual({ empty: 3, 'directives-out-of-bounds': 1, 'directives-not-json': 1 });
    for (const edit of edits) {
      if (edit.invalid) expect(edit.reward).toBe(-3);
      else expect(edit.reward).toBeGreaterThan(-3);
    }
    expect(edits[2]!.documents).toHaveLength(65);
    expect(edits[3]!.detail).toMatch(/^epochs is 1000000000; expected/);
    // What the inner loop was asked: only the edits that can be followed, each in its own way.
    const [asked] = engine.current.adapt.mock.calls[0]!;
    expect(asked.map(({ options: own }) => own)).toEqual([
      undefined,
      { epochs: 3, rank: 8, alpha: 24, targets: ['layers.1.*.q_proj', 'layers.1.*.v_proj'] },
      { learningRate: 0.001, epochs: 2 },
    ]);
    const title = task.contexts(0, 1)[0]!.title.length + 1;
    for (const [index, document] of asked[1]!.documents.entries()) {
      const expected = Array.from(document as Int32Array, (_, at) => (at < title ? 0 : 1));
      expect([...asked[1]!.lossMask![index]!]).toEqual(expected);
    }
    expect(asked[1]!.documents).toHaveLength(4);
    expect(asked[0]!.lossMask).toBeUndefined();
    expect(updates[0]!.rollouts).toHaveLength(texts.length);
  });

  it('reports the questions that do not pay, apart', async () => {
    const [result] = await collect(options());
    const context = task.contexts(0, 1)[0]!;
    const share = context.report.filter(({ answers }) => 'abc'.includes(answers[0]!.at(-1)!)).length / 2;
    expect(result!.edits[0]!.scores.report.likelihood).toEqual({ edited: -2 + share, unedited: -2 });
  });

  it('hands every edit to the algorithm: prompt, tokens, sampler log-probs, group and reward', async () => {
    const [result] = await collect(options({ edit: { temperature: 0.9 } }));
    expect(updates).toHaveLength(1);
    const { rollouts, temperature } = updates[0]!;
    expect(temperature).toBe(0.9);
    expect(rollouts.map(({ group }) => group)).toEqual([0, 0, 0, 1, 1, 1]);
    expect(rollouts.map(({ reward }) => reward)).toEqual(result!.edits.map(({ reward }) => reward));
    expect(rollouts.map(({ invalid }) => invalid)).toEqual([false, false, true, false, false, true]);
    const { tokens, promptLength, samplerLogprobs } = rollouts[0]!;
    expect(model.tokenizer.decode(tokens.subarray(promptLength))).toBe(result!.edits[0]!.text);
    expect(tokens.at(-1)).toBe(0);
    expect(samplerLogprobs).toHaveLength(tokens.length - promptLength);
    expect(model.tokenizer.decode(tokens.subarray(0, promptLength))).toContain('Implications:');
  });

  it('samples from the whole distribution', async () => {
    await collect(options());
    expect(engine.current.generate.mock.calls[0]![1]).toMatchObject({ temperature: 1, topP: 1, topK: 0 });
  });

  it.each(['policy', 'base'] as const)(
    'stacks edits on the %s and asks the baseline of the same',
    async (from) => {
      await collect(options({ adaptFrom: from }));
      const expected = from === 'base' ? 'base' : 'policy 0';
      for (const edit of engine.current.adapt.mock.calls[0]![0]) {
        expect((edit.fork as unknown as { name: string }).name).toBe(expected);
      }
      const baseline = engine.current.score.mock.calls[0]![0];
      expect((baseline[0]!.fork as unknown as { name: string }).name).toBe(expected);
      const writers = engine.current.generate.mock.calls[0]![0];
      expect((writers[0]!.fork as unknown as { name: string }).name).toBe('policy 0');
    },
  );

  it('closes every fork and delta, also when the update fails', async () => {
    await collect(options());
    await expect(
      collect(options({ algorithm: { ...algorithm, update: () => Promise.reject(new Error('lost')) } })),
    ).rejects.toThrow('lost');
    expect(model.forks.length).toBeGreaterThan(8);
    expect(model.forks.filter(({ closed }) => !closed)).toEqual([]);
    expect(model.deltas.filter(({ closed }) => !closed)).toEqual([]);
  });

  it('trains an edit several times when asked, and pays the mean', async () => {
    const [result] = await collect(options({ repeats: 3 }));
    const edits = engine.current.adapt.mock.calls[0]![0];
    expect(edits).toHaveLength(2 * 2 * 3);
    // Edits of one context share the keys of their trainings; repeats and contexts do not.
    const seeds = edits.map(({ seed }) => seed);
    expect(new Set(seeds).size).toBe(2 * 3);
    expect(seeds.slice(0, 3)).toEqual(seeds.slice(3, 6));
    expect(result!.edits[0]!.spread).toBe(0);
  });

  it('gives the floor to an edit whose scores are not finite, and goes on', async () => {
    const { score } = engine.current;
    const healthy = score.getMockImplementation()!;
    score.mockImplementation(async (rows) => {
      const scored = await healthy(rows);
      return scored.map((row, index) =>
        (rows[index]!.fork as unknown as { documents: string[] }).documents.some((text) =>
          text.includes('holds'),
        )
          ? row.fill(Number.NaN)
          : row,
      );
    });
    const [result] = await collect(options());
    expect(result!.edits[0]).toMatchObject({ invalid: 'diverged', reward: -3 });
    expect(result!.edits[1]!.invalid).toBeUndefined();
    expect(updates).toHaveLength(1);
  });

  it('finds the edit whose training diverges, floors it alone, and keeps the others', async () => {
    const { adapt } = engine.current;
    const healthy = adapt.getMockImplementation()!;
    adapt.mockImplementation(async (edits) => {
      const texts = edits.flatMap(({ documents }) =>
        documents.map((tokens) => model.tokenizer.decode(tokens as Int32Array)),
      );
      if (texts.some((text) => /fact\db holds/.test(text)))
        throw makeError('LOSS_NOT_FINITE', 'step 3 of edit 0');
      return healthy(edits);
    });
    const [result] = await collect(options());
    expect(result!.edits.map(({ invalid }) => invalid)).toEqual([
      'diverged',
      undefined,
      'empty',
      'diverged',
      undefined,
      'empty',
    ]);
    expect(result!.edits.map(({ reward }) => reward === -3)).toEqual([true, false, true, true, false, true]);
    // Any other failure is not taken for divergence.
    adapt.mockRejectedValue(makeError('OUT_OF_MEMORY', 'full'));
    await expect(collect(options())).rejects.toMatchObject({ code: 'OUT_OF_MEMORY' });
    expect(model.forks.filter(({ closed }) => !closed)).toEqual([]);
  });

  it('asks the unedited model once a context and version', async () => {
    const rowsOfBaseline = async (given: Partial<SealOptions>) => {
      engine.current = fakeEngine(model, writer);
      // Five training passages: the second pass over them shows all of them again.
      await collect(options({ rounds: 2, contextsPerRound: 5, ...given }));
      const { calls } = engine.current.score.mock;
      const isBaseline = (rows: (typeof calls)[0][0]) =>
        rows.every(({ fork }) => (fork as unknown as { documents: string[] }).documents.length === 0);
      return calls
        .map(([rows]) => rows)
        .filter(isBaseline)
        .map(({ length }) => length);
    };
    // On the base model the second round needs no question; on the policy, which has moved, all of them.
    expect(await rowsOfBaseline({ adaptFrom: 'base' })).toEqual([20]);
    expect(await rowsOfBaseline({ adaptFrom: 'policy' })).toEqual([20, 20]);
  });

  it('is a function of the seed and the round: starting later gives the later rounds', async () => {
    const seedsOf = async (given: Partial<SealOptions>) => {
      engine.current = fakeEngine(model, writer);
      await collect(options(given));
      return {
        write: engine.current.generate.mock.calls.map(([rows]) => rows.map(({ seed }) => seed)),
        adapt: engine.current.adapt.mock.calls.map(([edits]) => edits.map(({ seed }) => seed)),
        retention: engine.current.divergence.mock.calls.map(([rows]) =>
          rows.map(({ tokens }) => Array.from(tokens)),
        ),
      };
    };
    const all = await seedsOf({ rounds: 3 });
    const late = await seedsOf({ rounds: 3, startRound: 2 });
    expect(late.write).toEqual(all.write.slice(2));
    expect(late.adapt).toEqual(all.adapt.slice(2));
    expect(late.retention).toEqual(all.retention.slice(2));
    expect((await seedsOf({ rounds: 3, seed: 9 })).write).not.toEqual(all.write);
    expect(new Set(all.write.flat()).size).toBe(all.write.flat().length);
  });

  it('hands the signal to every call and tells each phase', async () => {
    const { signal } = new AbortController();
    const phases: string[] = [];
    await collect(options({ signal, onPhase: (round, phase) => phases.push(`${round} ${phase}`) }));
    for (const call of ['generate', 'score', 'adapt', 'divergence'] as const) {
      for (const [, given] of engine.current[call].mock.calls as unknown as [
        unknown,
        { signal?: AbortSignal },
      ][]) {
        expect(given.signal).toBe(signal);
      }
    }
    const order = ['write', 'baseline', 'adapt', 'evaluate', 'update'];
    expect(phases).toEqual(order.map((phase) => `0 ${phase}`));
  });

  it.each([
    [{ editsPerContext: 1 }, /editsPerContext is 1; expected a whole number of at least 2/],
    [{ rounds: -1 }, /rounds is -1/],
    [{ algorithm: 'dpo' as never }, /algorithm is "dpo"; expected one of ppo, grpo, rloo, restem/],
    [{ edit: { temperature: 0 } }, /edit\.temperature is 0/],
    [{ edit: { prompt: 'nonsense' } }, /edit prompt "nonsense" is not known/],
    [{ reward: { measure: 'bleu' as never } }, /reward measure is "bleu"/],
    [{ edit: { prompt: 'directives' } }, /edit.prompt is "directives"; expected edit.directives/],
    [{ edit: { directives: { epochs: [3, 2] as const } } }, /edit.directives.epochs is \[3,2\]/],
    [
      { edit: { directives: { augmentations: ['spin'] } } },
      /"spin"; expected what the task offers: repeat, rev/,
    ],
    [{ edit: { directives: {} }, adapt: { targets: ['layers.0.*'] } }, /adapt.targets to be modules/],
    [{ edit: { prompt: 'implication' } }, /edit prompt "implication" is not known/],
    [{ reward: { beta: 1, retentionTexts: 0 } }, /retentionTexts is 0/],
    [{ task: { ...task, retention: [] } }, /the task has no retention texts/],
  ])('refuses %j', async (given, message) => {
    await expect(collect(options(given))).rejects.toMatchObject({
      code: 'OPTION_INVALID',
      message: expect.stringMatching(message) as unknown,
    });
  });
});

describe('comparing methods', () => {
  const compare = (more: object = {}) =>
    compareMethods({ policy, contexts: task.evaluation, reward: { report: ['recall'] }, ...more });

  it('takes a copy whose numbers are not finite for no edit, and leaves the others alone', async () => {
    const { score } = engine.current;
    const healthy = score.getMockImplementation()!;
    const [broken] = task.evaluation;
    score.mockImplementation(async (rows) => {
      const breaks = ({ fork }: (typeof rows)[0]) =>
        (fork as unknown as { documents: string[] }).documents.some((text) =>
          text.includes(`fact${broken!.id}b`),
        );
      if (rows.some(breaks)) throw makeError('LOSS_NOT_FINITE', 'row 3');
      return healthy(rows);
    });
    const { methods } = await compare();
    const of = (name: string) => methods.find(({ method }) => method === name)!;
    expect(methods.map(({ invalid }) => invalid)).toEqual([0, 0, 1, 1, 0]);
    const index = task.evaluation.indexOf(broken!);
    for (const [group, values] of of('untrained edits').values.likelihood!.entries()) {
      if (group === index) expect(values).toEqual(of('unedited').values.likelihood![group]);
      else expect(values).not.toEqual(of('unedited').values.likelihood![group]);
    }
  });

  it('has no scores for a policy that computes no finite numbers by itself', async () => {
    const { score } = engine.current;
    const healthy = score.getMockImplementation()!;
    score.mockImplementation(async (rows) => {
      const breaks = ({ fork }: (typeof rows)[0]) =>
        /^policy/.test((fork as unknown as { name: string }).name);
      if (rows.some(breaks)) throw makeError('LOSS_NOT_FINITE', 'row 0');
      return healthy(rows);
    });
    const { methods, differences } = await compare({ adaptFrom: 'base' });
    const last = methods.find(({ method }) => method === 'trained policy')!;
    expect(last.intervals.likelihood).toMatchObject({ mean: Number.NaN, n: 0 });
    const gain = differences.find(
      ({ left, measure }) => left === 'trained policy' && measure === 'likelihood',
    )!;
    expect(gain.interval.mean).toBeNaN();
  });

  it('leaves unknown grades out, and says where nothing is known', async () => {
    let asked = 0;
    const grader = (unknown: (index: number) => boolean) => ({
      name: 'mine',
      grade: (rows: readonly unknown[]) => rows.map(() => (unknown(asked++) ? Number.NaN : 0.5)),
    });
    const some = await compare({ reward: { measure: 'mine', graders: [grader((index) => index === 2)] } });
    expect(some.methods.map(({ intervals }) => [intervals.mine!.mean, intervals.mine!.n])).toEqual([
      [0.5, 11],
      ...Array.from({ length: 4 }, () => [0.5, 12]),
    ]);
    const none = await compare({ reward: { measure: 'mine', graders: [grader(() => true)] } });
    expect(none.methods[0]!.intervals.mine).toMatchObject({ mean: Number.NaN, n: 0 });
    expect(comparisonText(none).join('\n')).toMatch(/^unedited +unknown$/m);
  });

  it('asks all questions of unseen passages under every method', async () => {
    const comparison = await compare();
    expect(comparison).toMatchObject({ passages: 3, questions: 12, samples: 1 });
    const scoreOf = (method: string) =>
      comparison.methods.find((result) => result.method === method)!.intervals.likelihood!.mean;
    // Of four facts the passage holds one, and the edit two more.
    expect(scoreOf('unedited')).toBeCloseTo(-2, 10);
    expect(scoreOf('passage only')).toBeCloseTo(-1.75, 10);
    expect(scoreOf('untrained edits')).toBeCloseTo(-1.25, 10);
    expect(scoreOf('trained edits')).toBeCloseTo(-1.25, 10);
    expect(scoreOf('trained policy')).toBeCloseTo(-2, 10);
    const pair = comparison.differences.find(
      ({ left, right, measure }) =>
        left === 'trained edits' && right === 'unedited' && measure === 'likelihood',
    )!;
    expect(pair.interval).toMatchObject({ n: 12, groups: 3 });
    expect(pair.interval.mean).toBeCloseTo(0.75, 10);
    expect(model.forks.filter(({ closed }) => !closed)).toEqual([]);
    expect(model.deltas.filter(({ closed }) => !closed)).toEqual([]);
  });

  it('draws trained and untrained edits under the same keys', async () => {
    await compare({ reward: { report: [] } });
    const written = engine.current.generate.mock.calls.map(([rows]) => rows);
    expect(written).toHaveLength(2);
    expect(written[0]!.map(({ seed }) => seed)).toEqual(written[1]!.map(({ seed }) => seed));
    expect((written[0]![0]!.fork as unknown as { name: string }).name).toBe('base');
    expect((written[1]![0]!.fork as unknown as { name: string }).name).toBe('policy 0');
  });

  it('means over several edits a passage, and counts an invalid one as no edit', async () => {
    const comparison = await compare({ samples: 3, reward: { report: [] } });
    const trained = comparison.methods.find(({ method }) => method === 'trained edits')!;
    expect(trained).toMatchObject({ edits: 9, invalid: 3 });
    // (−1.25 − 1.75 − 2) / 3
    expect(trained.intervals.likelihood!.mean).toBeCloseTo(-5 / 3, 10);
  });

  it('claims learning only where the interval excludes zero', async () => {
    const text = async () => comparisonText(await compare({ reward: { report: [] } })).join('\n');
    expect(await text()).toMatch(/That the policy learns is not shown: .*includes zero/);
    expect(await text()).toMatch(/3 unseen passages, 12 questions, 1 edit a passage/);
    // Edits of the trained policy that say more.
    writer.write = (prompt) => {
      const index = /Passage (\d)/.exec(prompt)![1]!;
      calls += 1;
      return calls > 3 ? `fact${index}b fact${index}c fact${index}d` : 'Nothing.';
    };
    let calls = 0;
    expect(await text()).toMatch(
      /The policy learns \(better edits, or a better model to edit\): .*excludes zero/,
    );
    calls = 0;
    writer.write = (prompt) => {
      const index = /Passage (\d)/.exec(prompt)![1]!;
      calls += 1;
      return calls > 3 ? 'Nothing.' : `fact${index}b fact${index}c fact${index}d`;
    };
    expect(await text()).toMatch(/Training made things worse/);
  });

  it('refuses contexts without questions', async () => {
    await expect(compareMethods({ policy, contexts: [] })).rejects.toMatchObject({ code: 'INPUT_INVALID' });
  });
});
