import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { adapt } from '../../lib/adapt.js';
import { Delta } from '../../lib/delta.js';
import { applyEdits } from '../../lib/edit/apply.js';
import type { Fork } from '../../lib/fork.js';
import type { Model } from '../../lib/model.js';
import { deriveKey } from '../../lib/random.js';
import { forgettingOf } from '../../lib/reward/forgetting.js';
import { ask } from '../../lib/reward/measure.js';
import { QUESTION_TEMPLATE } from '../../lib/reward/question.js';
import { runStream, type StreamOptions } from '../../lib/stream.js';
import { knowledge } from '../../lib/task/knowledge.js';
import { sequencesOf } from '../../lib/task/stream.js';
import type { TaskContext } from '../../lib/task/task.js';
import { bits, deltaOf, failureOf } from '../support/tiny.js';
import { tinyModel } from './helpers/tiny-model.js';

const COLOURS = ['red', 'blue', 'green', 'white', 'black', 'brown'];
const contextOf = (index: number): TaskContext => ({
  id: `c${index}`,
  title: `Gate ${index}`,
  context: `Gate ${index} is ${COLOURS[index]}.`,
  task: '',
  paying: [{ id: `${index}.0`, question: 'Which colour?', answers: [COLOURS[index]!] }],
  report: [{ id: `${index}.1`, question: 'What colour has it?', answers: [COLOURS[index]!] }],
});
const contexts = COLOURS.map((_, index) => contextOf(index));
/** A document that answers the paying question of a context. */
const lesson = ({ title, paying }: TaskContext, answer = paying[0]!.answers[0]!) =>
  QUESTION_TEMPLATE.base.replace('{title}', title).replace('{question}', paying[0]!.question) + answer;

const REWARD = { measure: 'likelihood', form: 'base' } as const;
const ADAPT = { rank: 4, alpha: 16, epochs: 12, learningRate: 2e-2, targets: ['all'] } as const;

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

const run = (sequences: StreamOptions['sequences'], more: Partial<StreamOptions> = {}) =>
  runStream({
    ...{ parent, sequences, reward: REWARD, adapt: ADAPT, seed: 3 },
    edit: (_, context) => [{ documents: [lesson(context), context.context] }],
    ...more,
  });

/** Scores of a fork on the questions of one kind, asked apart from everything else. */
async function scoresOf(
  fork: Fork,
  some: readonly TaskContext[],
  kind: 'paying' | 'report',
): Promise<number[]> {
  const rows = some.map((context) => ({ fork, title: context.title, question: context[kind][0]! }));
  const answered = await ask(rows, { tokenizer: model.tokenizer, measures: ['likelihood'], form: 'base' });
  return answered.map(({ scores }) => scores.likelihood!);
}

