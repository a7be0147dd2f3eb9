import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  adapt,
  collapseAlarm,
  type Fork,
  generate,
  type Model,
  majority,
  majorityLabels,
  renderQuestion,
  type TaskContext,
  type VoteFigures,
  voteFigures,
} from '../../lib/index.js';
import { count } from '../../lib/reward/majority.js';
import { failureOf } from '../support/tiny.js';
import { tinyModel } from './helpers/tiny-model.js';

describe('the vote over samples', () => {
  it('groups answers as SQuAD compares them and takes the largest group', () => {
    const vote = count(['Ada.', 'the Ada', '', 'Charles', 'ada', ' ', 'Ada.', '...']);
    expect(vote).toMatchObject({
      label: 'Ada.',
      agreement: 4 / 8,
      unanswered: 3,
      groups: [
        { answer: 'Ada.', normalized: 'ada', count: 4 },
        { answer: 'Charles', normalized: 'charles', count: 1 },
      ],
      rewards: [1, 1, 0, 0, 1, 0, 1, 0],
    });
    expect(vote.entropy).toBeCloseTo(-(0.8 * Math.log(0.8) + 0.2 * Math.log(0.2)), 12);
  });

  it('breaks ties by the first sample, and knows nothing where nobody answers', () => {
    expect(count(['y', 'x', 'x', 'y']).label).toBe('y');
    expect(count(['x', 'y', 'x', 'y'])).toMatchObject({ label: 'x', agreement: 0.5, entropy: Math.log(2) });
    expect(count(['', '.'])).toMatchObject({
      label: undefined,
      agreement: 0,
      entropy: Number.NaN,
      groups: [],
      unanswered: 2,
      rewards: [0, 0],
    });
  });

  it('takes the A of a multiple choice for an answer, though SQuAD drops articles', () => {
    expect(count(['A', 'a.', 'B', '…'])).toMatchObject({
      label: 'A',
      groups: [{ count: 2 }, { count: 1 }],
      unanswered: 1,
    });
  });

  it('reads answers by the caller’s own rules', () => {
    const read = (text: string) => /boxed\{(.*?)\}/.exec(text)?.[1];
    const texts = ['so boxed{1.5}', 'boxed{15}', 'boxed{1.5} then', '1.5'];
    expect(count(texts, { read, normalize: (answer) => answer })).toMatchObject({
      label: '1.5',
      agreement: 0.5,
      unanswered: 1,
    });
    // SQuAD's form drops the point.
    expect(count(texts, { read }).agreement).toBe(0.75);
  });
});

// Eight questions, for a model that has been taught an answer to each, and for one that answers all alike.
const things = ['iron', 'wool', 'salt', 'silver', 'glass', 'amber', 'cedar', 'clay'];
const contexts: TaskContext[] = things.map((thing, index) => ({
  id: `c${index}`,
  title: '',
  context: `They trade ${thing}.`,
  task: 'T.',
  paying: [{ id: `q${index}`, question: `${index}${index}?`, answers: [] }],
  report: [{ id: `r${index}`, question: `Known ${index}?`, answers: ['gold'] }],
}));
const form = 'base' as const;
const options = { form, samples: 16, maxTokens: 8, seed: 3 };

let model: Model;
let sure: Fork;
let constant: Fork;

/** A fork that was trained to answer question i by answers[i], until it is sure. */
async function taught(answers: readonly string[]): Promise<Fork> {
  const { tokenizer } = model;
  const documents = contexts.map(({ paying: [question] }, index) => {
    const prompt = renderQuestion({ title: '', question: question!.question }, tokenizer, form);
    const answer = tokenizer.encode(`${answers[index]}\n`, { specialTokens: false });
    return Int32Array.of(...prompt, ...answer);
  });
  const matrices = [
    'q_proj',
    'k_proj',
    'v_proj',
    'o_proj',
    'gate_proj',
    'up_proj',
    'down_proj',
    'embed_tokens',
  ];
  const inner = {
    rank: 32,
    alpha: 64,
    epochs: 150,
    batchSize: 8,
    learningRate: 1e-2,
    targets: matrices,
    seed: 1,
  };
  const [adapted] = await adapt([{ fork: model, documents }], inner);
  return model.fork().apply(adapted!.delta);
}

