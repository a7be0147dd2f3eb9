import { beforeEach, describe, expect, it, vi } from 'vitest';
import type { Algorithm, Rollout } from '../../lib/algorithm/algorithm.js';
import type { EditResult, RoundResult } from '../../lib/edit-result.js';
import type { Policy } from '../../lib/policy.js';
import type { Grader } from '../../lib/reward/grader.js';
import type { RewardSubject } from '../../lib/reward/terms.js';
import { type SealOptions, seal } from '../../lib/seal.js';
import { knowledge } from '../../lib/task/knowledge.js';
import type { Passage } from '../../lib/task/passages.js';
import type { Task, TaskContext } from '../../lib/task/task.js';
import { FakeModel, fakeEngine, fakePolicy } from './helpers/fake-engine.js';

// Rewards of the caller's own in the loop, over a model layer that is a few lines of TypeScript.
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

const PASSAGES: Passage[] = Array.from({ length: 6 }, (_, index) => ({
  title: `T${index}`,
  context: `Passage ${index}: fact${index}a and more.`,
  questions: ['a', 'b', 'c', 'd'].map((letter) => ({
    question: `What of key${index}${letter}?`,
    answers: [`fact${index}${letter}`],
  })),
}));
const task = knowledge(PASSAGES, { retention: 2 });

let model: FakeModel;
let policy: Policy & { version: number };
let updates: (readonly Rollout[])[];
const algorithm: Algorithm = {
  name: 'fake',
  update: async (_, rollouts) => {
    updates.push(rollouts);
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
  engine.current = fakeEngine(model, { write: (_, sample) => `Line ${sample} holds.` });
});

const options = (more: Partial<SealOptions> = {}): SealOptions => ({
  policy,
  task,
  rounds: 1,
  contextsPerRound: 2,
  editsPerContext: 3,
  algorithm,
  ...more,
  reward: { beta: 0, ...more.reward },
});
async function collect(given: SealOptions): Promise<RoundResult[]> {
  const results: RoundResult[] = [];
  for await (const result of seal(given)) results.push(result);
  return results;
}
const editsOf = async (more: Partial<SealOptions>): Promise<readonly EditResult[]> =>
  (await collect(options(more)))[0]!.edits;
const only = (reward: (subject: RewardSubject) => unknown, weight = 1) => ({
  reward: { measure: {}, terms: [{ name: 'mine', weight, reward: reward as () => number }], patience: 0.05 },
});
const textOf = ({ edit }: RewardSubject) => (edit!.kind === 'text' ? edit!.text : '');