describe('a stream', () => {
  it('gives the matrix that edits made one at a time give, whatever other streams there are', async () => {
    const sequences = [contexts.slice(0, 3), contexts.slice(3, 5)];
    const results = await run(sequences);
    expect(results.map(({ contexts: ids }) => ids)).toEqual([
      ['c0', 'c1', 'c2'],
      ['c3', 'c4'],
    ]);
    await using fork = parent.fork();
    const { paying, report } = results[0]!.scores.likelihood!;
    expect(paying.map((row) => row.length)).toEqual([3, 3, 3, 3]);
    for (let edits = 0; edits <= 3; edits++) {
      if (edits > 0) {
        const context = contexts[edits - 1]!;
        const [made] = await adapt(
          [
            {
              fork,
              documents: [lesson(context), context.context].map((text) => model.tokenizer.encode(text)),
              seed: deriveKey(3, 'stream', [0, edits - 1, 0]),
            },
          ],
          ADAPT,
        );
        fork.apply(made!.delta);
      }
      for (const [kind, matrix] of Object.entries({ paying, report })) {
        const expected = await scoresOf(fork, sequences[0]!, kind as 'paying' | 'report');
        for (const [j, value] of expected.entries()) expect(matrix[edits]![j]).toBeCloseTo(value, 5);
      }
    }
    // Each edit teaches its own context.
    for (const j of [0, 1, 2]) expect(paying[j + 1]![j]).toBeGreaterThan(paying[j]![j]! + 0.5);
    const [alone] = await run([sequences[0]!]);
    expect(alone).toEqual(results[0]);
    expect(parent.depth).toBe(0);
  });

  it('keeps more of the first context with replay, and with training on all documents anew', async () => {
    const first = async (more: Partial<StreamOptions>) => {
      const [{ scores, steps }] = (await run([contexts.slice(0, 4)], more)) as [
        Awaited<ReturnType<typeof run>>[0],
      ];
      return { kept: scores.likelihood!.paying.at(-1)![0]!, steps };
    };
    const none = await first({});
    const replay = await first({ replay: 4 });
    const joint = await first({ trainOn: 'joint' });
    expect(replay.kept).toBeGreaterThan(none.kept + 0.1);
    expect(joint.kept).toBeGreaterThan(none.kept + 0.1);
    expect(none.steps.map(({ documents, replayed }) => [documents, replayed])).toEqual([
      [2, 0],
      [2, 0],
      [2, 0],
      [2, 0],
    ]);
    expect(replay.steps.map(({ documents, replayed }) => [documents, replayed])).toEqual([
      [2, 0],
      [4, 2],
      [6, 4],
      [6, 4],
    ]);
    expect(joint.steps.map(({ steps }) => steps)).toEqual([24, 48, 72, 96]);
  });

  it('trains apart from the parent and adds up, scaled, or anew from all documents', async () => {
    const two = contexts.slice(0, 2);
    const seeds = [0, 1].map((step) => deriveKey(3, 'stream', [0, step, 0]));
    const edits = two.map((context, step) => ({
      documents: [lesson(context), context.context],
      seed: seeds[step]!,
    }));
    const [sum] = await run([two], { trainOn: 'parent', scale: 0.5 });
    const copies = await applyEdits(parent, edits, ADAPT);
    await using added = parent.fork();
    for (const { delta } of copies) added.apply(delta!, { scale: 0.5 });
    expect(sum!.scores.likelihood!.paying[2]).toEqual(await scoresOf(added, two, 'paying'));
    const [joint] = await run([two], { trainOn: 'joint' });
    const all = { documents: edits.flatMap(({ documents }) => documents), seed: seeds[1]! };
    const [together] = await applyEdits(parent, [all], ADAPT);
    expect(joint!.scores.likelihood!.paying[2]).toEqual(await scoresOf(together!.fork, two, 'paying'));
    for (const copy of [...copies, together!]) await copy.close();
  });

  it('takes the passage alone where the caller gives no edits, and weight edits as they are', async () => {
    const [plain] = await runStream({
      parent,
      sequences: [contexts.slice(0, 1)],
      reward: REWARD,
      adapt: ADAPT,
    });
    expect(plain!.steps[0]).toMatchObject({
      context: 'c0',
      chosen: 0,
      scale: 1,
      documents: 1,
      steps: 12,
      candidates: [],
    });
    const delta = deltaOf(model);
    await using fork = parent.fork().apply(delta);
    let closed = 0;
    const edit = () => [{ edit: { delta } as never, close: async () => void closed++ }];
    const [weights] = await run([contexts.slice(0, 1)], { edit });
    expect(weights!.scores.likelihood!.paying[1]).toEqual(
      await scoresOf(fork, contexts.slice(0, 1), 'paying'),
    );
    expect(closed).toBe(1);
    await delta.close();
  });
});

