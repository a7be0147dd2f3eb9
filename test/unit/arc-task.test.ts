// The few-shot task end to end on a tiny model: edits, the inner loop, predictions under all views, scores.
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { tokenizerJson, VOCABULARY } from '../../bench/arc/tokenizer.mjs';
import { applyEdits } from '../../lib/edit/apply.js';
import type { MarkedDocument } from '../../lib/edit/documents.js';
import { editTemplate, renderEditPrompt } from '../../lib/edit/prompts.js';
import type { Fork } from '../../lib/fork.js';
import { generate } from '../../lib/generate.js';
import { Model } from '../../lib/model.js';
import { Policy } from '../../lib/policy.js';
import { score } from '../../lib/score.js';
import { seal } from '../../lib/seal.js';
import { ARC_ADAPT, arcDocuments, arcEdit } from '../../lib/task/arc/edit.js';
import { gradeProblems } from '../../lib/task/arc/grade.js';
import { readGrid } from '../../lib/task/arc/grids.js';
import { fittingPrompt, IDENTITY_VIEW, predictGrids, viewsOf } from '../../lib/task/arc/predict.js';
import { ARC_FORM, promptText, viewProblem } from '../../lib/task/arc/problems.js';
import type { ArcTask } from '../../lib/task/arc/read.js';
import { arc } from '../../lib/task/arc/task.js';
import { inverseTransform, transformGrid } from '../../lib/task/arc/transforms.js';
import { Tokenizer } from '../../lib/tokenizer/tokenizer.js';
import { fakeTokenizer } from './helpers/fake-tokenizer.js';

/** The published form of an edit. */
const directives = (
  { basic = false, size = false, chain = false, repeat = false } = {},
  training: object = { strategy: 'train_using_output_tokens', learning_rate: 0.005, num_train_epochs: 8 },
) =>
  JSON.stringify({
    data_generation: {
      use_basic_augmentations: basic,
      use_size_augmentations: size,
      use_chain_augmentations: chain,
      use_repeat_augmentations: repeat,
    },
    training,
  });

/** Every input becomes its first colour, one cell. */
const task = (id: string, inputs = ['12', '21', '13', '31'], tests = 1): ArcTask => {
  const pair = (cells: string) => ({ input: [Array.from(cells, Number)], output: [[7]] });
  return {
    id,
    demonstrations: inputs.map(pair),
    tests: Array.from({ length: tests }, (_, index) => pair(`4${index}`)),
  };
};
const FORM = { ...ARC_FORM, instruction: '', input: 'I\n', output: '\nO\n', separator: '\n', gap: '' };

let folder: string;
let model: Model;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'selfedit-arc-'));
  await writeFile(join(folder, 'tokenizer.json'), JSON.stringify(tokenizerJson()));
  const tokenizer = await Tokenizer.fromFolder(folder);
  const config = {
    architecture: 'llama',
    vocabSize: VOCABULARY,
    hiddenSize: 32,
    intermediateSize: 48,
    layers: 2,
    heads: 4,
    kvHeads: 2,
    headDim: 8,
    maxPositions: 160,
    rmsEps: 1e-5,
    ropeTheta: 10_000,
    ropeScaling: null,
    qkvBias: false,
    outputBias: false,
    mlpBias: false,
    tied: true,
  } as const;
  model = await Model.random(config, { seed: 3, std: 0.1, tokenizer });
});
afterAll(async () => {
  await model.close();
  await rm(folder, { recursive: true });
});

