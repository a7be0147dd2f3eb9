// `reliability` from lines, from a run's journal and from a recording.
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { jsonl, lines, selfedit, temporaryFolder } from './helpers.js';

const folder = temporaryFolder();

// Mean squares by hand: edits 8, seeds 1.5; between edits 3.25 (test/unit/reliability.test.ts).
const REWARDS: Record<string, number[][]> = {
  a: [
    [0, 2],
    [4, 6],
  ],
  b: [
    [1, 3],
    [2, 2],
  ],
};
const rows = Object.entries(REWARDS).flatMap(([context, rewards_ES]) =>
  rewards_ES.flatMap((rewards_S, edit) => rewards_S.map((reward, seed) => ({ context, edit, seed, reward }))),
);
const expected = { contexts: 2, edits: 4, rewards: 8, betweenEdits: 3.25, betweenSeeds: 1.5 };

describe('reliability', () => {
  it('of lines, as JSON and in words', async () => {
    const json = await selfedit(['reliability', '--json', '--seeds', '2'], { input: jsonl(rows) });
    expect({ code: json.code, stderr: json.stderr }).toEqual({ code: 0, stderr: '' });
    const [found] = lines<{ of: { n: number; value: number }[] }>(json.stdout);
    expect(found).toMatchObject(expected);
    expect(found!.of).toHaveLength(1);
    expect(found!.of[0]!.value).toBeCloseTo(3.25 / 4, 12);
    const text = await selfedit(['reliability', '--wanted', '0.9'], { input: jsonl(rows) });
    expect(text.stdout).toMatch(/^8 rewards of 4 edits of 2 contexts\n/);
    expect(text.stdout).toMatch(/variance between the edits of a context +3\.25 +68 %/);
    // 0.9 / 0.1 · 1.5 / 3.25 = 4.15.
    expect(text.stdout).toMatch(/seeds for a reliability of 0\.9 +5 /);
  });

  it("of a run's journal, rounds apart", async () => {
    const run = join(folder, 'run');
    mkdirSync(run);
    const edits = Object.values(REWARDS).flatMap((rewards_ES, round) =>
      rewards_ES.map((rewards, sample) => ({ type: 'edit', round, context: 'same', sample, rewards })),
    );
    writeFileSync(join(run, 'journal.jsonl'), jsonl([...edits, { type: 'round', round: 1 }]));
    const { code, stdout } = await selfedit(['reliability', run, '--json']);
    expect(code).toBe(0);
    expect(lines(stdout)[0]).toMatchObject(expected);
  });

  it('of a recording: a reward is the share of right answers of one repeat', async () => {
    const path = join(folder, 'recording.json');
    const completion = (shares: number[]) => ({
      questions: shares.flatMap((share, rep) =>
        [0, 1, 2, 3].map((question) => ({ rep, adapter_correct: question < 4 * share })),
      ),
    });
    const articles = [
      { completions: [completion([0, 0.5]), completion([1, 0.5])] },
      { completions: [completion([0.25, 0.25]), completion([0.75, 0.25])] },
    ];
    writeFileSync(path, JSON.stringify({ articles }));
    const { code, stdout } = await selfedit(['reliability', '--recording', path, '--json']);
    expect(code).toBe(0);
    // Edit means 0.25 and 0.75, 0.25 and 0.5: SS 2·(2·0.25² + 2·0.125²) = 0.3125 on 2 degrees; seeds 0.125·3 on 4.
    expect(lines(stdout)[0]).toMatchObject({ rewards: 8, betweenSeeds: 0.09375, betweenEdits: 0.03125 });
  });

  it('takes null for unknown, in journals too', async () => {
    const some = [...rows, { context: 'a', edit: 0, seed: 9, reward: null }];
    const { stdout } = await selfedit(['reliability'], { input: jsonl(some) });
    expect(stdout).toMatch(/^8 rewards of 4 edits of 2 contexts, 1 unknown ones left out\n/);
  });

  it.each([
    ['{"context": "a", "edit": "b"}', [], /line 1: "reward" is missing; expected a number, or null/],
    ['{"context": "a", "reward": 1}', [], /line 1: "edit" is missing; expected a string or a number/],
    [jsonl([rows[0], rows[0]]), [], /line 2: context a, edit 0, seed 0 came before/],
    [jsonl([rows[0]]), [], /found 1 edits of 1 contexts/],
    ['', ['--wanted', '1'], /--wanted.*between 0 and 1/],
    ['', ['--seeds', '1,x'], /--seeds.*whole numbers from 1/],
    ['', ['--recording', '/nowhere.json'], /cannot read \/nowhere\.json/],
    ['', ['source', '--recording', 'file'], /both a source and --recording/],
    ['', ['/nowhere'], /there is no file \/nowhere/],
  ])('refuses %j %j', async (input, args, says) => {
    const { code, stdout, stderr } = await selfedit(['reliability', ...args], { input });
    expect(stderr).toMatch(/^error \[[A-Z_]+\]: .+\n$/);
    expect(stderr).toMatch(says);
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
  });

  it('refuses a recording of another form, and a run without repeats', async () => {
    const path = join(folder, 'other.json');
    writeFileSync(path, JSON.stringify({ articles: [{ completions: [{ questions: [{ rep: 0 }] }] }] }));
    const other = await selfedit(['reliability', '--recording', path]);
    expect(other.stderr).toMatch(/articles\.0\.completions\.0\.questions\.0\.adapter_correct/);
    const run = join(folder, 'once');
    mkdirSync(run);
    writeFileSync(join(run, 'journal.jsonl'), jsonl([{ type: 'edit', round: 0, context: 'a', sample: 0 }]));
    const once = await selfedit(['reliability', run]);
    expect(once.stderr).toMatch(/trained once each; expected a run with "repeats" of at least 2/);
    expect([other.code, once.code]).toEqual([2, 2]);
  });
});