describe('the gate', () => {
  // Right about its own context and the earlier ones; wrong about the first one, and teaching its own one or not.
  const good = (step: number) => contexts.slice(0, step + 1).map((context) => lesson(context));
  const wrong = Array.from({ length: 4 }, () => lesson(contexts[0]!, 'purple'));
  const planting =
    (document: (context: TaskContext) => string): NonNullable<StreamOptions['edit']> =>
    (_, context, { step }) => [{ documents: step === 1 ? [...wrong, document(context)] : good(step) }];
  const edit = planting(({ context }) => context);
  const dear = planting((context) => lesson(context));

  it('refuses a planted harmful edit, passes good ones, and says by which numbers', async () => {
    const [open] = await run([contexts.slice(0, 3)], { edit });
    const [gated] = await run([contexts.slice(0, 3)], { edit, gate: { scales: [1, 0.5] } });
    expect(gated!.steps.map(({ scale }) => scale)).toEqual([1, 0, 1]);
    const { paying } = gated!.scores.likelihood!;
    expect(paying[2]).toEqual(paying[1]);
    expect(paying[2]![0]).toBeGreaterThan(open!.scores.likelihood!.paying[2]![0]! + 1);
    // The numbers of the refusal are those of the same edit in the open stream.
    const [attempt, half] = gated!.steps[1]!.attempts;
    const before = open!.scores.likelihood!.paying;
    expect(attempt!.gain).toBeCloseTo(before[2]![1]! - before[1]![1]!, 6);
    expect(attempt!.cost).toBeCloseTo(before[1]![0]! - before[2]![0]!, 6);
    expect(attempt!.cost).toBeGreaterThan(attempt!.gain);
    expect([attempt!.passed, half!.scale, half!.passed]).toEqual([false, 0.5, false]);
    expect(gated!.steps[2]!.attempts).toHaveLength(1);
  });

  it('scales an edit down until its cost is paid for, and counts the KL where told to', async () => {
    const tried = async (lambda: number) => {
      const [stream] = await run([contexts.slice(0, 2)], {
        edit: dear,
        gate: { lambda, scales: [1, 0.3, 0.1] },
      });
      return stream!.steps[1]!;
    };
    const { attempts, scale: none } = await tried(0);
    const [whole, third, tenth] = attempts.map(({ cost, gain }) => cost / gain) as [number, number, number];
    expect([whole > third, third > tenth, tenth > 0, none]).toEqual([true, true, true, 0]);
    // λ between two prices: it passes at the first scale that is cheap enough, and this is what is applied.
    expect((await tried((whole + third) / 2)).scale).toBe(0.3);
    expect((await tried((third + tenth) / 2)).scale).toBe(0.1);
    expect((await tried(2 * whole)).scale).toBe(1);
    const retention = ['The sea is deep.'];
    const [costly] = await run([contexts.slice(0, 1)], { edit, retention, gate: { beta: 1e6, scales: [1] } });
    const { kl, cost, passed } = costly!.steps[0]!.attempts[0]!;
    expect(kl).toBeGreaterThan(0);
    expect(cost).toBeCloseTo(1e6 * kl, 3);
    expect(passed).toBe(false);
  });

  it('refuses what cannot be judged: an invalid edit, and one that overflows', async () => {
    const broken = Delta.fromFactors(model, [
      {
        matrix: 0,
        rank: 1,
        scale: 1,
        a: new Float32Array(32).fill(3e38),
        b: new Float32Array(32).fill(3e38),
      },
    ]);
    const bad: StreamOptions['edit'] = (_, context, { sequence }) => [
      sequence === 0
        ? { documents: ['x y'], invalid: 'empty' }
        : sequence === 1
          ? { edit: { delta: broken } as never }
          : { documents: [lesson(context)] },
    ];
    const sequences = [[contexts[0]!], [contexts[1]!], [contexts[2]!]];
    const results = await run(sequences, { edit: bad, gate: { scales: [1] } });
    expect(results.map(({ steps }) => steps[0]!.scale)).toEqual([0, 0, 1]);
    expect(results[0]!.steps[0]!.chosen).toBeUndefined();
    expect(results[1]!.steps[0]!.attempts[0]!.gain).toBeNaN();
    // Without the gate the broken stream has unknown scores, and the one beside it its own.
    const open = await run(sequences, { edit: bad });
    expect(open[1]!.scores.likelihood!.paying[1]![0]).toBeNaN();
    expect(open[2]!.scores).toEqual(results[2]!.scores);
    await broken.close();
  });
});