describe('a reward function', () => {
  it('sees the edit, the edited and the unedited model, and pays by its weight, sync or async', async () => {
    const seen: RewardSubject[] = [];
    const edits = await editsOf({
      reward: {
        measure: { likelihood: 0.5 },
        terms: [
          {
            name: 'sync',
            weight: 2,
            reward: (subject) => {
              seen.push(subject);
              return textOf(subject).length;
            },
          },
          { name: 'later', reward: ({ answers }) => Promise.resolve(answers.paying.length / 8) },
        ],
      },
    });
    for (const { reward, parts, text } of edits) {
      expect(parts.terms).toEqual({ sync: text.length, later: 2 / 8 });
      expect(reward).toBeCloseTo(parts.gain + 2 * text.length + 0.25, 10);
      // Half of the gain in nats: a fact of the passage is one of two paying questions, or not.
      expect([0, 0.25, 0.5]).toContain(parts.gain);
    }
    const { fork, parent, baseline, context } = seen[0]!;
    expect((fork as unknown as { documents: string[] }).documents.join()).toContain('Line 0 holds.');
    expect((parent as unknown as { documents: string[] }).documents).toEqual([]);
    expect(baseline.paying).toHaveLength(context.paying.length);
  });

  for (const [what, reward, cause] of [
    ['throws', () => JSON.parse('{'), /reward "mine" failed: .*JSON/],
    ['rejects', () => Promise.reject(new Error('no budget')), /reward "mine" failed: no budget/],
    ['returns NaN', () => Number.NaN, /reward "mine" gave NaN; expected a finite number/],
    ['returns nothing', () => undefined, /reward "mine" gave undefined/],
    ['returns text', () => '1', /reward "mine" gave string/],
    ['never resolves', () => new Promise(() => {}), /reward "mine" did not end within 0.05 s/],
  ] as const) {
    it(`that ${what} for one edit leaves that one out, and the run goes on`, async () => {
      const edits = await editsOf(
        only((subject) => (textOf(subject).includes('1') ? reward() : textOf(subject).length)),
      );
      expect(edits[1]!.reward).toBeNaN();
      expect(edits[1]!.unknown).toMatch(cause);
      expect(edits[1]!.invalid).toBeUndefined();
      expect(edits[0]).toMatchObject({ reward: 13 });
      expect(edits[0]!.unknown).toBeUndefined();
      // Two of three edits of each context are learnt from.
      expect(updates.map((rollouts) => rollouts.map(({ group }) => group))).toEqual([[0, 0, 1, 1]]);
      expect(updates[0]!.every(({ reward: value }) => Number.isFinite(value))).toBe(true);
    });

    it(`that always ${what} ends the run with the cause, and learns nothing`, async () => {
      const error = await collect(options(only(reward))).catch((caught: unknown) => caught);
      expect(error).toMatchObject({ code: 'REWARD_UNKNOWN', exitCode: 1 });
      expect((error as Error).message).toMatch(cause);
      expect(updates).toEqual([]);
      expect(model.forks.filter(({ closed }) => !closed)).toEqual([]);
    });
  }

  it('that is known for one edit of a context alone has nothing to be compared with', async () => {
    const edits = await editsOf(
      only((subject) => {
        const first = subject.context.id === task.contexts(0, 2)[0]!.id;
        return first && !textOf(subject).includes('1') ? Number.NaN : 1;
      }),
    );
    expect(edits.map(({ reward }) => Number.isNaN(reward))).toEqual([true, false, true, false, false, false]);
    expect(updates[0]!.map(({ group }) => group)).toEqual([1, 1, 1]);
  });

  it('is stopped by the signal of the loop, which ends it', async () => {
    const controller = new AbortController();
    let told = false;
    const hanging = (_: RewardSubject, { signal }: { signal: AbortSignal }) => {
      signal.addEventListener('abort', () => {
        told = true;
      });
      controller.abort();
      return new Promise<number>(() => {});
    };
    const terms = [{ name: 'mine', reward: hanging }];
    const given = options({ signal: controller.signal, reward: { measure: {}, terms } });
    await expect(collect(given)).rejects.toMatchObject({ code: 'ABORTED' });
    expect(told).toBe(true);
  });

  it('is called at most `concurrency` times at once', async () => {
    let now = 0;
    let most = 0;
    const reward = async () => {
      most = Math.max(most, ++now);
      await new Promise((resolve) => setTimeout(resolve, 2));
      now--;
      return 1;
    };
    await editsOf({ reward: { measure: {}, terms: [{ name: 'mine', concurrency: 2, reward }] } });
    expect(most).toBe(2);
  });
});