describe('contexts', () => {
  const tasks = ['a', 'b', 'c'].map((id) => task(id, undefined, 2));

  it('are tasks in keyed orders, pass by pass', () => {
    const few = arc(tasks, { seed: 4 });
    const ids = (round: number, count = 2) => few.contexts(round, count).map(({ id }) => id);
    expect([...ids(0), ...ids(1), ...ids(2)].slice(0, 3).sort()).toEqual(['a', 'b', 'c']);
    expect([...ids(0), ...ids(1), ...ids(2)].slice(3).sort()).toEqual(['a', 'b', 'c']);
    expect(arc(tasks, { seed: 4 }).contexts(5, 3)).toEqual(few.contexts(5, 3));
    expect(ids(0, 9)).toHaveLength(3);
    const orders = Array.from({ length: 20 }, (_, seed) =>
      arc(tasks, { seed })
        .contexts(0, 3)
        .map(({ id }) => id)
        .join(''),
    );
    expect(new Set(orders).size).toBeGreaterThan(2);
  });

  it('pay for the tests of what is trained on, and report about the rest', () => {
    const few = arc(tasks.slice(0, 1), { evaluation: tasks.slice(1), heldOut: 1 });
    const [context] = few.contexts(0, 1);
    expect(context!.title).toBe('a');
    expect(context!.context).toBe(
      'Input:\n1 2\nOutput:\n7\n\nInput:\n2 1\nOutput:\n7\n\nInput:\n1 3\nOutput:\n7',
    );
    expect(context!.paying).toEqual([
      { id: 'a.0', question: '4 0', answers: ['7'] },
      { id: 'a.1', question: '4 1', answers: ['7'] },
    ]);
    expect(context!.report).toEqual([{ id: 'a.train.3', question: '3 1', answers: ['7'] }]);
    expect(few.evaluation.map(({ id, paying, report }) => [id, paying.length, report.length])).toEqual([
      ['b', 0, 2],
      ['c', 0, 2],
    ]);
    // What is held out is not trained on either.
    const { documents } = few.parse(directives(), context!);
    expect(documents.some((document) => (document as MarkedDocument).text.includes('3 1'))).toBe(false);
    expect(few.evaluation[0]!.context).toContain('3 1');
  });

  it.each([
    [[], {}, 'INPUT_INVALID', /there are no ARC tasks/],
    [[task('a'), task('a')], {}, 'INPUT_INVALID', /ARC task a is there twice/],
    [[task('a')], { evaluation: [task('a')] }, 'INPUT_INVALID', /ARC task a is there twice/],
    [
      [{ ...task('a'), tests: [{ input: [[1]] }] }],
      {},
      'INPUT_INVALID',
      /ARC task a has no solution of test 0/,
    ],
    [
      [task('a', ['1', '2'])],
      { heldOut: 1 },
      'INPUT_INVALID',
      /has 2 demonstrations; expected at least 2 besides the 1 held/,
    ],
    [[task('a')], { heldOut: -1 }, 'OPTION_INVALID', /heldOut is -1/],
    [[task('a')], { copies: 0 }, 'OPTION_INVALID', /copies is 0/],
    [[task('a')], { symmetries: [] }, 'OPTION_INVALID', /symmetries are empty/],
    [[task('a')], { symmetries: ['spin' as 'identity'] }, 'OPTION_INVALID', /symmetry is "spin"/],
    [[task('a')], { examples: { leaveOut: [0] } }, 'OPTION_INVALID', /examples are \{"leaveOut":\[0\]\}/],
    [[task('a')], { mostSteps: 0.5 }, 'OPTION_INVALID', /mostSteps is 0.5/],
  ])('of bad input are refused (%#)', (tasks, options, code, message) => {
    expect(() => arc(tasks, options)).toThrow(
      expect.objectContaining({ code, message: expect.stringMatching(message) }),
    );
  });

  it('of another task are refused', async () => {
    const [known] = arc([task('a')]).contexts(0, 1);
    const other = arc([task('b')]);
    expect(() => other.parse(directives(), known!)).toThrow(/context "a" is none of this ARC task/);
    await expect(other.ask([{ fork: model, context: known! }])).rejects.toThrow(/question "a.0" is none/);
  });
});