describe('the choice among candidates', () => {
  it('weighs what earlier contexts lose by λ', async () => {
    // One candidate learns more, the other leaves the first context alone.
    const candidates: StreamOptions['edit'] = (_, context, { step }) =>
      step === 0
        ? [{ documents: [lesson(context)] }]
        : [
            {
              documents: [
                ...Array.from({ length: 3 }, () => lesson(contexts[0]!, 'purple')),
                ...Array.from({ length: 4 }, () => lesson(context)),
              ],
            },
            { documents: [lesson(contexts[0]!), lesson(context)] },
          ];
    const of = async (forgetting: number) =>
      (await run([contexts.slice(0, 2)], { edit: candidates, forgetting }))[0]!;
    const greedy = await of(0);
    const careful = await of(1);
    const [wild, mild] = greedy.steps[1]!.candidates;
    expect(wild!.gain).toBeGreaterThan(mild!.gain);
    expect(wild!.forgetting).toBeGreaterThan(mild!.forgetting);
    expect([greedy.steps[1]!.chosen, careful.steps[1]!.chosen]).toEqual([0, 1]);
    expect(careful.steps[1]!.candidates[0]!.reward).toBeCloseTo(wild!.gain - wild!.forgetting, 10);
    const [before, after] = greedy.scores.likelihood!.paying.slice(1) as [number[], number[]];
    expect(wild!.gain).toBeCloseTo(after[1]! - before[1]!, 6);
    expect(wild!.forgetting).toBeCloseTo(before[0]! - after[0]!, 6);
  });
});

describe('a task that examines in its own way', () => {
  it('is asked by streams and for forgetting, by its own measure', async () => {
    // Depth of the fork, weighed by the context: known without asking.
    const examine: NonNullable<NonNullable<StreamOptions['reward']>['examine']> = async (rows) =>
      rows.map(({ fork, context }) => {
        const depth = 'depth' in fork ? fork.depth : 0;
        const scores = { depth: context.id === 'c1' ? depth : -depth };
        return {
          paying: context.paying.map(() => ({ scores })),
          report: context.report.map(() => ({ scores })),
        };
      });
    const reward = { measure: 'depth', examine };
    const [stream] = await run([contexts.slice(0, 2)], { reward, gate: { lambda: 1 } });
    // The first edit would cost its own context; the second one brings 1 and costs the first context 1.
    expect(stream!.steps.map(({ scale }) => scale)).toEqual([0, 1]);
    expect(stream!.steps[1]!.attempts[0]).toMatchObject({ gain: 1, cost: 1, passed: true });
    expect(stream!.scores.depth!.report).toEqual([
      [0, 0],
      [0, 0],
      [-1, 1],
    ]);
    await using deep = parent.fork().apply(deltaOf(model));
    expect(await forgettingOf([deep], parent, contexts.slice(0, 2), { ...reward, clipDrops: false })).toEqual(
      [0],
    );
    expect(await forgettingOf([deep], parent, contexts.slice(0, 2), reward)).toEqual([0.5]);
  });
});

