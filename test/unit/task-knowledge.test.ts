import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { knowledge } from '../../lib/task/knowledge.js';
import { type Passage, parsePassages, readPassages } from '../../lib/task/passages.js';
import type { TaskContext } from '../../lib/task/task.js';
import { sharedData } from './helpers/shared-data.js';

const invented = (count: number, questions = 6): Passage[] =>
  Array.from({ length: count }, (_, index) => ({
    title: `Title ${index}`,
    context: `Passage ${index}.`,
    questions: Array.from({ length: questions }, (_, q) => ({
      question: `Q${index}.${q}?`,
      answers: [`A${q}`],
    })),
  }));
const idsOf = (contexts: readonly TaskContext[]) => contexts.map(({ id }) => id);

describe('reading passages', () => {
  const plain = [{ title: 'T', context: 'C', questions: [{ question: 'Q?', answer: 'A' }] }];
  const expected = [{ title: 'T', context: 'C', questions: [{ question: 'Q?', answers: ['A'] }] }];

  it('takes a JSON array, JSONL and SQuAD v1.1 as the same thing', () => {
    expect(parsePassages(JSON.stringify(plain), 'p.json')).toEqual(expected);
    expect(parsePassages(`\ufeff${JSON.stringify(plain)}`, 'p.json')).toEqual(expected);
    expect(parsePassages(`${JSON.stringify(plain[0])}\n\n${JSON.stringify(plain[0])}\n`, 'p.jsonl')).toEqual([
      ...expected,
      ...expected,
    ]);
    const squad = {
      version: '1.1',
      data: [
        {
          title: 'Super_Bowl_50',
          paragraphs: [
            {
              context: 'C',
              qas: [
                {
                  id: 'x',
                  question: 'Q?',
                  answers: [{ text: 'A', answer_start: 0 }, { text: 'B' }, { text: 'A' }],
                },
              ],
            },
          ],
        },
      ],
    };
    expect(parsePassages(JSON.stringify(squad), 'dev-v1.1.json')).toEqual([
      { title: 'Super Bowl 50', context: 'C', questions: [{ question: 'Q?', answers: ['A', 'B'] }] },
    ]);
  });

  it.each([
    ['p.json', '[{"title": "T",\n"context": }]', /p\.json is not JSON \(Unexpected token '}'/],
    ['p.json', '[{"title": "T",\n"context" "C"}]', /p\.json line 2 is not JSON/],
    ['p.json', '{"passages": []}', /p\.json holds an object; expected an array of passages/],
    ['p.json', '[]', /holds no passages/],
    ['p.json', '[{"title": "T", "questions": []}]', /p\.json \[0\]\.context is missing; expected a string/],
    ['p.json', '[{"title": "T", "context": "  ", "questions": []}]', /\[0\]\.context is empty/],
    [
      'p.json',
      '[{"title": 3, "context": "C", "questions": []}]',
      /\[0\]\.title is a number; expected a string/,
    ],
    ['p.json', '[{"title": "T", "context": "C"}]', /\[0\]\.questions is missing; expected an array/],
    [
      'p.json',
      '[{"title": "T", "context": "C", "questions": [{"question": "Q", "answer": null}]}]',
      /\[0\]\.questions\[0\]\.answer is null; expected a string/,
    ],
    ['p.jsonl', '{"title": "T", "context": "C", "questions": []}\nnonsense\n', /p\.jsonl line 2 is not JSON/],
    ['p.jsonl', '\n[1]\n', /p\.jsonl line 2 is an array; expected an object/],
    [
      's.json',
      '{"data": [{"title": "T", "paragraphs": [{"context": "C", "qas": [{"question": "Q", "answers": []}]}]}]}',
      /data\[0\]\.paragraphs\[0\]\.qas\[0\]\.answers is empty; expected at least one answer/,
    ],
  ])('%s %s is refused by name', (name, text, message) => {
    expect(() => parsePassages(text, name)).toThrow(
      expect.objectContaining({ code: 'INPUT_INVALID', message: expect.stringMatching(message) }),
    );
  });

  describe('from disk', () => {
    let folder: string;
    beforeAll(async () => {
      folder = await mkdtemp(join(tmpdir(), 'selfedit-task-'));
    });
    afterAll(() => rm(folder, { recursive: true }));

    it('gives the SHA-256 of the bytes and says when a file is missing', async () => {
      const path = join(folder, 'p.json');
      await writeFile(path, JSON.stringify(plain));
      const read = await readPassages(path);
      expect(read.passages).toEqual(expected);
      expect(read.sha256).toMatch(/^[0-9a-f]{64}$/);
      await expect(readPassages(join(folder, 'none.json'))).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
    });
  });

  const squad = sharedData('squad/passages.json');
  it('reads all of ../shared/data/squad/passages.json', async ({ skip }) => {
    if (!squad) return skip('no ../shared/data/squad/passages.json beside the repository');
    const { passages } = await readPassages(squad);
    expect(passages).toHaveLength(1500);
    expect(passages.reduce((sum, { questions }) => sum + questions.length, 0)).toBe(7720);
  });
});

describe('the task of knowledge incorporation', () => {
  it('gives every passage one role', () => {
    const task = knowledge(invented(20), { seed: 3, evaluation: 5, retention: 4 });
    const training = idsOf(task.contexts(0, 11));
    const evaluation = idsOf(task.evaluation);
    expect(new Set([...training, ...evaluation]).size).toBe(16);
    const seen = [...task.contexts(0, 11), ...task.evaluation].map(({ context }) => context);
    expect(task.retention).toHaveLength(4);
    for (const text of task.retention) expect(seen).not.toContain(text);
  });

  it('splits the questions of a training passage into paying and report-only ones', () => {
    const task = knowledge(invented(10), { payingShare: 0.5 });
    for (const context of task.contexts(0, 6)) {
      expect(context.paying).toHaveLength(3);
      expect(context.report).toHaveLength(3);
      const ids = [...context.paying, ...context.report].map(({ id }) => id);
      expect(new Set(ids).size).toBe(6);
    }
    const splits = task.contexts(0, 6).map(({ paying }) => paying.map(({ id }) => id.split('.')[1]).join());
    expect(new Set(splits).size).toBeGreaterThan(1);
    expect(knowledge(invented(10, 1)).contexts(0, 1)[0]!.paying).toHaveLength(1);
    expect(knowledge(invented(10), { payingShare: 1 }).contexts(0, 1)[0]!.report).toHaveLength(0);
  });

  it('never puts one wording on both sides', () => {
    const twice = invented(6).map((passage) => ({
      ...passage,
      questions: [...passage.questions, ...passage.questions],
    }));
    for (const { paying, report } of knowledge(twice).contexts(0, 2)) {
      const wordings = new Set(paying.map(({ question }) => question));
      for (const { question } of report) expect(wordings).not.toContain(question);
    }
  });

  it('shows every passage once before any a second time, in a fresh order each pass', () => {
    const task = knowledge(invented(13), { retention: 1 });
    const passes = [0, 1].map((pass) =>
      [0, 1, 2].flatMap((round) => idsOf(task.contexts(3 * pass + round, 4))),
    );
    for (const pass of passes) expect(new Set(pass).size).toBe(12);
    expect(passes[0]).not.toEqual(passes[1]);
  });

  it('depends on the seed and the round alone', () => {
    const [left, right] = [knowledge(invented(12), { seed: 1 }), knowledge(invented(12), { seed: 1 })];
    expect(left.contexts(5, 3)).toEqual(right.contexts(5, 3));
    expect(left.retention).toEqual(right.retention);
    const other = knowledge(invented(12), { seed: 2 });
    expect(idsOf(other.contexts(0, 8))).not.toEqual(idsOf(left.contexts(0, 8)));
  });

  it('counts equal passages once, so that none is both trained on and held out', () => {
    const doubled = [...invented(8), ...invented(8)];
    const task = knowledge(doubled, { evaluation: 3, retention: 2 });
    const all = [...task.contexts(0, 16), ...task.evaluation].map(({ context }) => context);
    expect(new Set([...all, ...task.retention]).size).toBe(8);
    expect(all.length + task.retention.length).toBe(8);
  });

  it('uses passages without questions as retention texts first', () => {
    const bare = { title: 'Bare', context: 'No questions here.', questions: [] };
    const task = knowledge([...invented(4), bare], { retention: 1 });
    expect(task.retention).toEqual(['No questions here.']);
    expect(task.contexts(0, 9)).toHaveLength(4);
  });

  it('takes retention texts of the caller', () => {
    const task = knowledge(invented(3), { retentionTexts: ['Kept.'] });
    expect(task.retention).toEqual(['Kept.']);
    expect(task.contexts(0, 9)).toHaveLength(3);
  });

  it('refuses too few passages and shares out of range', () => {
    expect(() => knowledge(invented(5), { evaluation: 2, retention: 3 })).toThrow(
      expect.objectContaining({
        code: 'INPUT_INVALID',
        message: expect.stringMatching(/5 distinct passages/),
      }),
    );
    expect(() => knowledge(invented(5), { payingShare: 0 })).toThrow(
      expect.objectContaining({ code: 'OPTION_INVALID' }),
    );
  });
});
