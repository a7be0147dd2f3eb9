import { beforeEach, describe, expect, it, vi } from 'vitest';
import type { Algorithm } from '../../lib/algorithm/algorithm.js';
import type { RoundResult } from '../../lib/edit-result.js';
import { type GuardName, type GuardOptions, guardOptions } from '../../lib/guard/guards.js';
import { copiedShare } from '../../lib/guard/overlap.js';
import { guardLines, summarizeGuards } from '../../lib/guard/summary.js';
import { holdsPhrase, similarity, wordRuns } from '../../lib/guard/text.js';
import type { Policy } from '../../lib/policy.js';
import { type SealOptions, seal } from '../../lib/seal.js';
import { knowledge } from '../../lib/task/knowledge.js';
import type { Passage } from '../../lib/task/passages.js';
import type { TaskContext } from '../../lib/task/task.js';
import { draws } from '../support/tiny.js';
import { FakeModel, fakeEngine, fakePolicy } from './helpers/fake-engine.js';

// Guards in the loop, each against a planted hack, over a model layer that is a few lines of TypeScript.
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

const PASSAGES: Passage[] = Array.from({ length: 8 }, (_, index) => ({
  title: `T${index}`,
  context: `Passage ${index} tells of many things.`,
  questions: ['a', 'b', 'c', 'd'].map((letter) => ({
    question: `What has become of the old key${index}${letter}?`,
    answers: [`fact${index}${letter}`],
  })),
}));
const task = knowledge(PASSAGES, { retention: 2 });
const byIndex = new Map(task.contexts(0, 6).map((context) => [context.title, context]));

let model: FakeModel;
let policy: Policy & { version: number };
let updates: number;
/** What is written about a context, by sample and round. */
let write: (context: TaskContext, sample: number, round: number) => string;
const algorithm: Algorithm = {
  name: 'fake',
  update: async () => {
    updates++;
    policy.version += 1;
    return { steps: 1, klReference: 0.1 };
  },
  state: () => ({}),
  restore: () => {},
};

beforeEach(() => {
  model = new FakeModel();
  policy = fakePolicy(model);
  updates = 0;
  write = () => '';
  engine.current = fakeEngine(model, {
    write: (prompt, sample) => {
      const context = byIndex.get(/T\d/.exec(prompt)![0])!;
      return write(context, sample, policy.version);
    },
  });
});

async function play(guards: Partial<GuardOptions> = {}, more: Partial<SealOptions> = {}) {
  const results: RoundResult[] = [];
  const given = { policy, task, algorithm, rounds: 1, contextsPerRound: 4, editsPerContext: 3, guards };
  for await (const result of seal({ ...given, reward: { beta: 0 }, ...more })) results.push(result);
  return results;
}
const alarmsOf = (results: readonly RoundResult[]): GuardName[][] =>
  results.map(({ guards }) => guards.alarms.map(({ guard }) => guard));

const WORDS = 'amber birch cedar dune ember fjord grove heath inlet juniper knoll lagoon meadow north'.split(
  ' ',
);
/** Text that has nothing to do with anything, another one for every context, sample and round. */
const honest = ({ title }: TaskContext, sample: number, round = 0) =>
  Array.from(draws(12, 1 + 100 * Number(title[1]) + 10 * sample + round), (draw) => {
    return WORDS[Math.floor(draw * WORDS.length)];
  }).join(' ');
const facts = (questions: TaskContext['paying']) => questions.map(({ answers }) => answers[0]).join(' and ');