describe('edits', () => {
  const few = arc([task('a')]);
  const [context] = few.contexts(0, 1);

  it('choose documents, loss, learning rate and epochs', () => {
    const output = { strategy: 'train_using_output_tokens', learning_rate: 0.005, num_train_epochs: 4 };
    const text = directives({ size: true }, output);
    const edit = few.parse(`Sure:\n\`\`\`json\n${text}\n\`\`\``, context!);
    expect(edit.invalid).toBeUndefined();
    expect(edit.directives).toEqual({
      learningRate: 0.005,
      epochs: 4,
      loss: 'output',
      augmentations: ['size'],
    });
    for (const document of edit.documents) {
      const { text, spans } = document as Required<MarkedDocument>;
      expect(spans).toHaveLength(1);
      expect(text.slice(...spans[0]!)).toMatch(/^\d[\d\s]*#$/);
      expect(text.slice(0, spans[0]![0])).toMatch(/Output:\n$/);
    }
    const all = few.parse(
      directives({}, { strategy: 'train_using_all_tokens', learning_rate: 1e-4, num_train_epochs: 1 }),
      context!,
    );
    expect(all.documents.every((document) => typeof document === 'string')).toBe(true);
    // The same switches, the same problems, whatever the rest.
    expect(few.parse(text.replace('0.005', '0.004'), context!).documents).toEqual(edit.documents);
    expect(arc([task('a')], { seed: 1 }).parse(text, context!).documents).not.toEqual(edit.documents);
  });

  it('of more than 375 steps are refused, and steps are counted as published', () => {
    const options = { examples: { most: 250 } };
    const { demonstrations } = task('a', ['12', '21', '13', '31', '23', '32']);
    const edit = (epochs: number) =>
      arcEdit(
        directives(
          { basic: true, size: true, chain: true, repeat: true },
          { strategy: 'train_using_all_tokens', learning_rate: 1e-4, num_train_epochs: epochs },
        ),
        demonstrations,
        1n,
        options,
      );
    // 3 · 250 / 2 = 375
    expect(edit(3)).toMatchObject({ documents: { length: 250 } });
    expect(edit(3).invalid).toBeUndefined();
    expect(edit(4)).toMatchObject({
      documents: [],
      invalid: 'directives-out-of-bounds',
      detail: '4 epochs of 250 training problems are 500 steps; expected at most 375',
    });
    const plain = arcEdit('{"learningRate": 0.001}', demonstrations, 1n, { mostSteps: 1 });
    expect(plain.detail).toMatch(/^2 epochs of \d+ training problems are \d+ steps; expected at most 1$/);
  });

  it.each([
    ['', 'directives-not-json'],
    ['I would train it well.', 'directives-not-json'],
    ['{"data_generation": ', 'directives-not-json'],
    [
      '{"data_generation": {}, "training": {"strategy": "all", "learning_rate": 1, "num_train_epochs": 1}}',
      'directives-out-of-bounds',
    ],
    [
      directives({}, { strategy: 'train_using_all_tokens', learning_rate: 5, num_train_epochs: 1 }),
      'directives-out-of-bounds',
    ],
    [
      directives({}, { strategy: 'train_using_all_tokens', learning_rate: 1e-4, num_train_epochs: 1.5 }),
      'directives-out-of-bounds',
    ],
    ['{"augmentations": ["spin"]}', 'directives-out-of-bounds'],
  ])('that cannot be followed say why: %s', (text, invalid) => {
    expect(few.parse(text, context!)).toMatchObject({ kind: 'text', text, documents: [], invalid });
  });

  it('are asked for by a prompt that shows an edit which can be followed', () => {
    const template = editTemplate(few.template);
    for (const chat of [false, true]) {
      const { text } = renderEditPrompt(template, context!, fakeTokenizer({ chat }));
      expect(text).toContain('Input:\n1 2\nOutput:\n7');
      const shown = /\{"data_generation".*\}\}/.exec(text)![0];
      expect(few.parse(shown, context!)).toMatchObject({
        directives: {
          learningRate: ARC_ADAPT.learningRate,
          epochs: ARC_ADAPT.epochs,
          augmentations: ['basic'],
        },
      });
    }
  });
});

describe('predictions', () => {
  const problem = { demonstrations: task('a').demonstrations, input: [[4, 0]], output: [[7]] };

  it('are what greedy generation under every view gives, undone', async () => {
    const views = viewsOf(4, 9n, { copies: 2 });
    const seen = views.map((view) => viewProblem(problem, view));
    const written = await generate(
      seen.map((view) => ({ fork: model, prompt: promptText(view, FORM), maxTokens: 6 })),
      { temperature: 0, stop: ['#'] },
    );
    const [prediction] = await predictGrids([{ fork: model, problem, views }], { form: FORM });
    expect(prediction!.ballots.map(({ grid }) => grid)).toEqual(
      written.map(({ text }, index) => {
        const grid = readGrid(text);
        return grid && transformGrid(grid, inverseTransform(views[index]!.transform));
      }),
    );
  });

  it('leave out demonstrations, the last ones first, where the context is short', async () => {
    const long = { ...problem, demonstrations: Array.from({ length: 30 }, () => problem.demonstrations[0]!) };
    const { tokens, room } = fittingPrompt(model, long, FORM)!;
    expect(tokens.length + room).toBeLessThanOrEqual(160);
    expect(tokens.length + room).toBeGreaterThan(160 - 16);
    const huge = {
      demonstrations: [],
      input: Array.from({ length: 20 }, () => new Array<number>(20).fill(0)),
    };
    expect(fittingPrompt(model, huge, FORM)).toBeUndefined();
    const rows = [{ fork: model, problem: { ...huge, output: [[7]] }, views: [IDENTITY_VIEW] }];
    const [graded] = await gradeProblems(rows, { form: FORM });
    expect(graded).toEqual({
      scores: { solved: 0, attempt1: 0, cells: 0, likelihood: Number.NaN },
      answer: '',
    });
  });

  it('measure the likelihood of the right grid and its end', async () => {
    const rows = [{ fork: model, problem, views: [IDENTITY_VIEW] }];
    const [graded] = await gradeProblems(rows, { form: FORM, measures: ['likelihood'] });
    const [logprobs] = await score([{ fork: model, tokens: `${promptText(problem, FORM)}7#` }]);
    const [seven, end] = logprobs!.slice(-2);
    expect(graded).toEqual({ scores: { likelihood: expect.closeTo((seven! + end!) / 2, 6) } });
  });
});