describe('a grader of one’s own', () => {
  const grading = (grade: Grader['grade'], more: Partial<Grader> = {}) => ({
    reward: { measure: 'mine', graders: [{ name: 'mine', grade, ...more }], patience: 0.05 },
  });

  it('pays, and sees question, answers, prediction and passage', async () => {
    const rows: unknown[] = [];
    const edits = await editsOf(
      grading((given) => {
        rows.push(...given);
        return given.map(({ prediction }) => (prediction.includes('holds') ? 1 : 0));
      }),
    );
    expect(rows[0]).toMatchObject({ title: expect.any(String), answers: [expect.stringContaining('fact')] });
    expect(rows[0]).toMatchObject({ context: expect.stringContaining('Passage') });
    expect(edits[0]!.scores.paying.mine!.edited).toBeGreaterThanOrEqual(0);
  });

  it('whose grades are no grades leaves them unknown, never wrong', async () => {
    for (const [grade, cause] of [
      [() => [1], 'gave 1 grades for'],
      [() => 3, 'gave number for'],
      [(rows: readonly unknown[]) => rows.map(() => 1.5), 'gave 1.5 for "What of key'],
      [() => new Promise(() => {}), 'did not end within 0.05 s'],
      [() => Promise.reject(new Error('gone')), 'failed: gone'],
    ] as [Grader['grade'], string][]) {
      const error = await collect(options(grading(grade))).catch((caught: unknown) => caught as Error);
      expect(error).toMatchObject({ code: 'REWARD_UNKNOWN' });
      expect((error as Error).message).toContain(cause);
    }
  });

  it('is asked again for a baseline that it did not know', async () => {
    const calls: number[] = [];
    const { title } = task.contexts(0, 4)[0]!;
    const grade: Grader['grade'] = (rows) => {
      calls.push(rows.length);
      return rows.map((row) => (calls.length === 1 && row.title === title ? Number.NaN : 0.5));
    };
    const results = await collect(
      options({ ...grading(grade), rounds: 2, contextsPerRound: 4, adaptFrom: 'base' }),
    );
    // Four contexts of four questions, their twelve copies; then the one that was not known, and the copies again.
    expect(calls).toEqual([16, 48, 4, 48]);
    expect(results.map(({ reward }) => reward.unknown)).toEqual([3, 0]);
    expect(updates.map(({ length }) => length)).toEqual([9, 12]);
  });
});

describe('contexts of a task of one’s own', () => {
  const context: TaskContext = {
    ...{ id: 'c', title: 'T', context: 'C.', task: '' },
    paying: [{ id: 'p', question: 'What?', answers: ['x'] }],
    report: [],
  };
  const own = (contexts: readonly TaskContext[], more: Partial<Task> = {}): Task => ({
    ...{ name: 'own', evaluation: [], retention: [], contexts: () => contexts },
    ...more,
  });
  const question = { id: 'q', question: ' What? ', answers: ['y'] };
  for (const [what, contexts, message] of [
    ['no contexts', [], 'the task gave no context'],
    [
      'a context without a paying question',
      [{ ...context, paying: [] }],
      'context "c" (T) has no question that pays',
    ],
    [
      'a question in both sets',
      [{ ...context, report: [question] }],
      'has the question " What? " in both sets',
    ],
    [
      'a question without an answer',
      [{ ...context, paying: [{ ...question, answers: [] }] }],
      'has the question " What? " without a right answer; expected at least one for the measure "likelihood"',
    ],
    [
      'a question with an empty answer',
      [{ ...context, report: [{ ...question, question: 'Who?', answers: [' '] }] }],
      'has the question "Who?" without a right answer',
    ],
  ] as [string, TaskContext[], string][]) {
    it(`with ${what} are refused by name`, async () => {
      await expect(collect(options({ task: own(contexts) }))).rejects.toThrow(message);
    });
  }

  it('need no answers where the grader needs none', async () => {
    const grader: Grader = {
      name: 'mine',
      openEnded: true,
      grade: (rows) => rows.map(({ answers }) => answers.length + 0.5),
    };
    const bare = own([{ ...context, paying: [{ ...question, answers: [] }] }]);
    const edits = await editsOf({ task: bare, reward: { measure: 'mine', graders: [grader] } });
    expect(edits[0]!.scores.paying.mine).toEqual({ edited: 0.5, unedited: 0.5 });
    const strict = { ...grader, openEnded: false };
    const given = options({ task: bare, reward: { measure: 'mine', graders: [strict] } });
    await expect(collect(given)).rejects.toThrow(
      'no right answer; expected at least one for the measure "mine"',
    );
  });

  it('are examined, worded and read by the hooks of the task', async () => {
    const asked: string[][] = [];
    const hooked = own([context], {
      measures: ['size'],
      template: {
        name: 'mine',
        base: '{task}{title}{context} Now:',
        chat: { user: '{task}{title}{context}' },
      },
      parse: (text) => ({ kind: 'text', text, documents: ['one', 'two'] }),
      ask: async (rows, { measures }) =>
        rows.map(({ fork, context: { paying, report } }) => {
          asked.push([...measures]);
          const size = (fork as unknown as { documents: string[] }).documents.length;
          const answered = { scores: { size } };
          return { paying: paying.map(() => answered), report: report.map(() => answered) };
        }),
    });
    const edits = await editsOf({ task: hooked, reward: { measure: 'size' } });
    expect(edits[0]).toMatchObject({ documents: ['one', 'two'], reward: 2 });
    expect(asked[0]).toEqual(['size']);
    expect(engine.current.score).not.toHaveBeenCalled();
    const [rows] = engine.current.generate.mock.calls[0]!;
    expect(model.tokenizer.decode(rows[0]!.prompt as Int32Array)).toContain('C. Now:');
    // An examination that forgets a question is a mistake of the task, not a reward.
    const broken = { ...hooked, ask: async () => [{ paying: [], report: [] }] };
    await expect(collect(options({ task: broken, reward: { measure: 'size' } }))).rejects.toThrow(
      'gave 0 and 0 answers for context "c"; expected 1 paying and 0 report-only ones',
    );
    await expect(collect(options({ task: hooked, reward: { measure: 'length' } }))).rejects.toThrow(
      'reward measure is "length"; expected one of likelihood, exact, f1, recall',
    );
  });
});

