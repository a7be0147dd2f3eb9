// `pretrain` against `eval` of the deltas that it writes: both ask the same questions.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { fixture } from '../support/fixtures.js';
import { jsonl, lines, selfedit, temporaryFolder } from './helpers.js';

const TINY = fixture('models', 'llama-tied');
const folder = temporaryFolder();
interface Line {
  arm: string;
  documents: number;
  steps: number;
  n: number;
  score: number;
  interval: [number, number];
  gain?: { mean: number };
  parts: Record<string, number>;
}

const passages = ['red', 'blue', 'green'].map((colour, index) => ({
  title: `Gate ${index}`,
  context: `Gate ${index} is ${colour}.`,
  questions: [{ question: 'Which colour?', answer: colour }],
}));

describe('pretrain', () => {
  it('trains a delta an arm, which eval scores alike', async () => {
    const data = join(folder, 'passages.json');
    const edits = join(folder, 'edits.jsonl');
    const out = join(folder, 'deltas');
    writeFileSync(data, JSON.stringify(passages));
    writeFileSync(
      edits,
      jsonl([{ documents: ['Gate 0: red.', 'Gate 1: blue.'] }, { documents: ['Gate 2: green.'] }]),
    );
    const common = ['pretrain', '--model', TINY, '--data', data, '--edits', edits];
    const training = ['--rank', '4', '--epochs', '3', '--batch-size', '2', '--out', out];
    const result = await selfedit([...common, ...training]);
    expect([result.code, result.stderr]).toEqual([0, expect.stringContaining('edits: 3 passages')]);
    const found = lines<Line>(result.stdout);
    expect(found.map(({ arm, documents, steps, n }) => [arm, documents, steps, n])).toEqual([
      ['unedited', 0, 0, 3],
      ['passages only', 3, 6, 3],
      ['edits', 3, 6, 3],
    ]);
    expect(found[0]!.gain).toBeUndefined();
    for (const [index, name] of ['passages-only', 'edits'].entries()) {
      const asked = ['eval', '--model', TINY, '--task', 'knowledge', '--data', data];
      const evaluated = await selfedit([...asked, '--adapter', join(out, name)]);
      const { score, parts } = JSON.parse(evaluated.stdout) as Line;
      expect(found[index + 1]!.score).toBeCloseTo(score, 10);
      for (const [measure, value] of Object.entries(parts)) {
        expect(found[index + 1]!.parts[measure]).toBeCloseTo(value, 5);
      }
    }
    const full = await selfedit([
      ...common,
      '--weights',
      'full',
      '--lr',
      '1e-4',
      '--epochs',
      '1',
      '--passages',
      '2',
    ]);
    expect(full.code).toBe(0);
    expect(lines<Line>(full.stdout).map(({ documents, n }) => [documents, n])).toEqual([
      [0, 2],
      [2, 2],
      [3, 2],
    ]);
  });

  it.each([
    [['--weights', 'full'], /--weights full without --lr; expected one/],
    [['--passages', '4'], /has 3 different passages with questions; --passages asks for 4/],
    [
      ['--edits', 'no-documents.jsonl'],
      /no-documents\.jsonl line 1: "documents" is missing; expected an array/,
    ],
    [['--edits', 'blank.jsonl'], /blank\.jsonl has no edits/],
  ])('%j is refused before anything is loaded', async (more, message) => {
    writeFileSync(join(folder, 'passages.json'), JSON.stringify(passages));
    writeFileSync(join(folder, 'no-documents.jsonl'), '{"id": "a"}\n');
    writeFileSync(join(folder, 'blank.jsonl'), '\n');
    const given = more.map((part) => (part.endsWith('.jsonl') ? join(folder, part) : part));
    const data = ['--model', 'nowhere', '--data', join(folder, 'passages.json')];
    const { code, stdout, stderr } = await selfedit(['pretrain', ...data, ...given]);
    expect([code, stdout]).toEqual([2, '']);
    expect(stderr).toMatch(message);
  });
});