describe('the inner loop', () => {
  it('makes a copy solve a task that the model does not solve, by an edit alone', async () => {
    const few = arc([task('a', undefined, 2)], { evaluation: [task('b')], form: FORM });
    const [context] = few.contexts(0, 1);
    const parent: Fork = model.fork();
    const edits = [few.parse(directives(), context!), few.parse('nonsense', context!)];
    const copies = await applyEdits(parent, edits, { ...ARC_ADAPT, rank: 8, targets: ['all'] });
    const forks = [parent, ...copies.map(({ fork }) => fork)];
    const answers = await few.ask(forks.map((fork) => ({ fork, context: context! })));
    const solved = answers.map(({ paying }) => paying.map(({ scores }) => scores.solved));
    expect(solved).toEqual([
      [0, 0],
      [1, 1],
      [0, 0],
    ]);
    expect(answers[1]!.paying[0]).toMatchObject({ answer: '7', scores: { attempt1: 1, cells: 1 } });
    expect(answers[1]!.paying[0]!.scores.likelihood!).toBeGreaterThan(
      answers[0]!.paying[0]!.scores.likelihood!,
    );
    expect(answers[2]).toEqual(answers[0]);
    const unseen = await few.ask([{ fork: forks[1]!, context: few.evaluation[0]! }], { measures: ['cells'] });
    expect(unseen).toEqual([{ paying: [], report: [{ answer: '7', scores: { cells: 1 } }] }]);
    for (const copy of copies) await copy.close();
    await parent.close();
  });

  it('is the loop of seal(): what the policy writes is read, trained, examined and paid by the task itself', async () => {
    const few = arc([task('a'), task('b')], { form: FORM, description: '' });
    // The opening is a whole edit: what a random model writes behind it changes nothing.
    const placeholders = '{task}{title}{context}';
    const prompt = (opening: string) => ({
      prompt: { name: 'whole', base: placeholders, chat: { user: placeholders }, opening },
      maxTokens: 2,
    });
    const play = async (opening: string, measure: string) => {
      const policy = Policy.create(model, { rank: 2, alpha: 2, seed: 1 });
      const rounds = seal({
        policy,
        task: few,
        rounds: 1,
        seed: 1,
        contextsPerRound: 2,
        editsPerContext: 2,
        edit: prompt(opening),
        adapt: { ...ARC_ADAPT, targets: ['all'], rank: 8 },
        reward: { measure, report: ['likelihood'], beta: 0 },
      });
      try {
        return (await rounds.next()).value!;
      } finally {
        await rounds.return(undefined);
        await policy.close();
      }
    };
    const { edits } = await play('{"learningRate": 0.005, "epochs": 8, "loss": "output"}\n', 'solved');
    expect(edits.map(({ context, reward, invalid }) => [context, reward, invalid])).toEqual(
      [edits[0]!.context, edits[0]!.context, edits[2]!.context, edits[2]!.context].map((id) => [
        id,
        1,
        undefined,
      ]),
    );
    expect([edits[0]!.context, edits[2]!.context].sort()).toEqual(['a', 'b']);
    expect(edits[0]!.scores.paying.solved).toEqual({ edited: 1, unedited: 0 });
    expect(edits[0]!.directives).toMatchObject({ epochs: 8, loss: 'output' });
    const broken = await play('{"data_generation": 1}\n', 'likelihood');
    expect(broken.reward.invalidBy).toEqual({ 'directives-out-of-bounds': 4 });
    await expect(play('{}\n', 'f1')).rejects.toThrow(/measure is "f1"; expected one of solved, attempt1/);
  });

  it('counts a task as solved only when all its test inputs are', async () => {
    const mixed = { ...task('a', undefined, 2) };
    const tests = [mixed.tests[0]!, { input: [[4, 1]], output: [[8]] }];
    const few = arc([{ ...mixed, tests }], { form: FORM });
    const [context] = few.contexts(0, 1);
    const parent = model.fork();
    const [copy] = await applyEdits(parent, [few.parse(directives(), context!)], {
      ...ARC_ADAPT,
      rank: 8,
      targets: ['all'],
    });
    const [answers] = await few.ask([{ fork: copy!.fork, context: context! }]);
    expect(answers!.paying.map(({ scores }) => [scores.solved, scores.attempt1, scores.cells])).toEqual([
      [0, 0, 1],
      [0, 0, 0],
    ]);
    await copy!.close();
    await parent.close();
  });

  it('trains on the documents that the directives name', () => {
    const { demonstrations } = task('a');
    const texts = (augmentations: string[]) =>
      arcDocuments(demonstrations, 1n, { augmentations, loss: 'all' }, { form: FORM }) as string[];
    expect(texts([]).every((text) => text.endsWith('O\n7#'))).toBe(true);
    expect(texts(['repeat']).some((text) => /O\n\d\d\n\d\d#$/.test(text))).toBe(true);
  });
});