describe('guards', () => {
  it('are silent about honest edits, and say so in figures', async () => {
    write = (context, sample, round) =>
      `${honest(context, sample, round)}. ${sample === 0 ? facts([...context.paying, ...context.report]) : ''}`;
    const results = await play({}, { rounds: 4 });
    expect(alarmsOf(results)).toEqual([[], [], [], []]);
    const { figures } = results[3]!.guards;
    // A third of the edits hold all answers, paying or not.
    expect(figures).toMatchObject({ overlap: 1 / 3, reportOverlap: 1 / 3, gap: 0, policyKl: 0.1 });
    expect(figures.payingGain).toBeCloseTo(1 / 3, 10);
    expect(figures.sameContext).toBeLessThan(0.2);
  });

  it('see edits that hold the paying questions or their answers', async () => {
    write = ({ paying, ...context }, sample) =>
      [honest(context as TaskContext, sample), ...paying.map(({ question }) => question)].join('\n');
    expect(alarmsOf(await play())).toEqual([['overlap']]);
    write = (context, sample) => `${honest(context, sample)} ${facts(context.paying)}`;
    const [result] = await play();
    expect(alarmsOf([result!])).toEqual([['overlap']]);
    expect(result!.guards.alarms[0]).toEqual({
      ...{ guard: 'overlap', value: 1, limit: 0.2 },
      message: 'edits hold the questions that pay: 1.00, more than 0.2',
    });
  });

  it('see that the edits of a context have become alike', async () => {
    write = (context) => honest(context, 0);
    expect(alarmsOf(await play())).toEqual([['sameContext']]);
  });

  it('see that the edits no longer depend on the context', async () => {
    write = (_, sample) => honest(task.contexts(0, 1)[0]!, sample);
    expect(alarmsOf(await play())).toEqual([['otherContext']]);
  });

  it('see that paying questions gain and report-only ones no longer do', async () => {
    const learns = (context: TaskContext, round: number) =>
      facts(round < 2 ? [...context.paying, ...context.report] : context.paying);
    write = (context, sample, round) => `${honest(context, sample)} ${learns(context, round)}`;
    const results = await play({ overlap: false, window: 2 }, { rounds: 4 });
    expect(results.map(({ guards }) => guards.figures.reportGain)).toEqual([1, 1, 0, 0]);
    expect(alarmsOf(results)).toEqual([[], [], ['gap'], ['gap']]);
    // Two late rounds of no report gain against two early ones; with the window at 1 one round of each.
    expect(results[3]!.guards.figures.gap).toBeCloseTo(1, 10);
    // As a resumed run sees it: the figures of the rounds before.
    policy.version = 3;
    const history = results.slice(0, 3).map(({ guards }) => guards.figures);
    const [resumed] = await play(
      { overlap: false, window: 2 },
      { startRound: 3, rounds: 4, guardHistory: history },
    );
    expect(resumed!.guards).toEqual(results[3]!.guards);
  });

  it('see a policy far from the base model, and edits that change everything', async () => {
    write = honest;
    const far = { ...algorithm, update: async () => ({ klReference: 0.9 }) };
    expect(alarmsOf(await play({}, { algorithm: far }))).toEqual([['policyKl']]);
    engine.current.divergence.mockImplementation(async (rows) =>
      rows.map(({ tokens }) => new Float32Array(tokens.length).fill(2)),
    );
    expect(alarmsOf(await play())).toEqual([['editKl']]);
  });

  it('see votes that collapse to one answer', async () => {
    // Votes are written by the same model: to a question's prompt each question its own answer, and later the same to all.
    let collapsed = false;
    engine.current = fakeEngine(model, {
      write: (prompt, sample) => {
        const question = /key(\d[a-d])\?\nAnswer:/.exec(prompt)?.[1];
        if (question) return collapsed ? 'yes' : `fact${question}`;
        return honest(byIndex.get(/T\d/.exec(prompt)![0])!, sample, policy.version);
      },
    });
    const labels = { samples: 4, replace: 'paying' as const };
    const update: Algorithm['update'] = async () => {
      policy.version += 1;
      collapsed = policy.version > 1;
      return {};
    };
    const results = await play(
      {},
      { labels, contextsPerRound: 3, rounds: 4, algorithm: { ...algorithm, update } },
    );
    expect(results.map(({ guards }) => guards.figures.votes?.labels)).toEqual([6, 6, 1, 1]);
    expect(results.map(({ guards }) => guards.figures.collapse)).toEqual([0, 0, 1, 1]);
    // Two rounds in a row say so.
    expect(alarmsOf(results)).toEqual([[], [], [], ['collapse']]);
    expect(results[3]!.guards.alarms[0]!.message).toMatch(/the votes collapse: 100 % agree.*"yes" for 100 %/);
    // As a resumed run sees it.
    const history = JSON.parse(JSON.stringify(results.slice(0, 3))) as typeof results;
    policy.version = 3;
    const guardHistory = history.map(({ guards }) => guards.figures);
    const [resumed] = await play({}, { labels, contextsPerRound: 3, startRound: 3, rounds: 4, guardHistory });
    expect(alarmsOf([resumed!])).toEqual([['collapse']]);
  });

  it('can be switched off one by one, or moved', async () => {
    write = (context) => honest(context, 0);
    expect(alarmsOf(await play({ sameContext: false }))).toEqual([[]]);
    expect(alarmsOf(await play({ otherContext: 0.001 }))).toEqual([['sameContext']]);
  });

  it('end the loop before anything is learnt from the round', async () => {
    write = (context, sample, round) => honest(context, round === 2 ? 0 : sample, round);
    for (const onAlarm of ['stop', 'rollback'] as const) {
      policy.version = 0;
      updates = 0;
      const results = await play({ onAlarm }, { rounds: 5 });
      expect(results.map(({ halted }) => halted)).toEqual([undefined, undefined, onAlarm]);
      expect(updates).toBe(2);
      expect(results[2]!.update).toEqual({});
    }
    // Report goes on.
    policy.version = 0;
    expect(await play({}, { rounds: 5 })).toHaveLength(5);
  });

  it('stand in the closing table with their largest value, limit and alarms', async () => {
    write = (context, sample, round) => honest(context, round === 1 ? 0 : sample, round);
    const results = await play({}, { rounds: 3 });
    const journal = JSON.parse(JSON.stringify(results)) as RoundResult[];
    const summary = summarizeGuards(journal, guardOptions({ overlap: false }));
    expect(summary.find(({ guard }) => guard === 'sameContext')).toEqual({
      ...{ guard: 'sameContext', largest: 1, limit: 0.8, alarms: [1] },
    });
    const lines = guardLines(summary);
    expect(lines).toHaveLength(7);
    expect(lines[1]).toMatch(/likeness of edits of one context +1\.00 +limit 0\.8 +ALARM in round 2/);
    expect(lines[0]).toMatch(/paying questions held by edits +0\.00 +off$/);
    // As it is read back from comparison.json.
    expect(guardLines(JSON.parse(JSON.stringify(summary)) as typeof summary)).toEqual(lines);
  });

  it('refuse limits that are none', () => {
    for (const [given, message] of [
      [{ gap: 0 }, 'guards gap is 0; expected a positive number, or false'],
      [{ editKl: Number.NaN }, 'guards editKl is NaN'],
      [{ window: 0 }, 'guards window is 0'],
      [{ onAlarm: 'panic' }, 'guards onAlarm is "panic"; expected report, stop or rollback'],
    ] as [Partial<GuardOptions>, string][]) {
      expect(() => guardOptions(given)).toThrow(message);
    }
  });
});