describe('forgetting in the reward', () => {
  it('asks earlier contexts by what pays alone, and by votes where nobody knows the answers', async () => {
    const bare = (contexts: readonly TaskContext[]) =>
      contexts.map((context) => ({
        ...context,
        paying: context.paying.map((question) => ({ ...question, answers: [] })),
        report: [],
      }));
    const unanswered: Task = { ...task, contexts: (round, count) => bare(task.contexts(round, count)) };
    const reward = { lambda: 0.5, measure: 'likelihood', report: ['recall'] };
    const labels = { samples: 2 };
    const results = await collect(options({ task: unanswered, labels, rounds: 2, reward }));
    // The votes are all alike here, and no document holds them: nothing is gained, nothing lost.
    expect(results[1]!.edits.map(({ parts }) => parts.forgetting)).toEqual(
      Array.from({ length: 6 }, () => 0),
    );
    // Greedy answers are for the report: to the questions of a round's own contexts, by the unedited model and its copies.
    const asked = engine.current.generate.mock.calls
      .filter(([, { temperature }]) => temperature === 0)
      .map(([rows]) => rows.length);
    expect(asked).toEqual([4, 12, 4, 12]);
  });

  it('is what the paying questions of earlier contexts lose, a keyed choice of them', async () => {
    // A copy that holds a new document forgets what the policy knew: fact a of every passage of round 0.
    const known = task.contexts(0, 2).flatMap(({ paying }) => paying.map(({ answers }) => answers[0]!));
    const fork = vi.spyOn(policy, 'fork').mockImplementation(() => {
      const made = model.fork();
      made.documents.push(...known);
      const child = made.fork.bind(made);
      made.fork = () => {
        const copy = child();
        const apply = copy.apply.bind(copy);
        copy.apply = (delta) => {
          copy.documents.length = 0;
          return apply(delta);
        };
        return copy;
      };
      return made as never;
    });
    const results = await collect(
      options({ rounds: 2, reward: { lambda: 0.5, earlierContexts: 5, measure: 'likelihood' } }),
    );
    fork.mockRestore();
    const [first, second] = results.map(({ edits }) => edits[0]!.parts);
    expect(first).toMatchObject({ forgetting: Number.NaN, forgettingPenalty: 0 });
    // Both paying questions of both earlier contexts, one nat a token each; the passage's own document may keep one.
    expect(second!.forgetting).toBeCloseTo(1, 6);
    expect(second!.forgettingPenalty).toBeCloseTo(0.5, 6);
    expect(second!.total).toBeCloseTo(second!.gain - 0.5, 6);
  });
});