describe('forgetting in the reward', () => {
  it('is the mean drop on the paying questions of earlier contexts', async () => {
    const earlier = contexts.slice(0, 3);
    const copies = await applyEdits(
      parent,
      [
        { documents: earlier.slice(0, 2).map((context) => lesson(context)) },
        { documents: [lesson(contexts[0]!, 'purple')] },
      ],
      ADAPT,
    );
    const forks = copies.map(({ fork }) => fork);
    const [before, ...after] = await Promise.all(
      [parent, ...forks].map((fork) => scoresOf(fork, earlier, 'paying')),
    );
    const mean = (values: number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
    const raw = await forgettingOf(forks, parent, earlier, {
      ...REWARD,
      clipDrops: false,
      report: ['recall'],
    });
    const clipped = await forgettingOf(forks, parent, earlier, REWARD);
    for (const [index, scores] of after.entries()) {
      const drops = scores.map((score, j) => before![j]! - score);
      expect(drops.some((drop) => drop < 0)).toBe(true);
      expect(raw[index]).toBeCloseTo(mean(drops), 5);
      expect(clipped[index]).toBeCloseTo(mean(drops.map((drop) => Math.max(0, drop))), 5);
    }
    const baselines = before!.map((likelihood) => ({ paying: [{ scores: { likelihood } }] }));
    expect(await forgettingOf(forks, parent, earlier, { ...REWARD, clipDrops: false, baselines })).toEqual(
      raw,
    );
    expect(await forgettingOf(forks, parent, [], REWARD)).toEqual([0, 0]);
    const deaf = { ...contexts[0]!, paying: [] };
    expect((await failureOf(forgettingOf(forks, parent, [deaf], REWARD))).message).toMatch(
      /earlier context 0 has no paying/,
    );
    const fewer = forgettingOf(forks, parent, earlier, { ...REWARD, baselines: [] });
    expect((await failureOf(fewer)).message).toMatch(/0 baselines for 3 earlier contexts/);
    for (const copy of copies) await copy.close();
  });
});

describe('bad input', () => {
  const quiet = { ...contexts[0]!, paying: [], report: [] };
  const reportOnly = { ...contexts[0]!, paying: [] };
  it.each<[Partial<StreamOptions>, RegExp]>([
    [{ sequences: [] }, /there is no stream; expected at least one/],
    [{ sequences: [contexts, []] }, /stream 1 has no context/],
    [{ sequences: [[contexts[0]!, quiet]] }, /context 1 of stream 0 has no question/],
    [
      { sequences: [[reportOnly]], gate: {} },
      /context 0 of stream 0 has no paying question; expected at least one for the gate/,
    ],
    [{ edit: () => [] }, /no edit for context 0 of stream 0/],
    [{ replay: 1.5 }, /replay is 1.5; expected a whole number/],
    [{ forgetting: -1 }, /forgetting is -1; expected a number of at least 0/],
    [{ scale: Number.NaN }, /scale is NaN; expected a finite number/],
    [{ gate: { scales: [] } }, /gate scales are \[\]; expected at least one/],
    [{ gate: { scales: [1, 0] } }, /gate scales are \[1, 0\]/],
    [{ gate: { lambda: -1 } }, /gate lambda is -1/],
    [{ gate: { beta: 1 } }, /gate beta is set but there is no retention text/],
  ])('%j is refused', async (more, message) => {
    expect((await failureOf(run([contexts.slice(0, 1)], more))).message).toMatch(message);
  });

  it('of parents and edits that do not fit is refused', async () => {
    const failure = await failureOf(applyEdits([parent], [{ documents: ['a b'] }, { documents: ['a b'] }]));
    expect(failure.message).toMatch(/1 parents for 2 edits; expected one an edit/);
  });
});

describe('streams of a task', () => {
  const passages = Array.from({ length: 30 }, (_, index) => ({
    title: `T${index}`,
    context: `C${index}.`,
    questions: [
      { question: 'Q?', answers: ['A'] },
      { question: 'R?', answers: ['B'] },
    ],
  }));
  it('are the same for a seed whoever asks, in whatever order and shape, and hold every context once', () => {
    const make = () => knowledge(passages, { seed: 9, evaluation: 2 });
    const task = make();
    task.contexts(3, 5);
    const all = sequencesOf(task, { sequences: 6, length: 4 });
    expect(all).toEqual(sequencesOf(make(), { sequences: 6, length: 4 }));
    expect(all.flat()).toEqual(sequencesOf(make(), { sequences: 3, length: 8 }).flat());
    expect(all.slice(0, 2)).toEqual(sequencesOf(make(), { sequences: 2, length: 4 }));
    expect(new Set(all.flat().map(({ id }) => id)).size).toBe(24);
    expect(all.flat()).not.toEqual(
      sequencesOf(knowledge(passages, { seed: 8, evaluation: 2 }), { sequences: 6, length: 4 }).flat(),
    );
    expect(() => sequencesOf(task, { sequences: 5, length: 5 })).toThrow(
      /24 different contexts; 5 streams of 5 need 25/,
    );
    expect(() => sequencesOf(task, { sequences: 0, length: 5 })).toThrow(/sequences is 0/);
  });
});

it('bits of forks are untouched by a stream', async () => {
  const before = bits(await parent.weight(0));
  await run([contexts.slice(0, 2)]);
  expect(bits(await parent.weight(0))).toBe(before);
});
