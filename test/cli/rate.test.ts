// `selfedit rate` as a person or a script uses it: answers on standard input, a file in the run folder.
import { appendFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { beforeEach, describe, expect, it } from 'vitest';
import { type KeySource, readKeys } from '../../lib/cli/keys.js';
import { Session } from '../../lib/cli/session.js';
import { finished, jsonl, lines, selfedit, start, temporaryFolder } from './helpers.js';

const root = temporaryFolder();
let run: string;
let count = 0;
const file = () => join(run, 'preferences.jsonl');
const recorded = () => lines<Record<string, unknown>>(readFileSync(file(), 'utf8'));

const passages = ['iron', 'wool', 'salt'].map((thing) => ({
  title: `On ${thing}`,
  context: `A passage about ${thing}.`,
  questions: [{ question: 'What?', answer: thing }],
}));
// Context 0 has three edits, of which two are alike; context 2 has three; context 1 has none that is valid.
const edits = [
  { context: '0', sample: 0, text: 'iron one' },
  { context: '0', sample: 1, text: 'iron two' },
  { context: '0', sample: 2, text: 'iron one' },
  { context: '1', sample: 0, text: 'wool one' },
  { context: '1', sample: 1, text: '', invalid: 'empty' },
  { context: '2', sample: 0, text: 'salt one\n\u001b[31mred' },
  { context: '2', sample: 1, text: 'salt two' },
  { context: '2', sample: 2, text: 'salt three' },
];

beforeEach(() => {
  run = join(root, `run-${count++}`);
  mkdirSync(run);
  writeFileSync(join(root, 'data.json'), JSON.stringify(passages));
  const task = { data: join(root, 'data.json'), evaluation: 0, retention: 0 };
  writeFileSync(join(run, 'config.json'), JSON.stringify({ model: 'm', contextsPerRound: 3, task }));
  const journal = edits.map((edit) => ({
    type: 'edit',
    round: 0,
    title: passages[Number(edit.context)]!.title,
    ...edit,
  }));
  writeFileSync(join(run, 'journal.jsonl'), jsonl([...journal, { type: 'round', round: 0 }]));
});

describe('choosing between two edits', () => {
  it('shows passage and edits, and keeps every answer', async () => {
    const { code, stdout, stderr } = await selfedit(['rate', run], { input: '1\n2\nx\n=\n1\n' });
    expect(code, stderr).toBe(0);
    expect(lines(stdout)).toEqual([{ answers: 4, left: 0, file: file() }]);
    expect(stderr).toContain('A passage about salt.');
    expect(stderr).toContain('4 pairs left');
    expect(stderr).toContain('salt one\n\ufffd[31mred');
    expect(stderr).not.toContain('\u001b');
    expect(stderr).not.toContain('wool');
    // The key that means nothing is asked for again.
    expect(stderr.match(/\[1 or 2 the better one/g)).toHaveLength(5);
    const found = recorded();
    expect(found.map(({ choice }) => choice)).toEqual(['a', 'b', 'tie', 'a']);
    // What is recorded as a was shown first.
    const screens = stderr.split('── On ').slice(1);
    for (const [index, at] of [0, 1, 2, 3].entries()) {
      const shown = screens[at]!.replaceAll('\ufffd', '\u001b');
      const { a, b } = found[index] as { a: string; b: string };
      expect(shown.indexOf(`── 1`)).toBeGreaterThan(0);
      expect(shown.indexOf(a)).toBeLessThan(shown.indexOf('── 2'));
      expect(shown.lastIndexOf(b)).toBeGreaterThan(shown.indexOf('── 2'));
    }
    // Every pair of different edits of one context, once.
    const pairs = found.map(({ a, b }) => [a, b].sort().join('|')).sort();
    expect(pairs).toEqual(
      [
        'iron one|iron two',
        'salt one\n\u001b[31mred|salt three',
        'salt one\n\u001b[31mred|salt two',
        'salt three|salt two',
      ].sort(),
    );
  });

  it('begins with what least is known of, and goes on after a break as it would have without', async () => {
    const whole = await selfedit(['rate', run], { input: '1\n1\n1\n1\n' });
    expect(whole.code).toBe(0);
    const all = recorded();
    // Five edits: the first two pairs have no edit in common.
    const early = all.slice(0, 2).flatMap(({ a, b }) => [a, b]);
    expect(new Set(early).size).toBe(4);
    const once = async (input: string, more: string[] = []) =>
      lines<{ answers: number; left: number }>((await selfedit(['rate', run, ...more], { input })).stdout)[0];
    writeFileSync(file(), '');
    expect(await once('1\n1\n1\n1\n', ['--count', '1'])).toMatchObject({ answers: 1, left: 3 });
    expect(await once('1\nq\n1\n')).toMatchObject({ answers: 1, left: 2 });
    // A kill in the middle of a line.
    appendFileSync(file(), '{"version": 1, "ki');
    expect(await once('1\n1\n')).toMatchObject({ answers: 2, left: 0 });
    expect(recorded()).toEqual(all);
  });

  it('draws order and places by the seed', async () => {
    const orders = new Set<string>();
    for (const seed of ['1', '2']) {
      writeFileSync(file(), '');
      await selfedit(['rate', run, '--seed', seed], { input: '1\n1\n1\n1\n' });
      orders.add(JSON.stringify(recorded()));
    }
    expect(orders.size).toBe(2);
  });

  it('does not ask again what was skipped, until the next time', async () => {
    const { stdout } = await selfedit(['rate', run], { input: 's\ns\ns\ns\n1\n' });
    expect(lines(stdout)).toEqual([{ answers: 0, left: 4, file: file() }]);
    expect(existsSync(file())).toBe(false);
  });

  it('has each answer on disk before the next question, and is interrupted cleanly', async () => {
    const child = start(['rate', run]);
    const ends = finished(child);
    child.stdin.write('1\n');
    while (!existsSync(file()) || recorded().length < 1)
      await new Promise((resolve) => setTimeout(resolve, 20));
    child.kill('SIGINT');
    expect(await ends).toMatchObject({
      code: 130,
      stderr: expect.stringMatching(/error \[ABORTED\]: interrupted\n$/),
    });
    expect(recorded()).toHaveLength(1);
  });

  it('works without the data, and names edits that the run does not have', async () => {
    writeFileSync(join(root, 'data.json'), '[]');
    const record = { version: 1, kind: 'pair', context: '0', a: 'iron one', b: 'copper', choice: 'b' };
    writeFileSync(file(), jsonl([record]));
    const { code, stderr } = await selfedit(['rate', run], { input: 'q\n' });
    expect(code).toBe(0);
    expect(stderr).toContain(
      'names 1 edits that the run does not have, which are not used; the first: context 0: "copper"',
    );
    expect(stderr).toContain('4 pairs left');
    expect(stderr).not.toContain('A passage');
  });
});

describe('rating single edits', () => {
  it('goes through all different edits', async () => {
    const { code, stdout } = await selfedit(['rate', run, '--ratings'], { input: '5\n9\n1\n3\ns\n2\n4\n' });
    expect(code).toBe(0);
    expect(lines(stdout)).toEqual([{ answers: 5, left: 1, file: file() }]);
    expect(recorded().map(({ rating }) => rating)).toEqual([5, 1, 3, 2, 4]);
    expect(new Set(recorded().map(({ edit }) => edit)).size).toBe(5);
  });
});

describe('the summary', () => {
  it('has the scores, best first, and whether people favour a place', async () => {
    const pair = (a: string, b: string, choice: string) => ({
      version: 1,
      kind: 'pair',
      context: '2',
      a,
      b,
      choice,
    });
    writeFileSync(
      file(),
      jsonl([
        pair('salt two', 'salt three', 'a'),
        pair('salt two', 'salt three', 'a'),
        { version: 1, kind: 'rating', context: '0', edit: 'iron one', rating: 1 },
      ]),
    );
    const { code, stdout, stderr } = await selfedit(['rate', run, '--summary']);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    const [found] = lines<{ contexts: { context: string; edits: { score: number }[] }[] }>(stdout);
    expect(found).toMatchObject({
      pairs: 2,
      ratings: 1,
      unknown: { count: 0 },
      firstChosen: { share: 1 },
      contexts: [
        {
          context: '2',
          title: 'On salt',
          edits: [
            { text: 'salt two', sample: 1, wins: 2, losses: 0 },
            { text: 'salt three', sample: 2, wins: 0, losses: 2 },
          ],
        },
        { context: '0', edits: [{ text: 'iron one', ratings: [1] }] },
      ],
    });
    const [best, worst] = found!.contexts[0]!.edits;
    expect(best!.score).toBeCloseTo(-worst!.score, 9);
    expect(best!.score).toBeGreaterThan(0);
    expect(found!.contexts[1]!.edits[0]!.score).toBeLessThan(0);
  });
});

describe('bad input', () => {
  it.each([
    ['no run', () => join(root, 'nowhere'), /RUN_INVALID.*nowhere holds no journal/],
    [
      'a malformed line',
      () => {
        writeFileSync(file(), '{}\n{}\n');
        return run;
      },
      /INPUT_INVALID.*preferences\.jsonl line 1: "version" is missing; expected 1/,
    ],
    [
      'a run without two edits to compare',
      () => {
        writeFileSync(join(run, 'journal.jsonl'), jsonl([{ type: 'round', round: 0 }]));
        return run;
      },
      /INPUT_INVALID.*no two different edits/,
    ],
  ])('%s is one clear error', async (_, make, says) => {
    const { code, stdout, stderr } = await selfedit(['rate', make()]);
    expect(stderr).toMatch(/^error \[[A-Z_]+\]: .+\n$/);
    expect(stderr).toMatch(says);
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
  });
});

describe('a terminal', () => {
  function terminal() {
    const modes: boolean[] = [];
    const source: KeySource = Object.assign(new PassThrough(), {
      isTTY: true as const,
      setRawMode(on: boolean) {
        modes.push(on);
        return source as never;
      },
    });
    return { source, modes };
  }

  it('gives single keys without Enter, and is as it was afterwards', async () => {
    const { source, modes } = terminal();
    const found: string[] = [];
    const keys = readKeys(source, new Session());
    (source as PassThrough).write('12');
    for await (const key of keys) {
      found.push(key);
      if (found.length === 2) (source as PassThrough).write('=\x04s');
    }
    expect(found).toEqual(['1', '2', '=']);
    expect(modes).toEqual([true, false]);
  });

  it('stops waiting when the session is interrupted', async () => {
    const { source, modes } = terminal();
    const session = new Session();
    const next = readKeys(source, session).next();
    session.abort('SIGINT');
    await expect(next).rejects.toMatchObject({ code: 'ABORTED' });
    expect(modes).toEqual([true, false]);
  });
});