describe('texts', () => {
  it('share runs of words, whatever their case and punctuation', () => {
    expect([...wordRuns('One, two – THREE four.', 3)]).toEqual(['one two three', 'two three four']);
    expect([...wordRuns('One.', 3)]).toEqual(['one']);
    expect(wordRuns(' … ', 3).size).toBe(0);
    expect(similarity(wordRuns('a b c d', 2), wordRuns('b c d e', 2))).toBe(2 / 4);
    expect(similarity(wordRuns('', 2), wordRuns('a', 2))).toBe(0);
    expect(holdsPhrase('The Old-Norse word.', 'old norse')).toBe(true);
    expect(holdsPhrase('Threefold norse', 'old norse')).toBe(false);
    expect(holdsPhrase('x', '…')).toBe(false);
  });

  const asked = (question: string, answer: string) => [{ id: 'q', question, answers: [answer] }];
  const passage = { title: 'Rivers', context: 'The Volga is the longest river in Europe.' };

  it('copy a question when they hold its words in order, and only if the passage does not', () => {
    const question = 'How long is the river that Russians call mother?';
    expect(copiedShare(`Q: ${question} A: very`, asked(question, '3,531 km'), passage)).toBe(1);
    expect(
      copiedShare('How long is the river that Russians like?', asked(question, '3,531 km'), passage),
    ).toBe(0);
    expect(
      copiedShare('It is the longest river in Europe', asked('the longest river in Europe', 'x'), passage),
    ).toBe(0);
    expect(copiedShare('Who? Nobody knows who', asked('Who?', 'nobody at all'), passage)).toBe(1);
  });

  it('hold an answer when it is long enough and not in the passage', () => {
    expect(
      copiedShare('It has 3,531 km.', asked('How long is the river at its end?', '3531 km'), passage),
    ).toBe(0);
    expect(
      copiedShare('It has 3,531 km.', asked('How long is the river at its end?', '3,531 km'), passage),
    ).toBe(1);
    expect(copiedShare('The Volga.', asked('Which is the river that they mean?', 'Volga'), passage)).toBe(0);
    expect(copiedShare('Yes, two.', asked('How many of them did they count?', 'two'), passage)).toBe(0);
    expect(copiedShare('Anything.', [], passage)).toBe(0);
  });
});