beforeAll(async () => {
  model = await tinyModel();
  sure = await taught(things);
  constant = await taught(things.map(() => 'amber'));
});
afterAll(async () => {
  for (const fork of [sure, constant]) await fork?.close();
  await model.close();
});

describe('a model that votes', () => {
  it('counts what its own samples say, the same whatever else is in the call', async () => {
    const rows = contexts.map(({ id, paying: [question] }) => ({
      fork: model,
      id,
      title: '',
      question: question!.question,
    }));
    const all = await majority(rows, options);
    expect(all.map(({ texts }) => texts.length)).toEqual(rows.map(() => 16));
    for (const vote of all) expect(vote).toEqual(count(vote.texts));
    const some = await majority([rows[5]!, rows[2]!], options);
    expect(some).toEqual([all[5], all[2]]);
    expect(await majority(rows.slice(0, 1), { ...options, seed: 4 })).not.toEqual([all[0]]);
    // A ready prompt is the same question.
    const prompt = renderQuestion({ title: '', question: '00?' }, model.tokenizer, form);
    expect(await majority([{ fork: model, id: 'c0', prompt }], options)).toEqual([all[0]]);
    // The samples are those of generate.
    const direct = await generate([{ fork: model, prompt, samples: 500, seed: 9 }], {
      maxTokens: 1,
      stop: ['\n'],
    });
    const ours = await majority([{ fork: model, prompt }], { ...options, samples: 500, maxTokens: 1 });
    const frequency = (texts: readonly string[], text: string) =>
      texts.filter((one) => one === text).length / 500;
    for (const { answer } of ours[0]!.groups.slice(0, 3)) {
      const gap =
        frequency(ours[0]!.texts, answer) -
        frequency(
          direct.map(({ text }) => text),
          answer,
        );
      // Five standard deviations of the difference of two shares of 500.
      expect(Math.abs(gap)).toBeLessThan(5 * Math.sqrt(0.5 / 500));
    }
  });

  it('labels questions that have no answer, and only those', async () => {
    const { contexts: found, votes, unlabelled, dropped } = await majorityLabels(sure, contexts, options);
    expect(found.map(({ paying }) => paying[0]!.answers)).toEqual(things.map((thing) => [thing]));
    expect(found.map(({ report }) => report)).toEqual(contexts.map(({ report }) => report));
    expect(votes.map(({ context, id }) => `${context} ${id}`)).toEqual(contexts.map((_, i) => `c${i} q${i}`));
    expect({ unlabelled, dropped }).toEqual({ unlabelled: 0, dropped: [] });
    // As in SRT: what pays is voted on even where an answer is known.
    const known = contexts.map((context) => ({
      ...context,
      paying: context.paying.map((question) => ({ ...question, answers: ['lead'] })),
    }));
    expect((await majorityLabels(sure, known, options)).votes).toEqual([]);
    expect(await majorityLabels(sure, known, { ...options, replace: 'paying' })).toEqual({
      contexts: found,
      votes,
      unlabelled,
      dropped,
    });
  });

  it('leaves out what too few agree on', async () => {
    const {
      contexts: found,
      unlabelled,
      dropped,
    } = await majorityLabels(model, contexts, {
      ...options,
      leastAgreement: 0.99,
    });
    expect(unlabelled).toBe(8);
    expect(found).toEqual([]);
    expect(dropped).toEqual(contexts.map(({ id }) => id));
  });

  it('shows the passage to a voter with the book open', async () => {
    const [row] = contexts;
    const open = await majorityLabels(model, [row!], { ...options, openBook: true });
    const prompt = renderQuestion({ title: '', question: `They trade iron.\n\n00?` }, model.tokenizer, form);
    const [vote] = await majority([{ fork: model, id: '["c0","q0"]', prompt }], options);
    expect(open.votes[0]).toMatchObject({ ...vote });
    const closed = await majorityLabels(model, [row!], options);
    expect(open.votes[0]!.texts).not.toEqual(closed.votes[0]!.texts);
  });

  it.each([
    [{ samples: 0 }, /samples is 0/],
    [{ temperature: 0 }, /temperature is 0/],
    [{ replace: 'none' as 'missing' }, /replace is "none"; expected missing or paying/],
    [{ leastAgreement: 2 }, /leastAgreement is 2/],
  ])('refuses %j', async (given, says) => {
    const error = await failureOf(majorityLabels(model, contexts, { ...options, ...given }));
    expect(error).toMatchObject({ code: 'OPTION_INVALID', message: expect.stringMatching(says) });
  });
});

