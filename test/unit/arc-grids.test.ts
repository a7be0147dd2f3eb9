// Grids as text and back, votes, and the files of the ARC Prize, whole and broken.
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Grid, gridKey, gridText, readGrid, toGrid } from '../../lib/task/arc/grids.js';
import { answerText, promptText } from '../../lib/task/arc/problems.js';
import { parseArc, readArc } from '../../lib/task/arc/read.js';
import { cellShare, countVotes } from '../../lib/task/arc/vote.js';
import { grids } from './helpers/arc.js';
import { sharedData } from './helpers/shared-data.js';

const GRID: Grid = [
  [0, 1, 2],
  [3, 4, 5],
];

describe('grids as text', () => {
  it('come back as they were, with any gap, before whatever follows', () => {
    fc.assert(
      fc.property(
        grids,
        fc.constantFrom('', ' ', '  ', ', '),
        fc.constantFrom('', '#', '#\n9', '\n\n9 9'),
        (grid, gap, after) => {
          expect(readGrid(gridText(grid, gap) + after)).toEqual(grid);
        },
      ),
    );
    expect(gridText(GRID)).toBe('0 1 2\n3 4 5');
    expect(gridText(GRID, '')).toBe('012\n345');
  });

  it('are read in the ways of models', () => {
    for (const text of [
      '[[0 1 2]\n [3 4 5]]',
      '[[0, 1, 2], [3, 4, 5]]#',
      '```\n0 1 2\n3 4 5\n```\nThat is it.',
      'Output:\n0 1 2\r\n3 4 5\r\n\r\nInput:',
      'The output is:\n\n```python\n[[0,1,2],[3,4,5]]\n```',
      ' 0 1 2 \n 3 4 5 #',
    ]) {
      expect(readGrid(text), text).toEqual(GRID);
    }
  });

  it.each([
    ['nothing', ''],
    ['white space', ' \n\n '],
    ['the end alone', '#'],
    ['words', 'I do not know.'],
    ['words behind', '0 1 2 or so\n3 4 5'],
    ['ragged rows', '0 1 2\n3 4'],
    ['a colour of two digits', '0 10 2\n3 4 5'],
    ['a negative one', '0 -1'],
    ['31 rows', Array.from({ length: 31 }, () => '1').join('\n')],
    ['31 columns', '1 '.repeat(31)],
  ])('%s is no grid', (_, text) => {
    expect(readGrid(text)).toBeUndefined();
  });

  it('are looked for in any text without failing, and no further than a grid can reach', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (text) => {
        const grid = readGrid(text);
        if (grid) expect(toGrid(grid, 'g')).toBe(grid);
      }),
    );
    for (const piece of ['1\n', '1', '[', ' ', '\n', ':', '`'])
      expect(readGrid(piece.repeat(5e6))).toBeUndefined();
  });

  it('stand in prompts as documented', () => {
    const problem = { demonstrations: [{ input: [[1]], output: [[2]] }], input: [[3, 4]], output: [[5]] };
    expect(promptText(problem)).toMatch(
      /^Find the rule .*\.\n\nInput:\n1\nOutput:\n2#\n\nInput:\n3 4\nOutput:\n$/,
    );
    expect(answerText(problem.output)).toBe('5#');
  });
});

describe('votes', () => {
  const [a, b, c]: Grid[] = [[[1]], [[2]], [[3, 3]]];
  const order = (ballots: Parameters<typeof countVotes>[0]) => countVotes(ballots).map(({ grid }) => grid);

  it('most votes first; no grid, no vote', () => {
    const counted = countVotes([
      { grid: b },
      { grid: a },
      { grid: undefined },
      { grid: a! },
      { grid: [[1]] },
    ]);
    expect(counted.map(({ grid, votes }) => [grid, votes])).toEqual([
      [a, 3],
      [b, 1],
    ]);
    expect(countVotes([])).toEqual([]);
    expect(countVotes([{ grid: undefined }])).toEqual([]);
  });

  it('ties: the surer one, then the earlier one', () => {
    expect(order([{ grid: c }, { grid: a }, { grid: b }])).toEqual([c, a, b]);
    const sure = [
      { grid: c, confidence: -0.5 },
      { grid: a, confidence: -0.1 },
      { grid: b, confidence: -0.5 },
    ];
    expect(order(sure)).toEqual([a, c, b]);
    // The best of its ballots speaks for a candidate; votes come before that.
    expect(order([...sure, { grid: b, confidence: -9 }])).toEqual([b, a, c]);
    expect(order([...sure, { grid: b, confidence: -9 }, { grid: c, confidence: 0 }])).toEqual([c, b, a]);
  });

  it('share of right cells: 0 for another shape', () => {
    expect(cellShare(GRID, GRID)).toBe(1);
    expect(
      cellShare(
        [
          [0, 1, 2],
          [3, 0, 0],
        ],
        GRID,
      ),
    ).toBeCloseTo(4 / 6, 12);
    expect(cellShare([[0, 1, 2]], GRID)).toBe(0);
    expect(
      cellShare(
        [
          [0, 1],
          [3, 4],
        ],
        GRID,
      ),
    ).toBe(0);
    expect(cellShare(undefined, GRID)).toBe(0);
  });
});