describe('the collapse alarm', () => {
  const round = async (voter: Fork | Model, seed = 3) =>
    voteFigures((await majorityLabels(voter, contexts, { ...options, seed })).votes);

  it('is raised by a model that has learnt one answer to all questions, not by one that has learnt their answers', async () => {
    const start = await round(model);
    const healthy = [start, await round(sure, 4), await round(sure, 5)];
    const collapsed = [start, await round(constant, 4), await round(constant, 5)];
    expect(start.agreement).toBeLessThan(0.5);
    expect(start.diversity).toBeGreaterThan(0.6);
    expect(healthy.at(-1)).toMatchObject({ questions: 8, labels: 8, diversity: expect.closeTo(1, 9) });
    // As sure of itself as the other, so that agreement alone would not tell them apart.
    expect(healthy.at(-1)!.agreement).toBeGreaterThan(0.9);
    expect(collapsed.at(-1)).toMatchObject({
      labels: 1,
      diversity: 0,
      commonest: { label: 'amber', share: 1 },
    });
    const alarms = (history: readonly VoteFigures[]) =>
      history.map((_, n) => collapseAlarm(history.slice(0, n + 1)));
    expect(alarms(healthy)).toEqual([undefined, undefined, undefined]);
    const raised = alarms(collapsed);
    expect(raised.slice(0, 2)).toEqual([undefined, undefined]);
    expect(raised[2]).toMatch(
      /^the votes collapse: \d+ % agree.*1 labels for 8 questions; "amber" for 100 %\)$/,
    );
  });

  const figures = (agreement: number, diversity: number, questions = 10): VoteFigures => ({
    questions,
    labels: 2,
    agreement,
    diversity,
    commonest: { label: 'yes', share: 0.5 },
  });

  it('needs agreement and a fall, in rounds that follow each other, over enough questions', () => {
    const first = figures(0.4, 0.8);
    const bad = figures(0.95, 0.3);
    expect(collapseAlarm([])).toBeUndefined();
    expect(collapseAlarm([first, bad])).toBeUndefined();
    expect(collapseAlarm([first, bad, bad])).toMatch(/collapse/);
    expect(collapseAlarm([first, bad], { rounds: 1 })).toMatch(/collapse/);
    expect(collapseAlarm([first, bad, figures(0.95, 0.5), bad])).toBeUndefined();
    expect(collapseAlarm([first, bad, figures(0.8, 0.1)])).toBeUndefined();
    expect(collapseAlarm([first, ...[bad, bad].map((one) => ({ ...one, questions: 4 }))])).toBeUndefined();
    // Yes or no from the start is no fall.
    const narrow = figures(0.99, 0.3);
    expect(collapseAlarm([narrow, narrow, narrow])).toBeUndefined();
    expect(collapseAlarm([narrow, narrow, narrow], { reference: 1 })).toMatch(/collapse/);
    expect(collapseAlarm([first, bad, bad], { reference: 0.3 })).toBeUndefined();
  });

  it('counts a question once, however many forks vote on it, and those without a label not at all', () => {
    const vote = (question: string, ...texts: string[]) => ({ ...count(texts), question });
    const one = [vote('a', 'x', 'x'), vote('b', 'y', 'z'), vote('c', '', '')];
    const expected = { questions: 2, labels: 2, agreement: (1 + 0.5) / 3, diversity: 1 };
    expect(voteFigures(one)).toMatchObject(expected);
    expect(voteFigures([...one, ...one])).toMatchObject(expected);
    expect(voteFigures([])).toMatchObject({ questions: 0, agreement: Number.NaN, diversity: Number.NaN });
  });
});