describe('files', () => {
  const challenges = {
    t: { train: [{ input: [[1]], output: [[2]] }], test: [{ input: [[3]] }, { input: [[4]] }] },
  };
  const read = (value: unknown, solutions?: unknown) =>
    parseArc(
      { text: JSON.stringify(value), name: 'c.json' },
      solutions === undefined ? undefined : { text: JSON.stringify(solutions), name: 's.json' },
    );
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'selfedit-arc-'));
  });
  afterAll(() => rm(folder, { recursive: true }));

  it('give tasks with and without solutions', async () => {
    const path = async (name: string, value: unknown) => {
      await writeFile(join(folder, name), `\ufeff${JSON.stringify(value)}`);
      return join(folder, name);
    };
    const bare = await readArc(await path('c.json', challenges));
    expect(bare).toEqual([
      { id: 't', demonstrations: challenges.t.train, tests: [{ input: [[3]] }, { input: [[4]] }] },
    ]);
    const solved = await readArc(
      await path('c.json', challenges),
      await path('s.json', { t: [[[5]], [[6]]] }),
    );
    expect(solved[0]!.tests).toEqual([
      { input: [[3]], output: [[5]] },
      { input: [[4]], output: [[6]] },
    ]);
    // The older form of a task has its solutions beside the tests.
    const within = { t: { ...challenges.t, test: [{ input: [[3]], output: [[5]] }] } };
    expect(read(within)[0]!.tests).toEqual([{ input: [[3]], output: [[5]] }]);
  });

  const train = (value: unknown) => ({ t: { ...challenges.t, train: [value] } });
  it.each([
    [[], undefined, /^c\.json is an array; expected an object$/],
    [{}, undefined, /^c\.json holds no tasks; expected at least one$/],
    [{ t: 1 }, undefined, /^c\.json t is a number; expected an object$/],
    [{ t: {} }, undefined, /^c\.json t\.train is missing; expected at least one demonstration$/],
    [
      { t: { ...challenges.t, train: [] } },
      undefined,
      /^c\.json t\.train is empty; expected at least one demonstration$/,
    ],
    [
      { t: { ...challenges.t, test: [] } },
      undefined,
      /^c\.json t\.test is empty; expected at least one test input$/,
    ],
    [
      train({ input: [[1]] }),
      undefined,
      /^c\.json t\.train\[0\]\.output is missing; expected an array of rows$/,
    ],
    [
      train({ input: [], output: [[1]] }),
      undefined,
      /^c\.json t\.train\[0\]\.input is empty; expected at least one row$/,
    ],
    [train({ input: [[]], output: [[1]] }), undefined, /input row 0 is empty; expected at least one cell$/],
    [
      train({ input: [[1], 2], output: [[1]] }),
      undefined,
      /input row 1 is a number; expected an array of colours$/,
    ],
    [
      train({ input: [[1, 2], [3]], output: [[1]] }),
      undefined,
      /input row 1 has 1 cells, row 0 has 2; expected rows of one length$/,
    ],
    [
      train({ input: [[1, 10]], output: [[1]] }),
      undefined,
      /input row 0, cell 1 is 10; expected a whole number from 0 to 9$/,
    ],
    [train({ input: [[1, -1]], output: [[1]] }), undefined, /cell 1 is -1; expected/],
    [train({ input: [[1, 0.5]], output: [[1]] }), undefined, /cell 1 is 0\.5; expected/],
    [train({ input: [[1, '2']], output: [[1]] }), undefined, /cell 1 is "2"; expected/],
    [
      train({ input: [[1]], output: [new Array(31).fill(0)] }),
      undefined,
      /output row 0 has 31 cells; expected at most 30$/,
    ],
    [
      train({ input: [[1]], output: new Array(31).fill([0]) }),
      undefined,
      /output has 31 rows; expected at most 30$/,
    ],
    [challenges, { t: [[[1]], [[2]]], u: [[[1]]] }, /^s\.json u is the solution of no task; expected/],
    [challenges, {}, /^s\.json t is missing; expected an array of output grids$/],
    [challenges, { t: [[[1]]] }, /^s\.json t has 1 outputs; expected one for each of the 2 test inputs$/],
    [challenges, { t: [[[1]], [[1], [2, 3]]] }, /^s\.json t\[1\] row 1 has 2 cells/],
  ])('are refused by name: %j', (value, solutions, message) => {
    expect(() => read(value, solutions)).toThrow(
      expect.objectContaining({ code: 'INPUT_INVALID', message: expect.stringMatching(message) }),
    );
  });

  it('that are missing or no JSON are refused', async () => {
    await expect(readArc(join(folder, 'none.json'))).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
    expect(() => parseArc({ text: '{', name: 'c.json' })).toThrow(/^c\.json line 1 is not JSON/);
  });

  const shared = sharedData('arc/arc-agi_training_challenges.json');
  it.skipIf(!shared)('of ARC-AGI-1 and of SEAL are read whole (needs ../shared/data/arc)', async () => {
    const name = (set: string, kind: string, filter = '') =>
      sharedData(`arc/arc-agi_${set}_${kind}${filter}.json`)!;
    const all = await readArc(name('training', 'challenges'), name('training', 'solutions'));
    expect(all).toHaveLength(400);
    expect(all.flatMap(({ tests }) => tests).every(({ output }) => output !== undefined)).toBe(true);
    expect(new Set(all.map(({ id }) => id)).size).toBe(400);
    const one = all.find(({ id }) => id === '6150a2bd')!;
    expect(gridKey(one.tests[0]!.output!)).toBe('004/086/536');
    const filters = { training: '_filtered_1B_training_set', evaluation: '_filtered_1B_eval_set' };
    const seal = await Promise.all(
      Object.entries(filters).map(([set, filter]) =>
        readArc(name(set, 'challenges', filter), name(set, 'solutions', filter)),
      ),
    );
    expect(seal.map((tasks) => tasks.length)).toEqual([12, 10]);
    expect(seal[0]!.every((task) => all.some(({ id }) => id === task.id))).toBe(true);
  });
});
