// `inspect` against what was written into the files, `eval` against `generate` and `grade` done by hand.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { fixture, readJson } from '../support/fixtures.js';
import { jsonl, lines, readSafetensors, selfedit, temporaryFolder } from './helpers.js';

const TINY = fixture('models', 'llama-tied');
const folder = temporaryFolder();

interface Inspection {
  architecture: string;
  parameters: number;
  files: string[];
  tensors: { name: string; dtype: string; shape: number[] }[];
  dtypes: { dtype: string; tensors: number }[];
  tokenizer: { vocabSize: number; bosTokenId: number; eosTokenIds: number[] } | null;
  chatTemplate: string | null;
}

describe('inspect', () => {
  it('tells what a folder holds', async () => {
    const [json, text] = await Promise.all([
      selfedit(['inspect', TINY, '--json']),
      selfedit(['inspect', TINY]),
    ]);
    expect([json.code, json.stderr, text.code, text.stderr]).toEqual([0, '', 0, '']);
    const found = JSON.parse(json.stdout) as Inspection;
    const tensors = readSafetensors(join(TINY, 'model.safetensors'));
    const config = readJson<{ chat_template: string }>('models', 'llama-tied', 'tokenizer_config.json');
    expect(found).toMatchObject({
      architecture: 'llama',
      config: { layers: 2, heads: 6, kvHeads: 2, headDim: 10, vocabSize: 512, maxPositions: 128, tied: true },
      files: ['model.safetensors'],
      dtypes: [{ dtype: 'F32', tensors: tensors.size }],
      tokenizer: { vocabSize: 512, eosTokenIds: expect.arrayContaining([2]) },
      chatTemplate: config.chat_template,
    });
    const count = [...tensors.values()].reduce((sum, { values }) => sum + values.length, 0);
    expect(found.parameters).toBe(count);
    expect(new Map(found.tensors.map(({ name, shape }) => [name, shape]))).toEqual(
      new Map([...tensors].map(([name, { shape }]) => [name, shape])),
    );
    for (const word of [
      'llama',
      count.toLocaleString('en-US'),
      'model.layers.1.mlp.up_proj.weight',
      '[80, 48]',
    ]) {
      expect(text.stdout).toContain(word);
    }
  });

  it('tells what shards and a GGUF hold', async () => {
    const sharded = await selfedit(['inspect', '--json', fixture('models', 'llama-sharded')]);
    const shards = JSON.parse(sharded.stdout) as Inspection;
    expect(shards.files).toHaveLength(5);
    const index = readJson<{ weight_map: Record<string, string> }>(
      'models',
      'llama-sharded',
      'model.safetensors.index.json',
    );
    expect(shards.tensors.map(({ name }) => name).sort()).toEqual(Object.keys(index.weight_map).sort());
    const gguf = await selfedit(['inspect', '--json', fixture('models', 'gguf', 'qwen2-q4_1.gguf')]);
    expect(JSON.parse(gguf.stdout)).toMatchObject({
      architecture: 'qwen2',
      format: 'gguf',
      config: { qkvBias: true },
      dtypes: expect.arrayContaining([expect.objectContaining({ dtype: 'Q4_1' })]),
    });
  });
});

describe('eval', () => {
  const passages = [
    {
      title: 'Rain',
      context: 'Rain falls.',
      questions: [
        { question: 'What falls?', answer: 'Rain' },
        { question: 'Where from?', answer: 'the clouds' },
      ],
    },
    { title: 'Empty', context: 'No questions.', questions: [] },
    {
      title: 'Snow',
      context: 'Snow is white.',
      questions: [{ question: 'What colour is it?', answer: 'white' }],
    },
  ];
  const data = join(folder, 'passages.json');
  writeFileSync(data, JSON.stringify(passages));
  const adapter = fixture('peft', 'all-seven', 'after-20');

  interface Report {
    task: string;
    n: number;
    score: number;
    interval: [number, number];
    parts: Record<string, number>;
  }

  it('is what generate and grade give for the questions without their passages', async () => {
    const args = ['--model', TINY, '--adapter', adapter];
    const { code, stdout, stderr } = await selfedit(['eval', ...args, '--task', 'knowledge', '--data', data]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    const report = JSON.parse(stdout) as Report;
    expect(report).toMatchObject({ task: 'knowledge', n: 3 });

    const questions = passages.flatMap(({ title, questions: own }) =>
      own.map((item) => ({ ...item, title })),
    );
    const prompts = questions.map(({ title, question }) => ({
      messages: [
        { role: 'system', content: 'Answer the question directly, in a few words.' },
        { role: 'user', content: `Topic: ${title}\n${question}` },
      ],
    }));
    const answers = await selfedit(['generate', ...args, '--temperature', '0'], { input: jsonl(prompts) });
    const texts = lines<{ text: string }>(answers.stdout);
    const graded = jsonl(questions.map(({ answer }, i) => ({ answer, prediction: texts[i]!.text })));
    for (const grader of ['exact', 'f1', 'recall']) {
      const scores = await selfedit(['grade', '--grader', grader], { input: graded });
      const mean = lines<{ score: number }>(scores.stdout).reduce((sum, { score }) => sum + score / 3, 0);
      expect(report.parts[grader], grader).toBeCloseTo(mean, 12);
    }
    expect(report.score).toBe(report.parts.f1);
    expect(report.interval[0]).toBeLessThanOrEqual(report.score);
    expect(report.interval[1]).toBeGreaterThanOrEqual(report.score);
    expect(report.parts.likelihood).toBeLessThan(0);
  });

  it('knows no more than 0 to 1 from a single passage, and sees its adapters', async () => {
    const single = join(folder, 'single.jsonl');
    writeFileSync(single, jsonl(passages.slice(2)));
    const args = ['eval', '--model', TINY, '--task', 'qa', '--data', single];
    const [plain, adapted] = await Promise.all([selfedit(args), selfedit([...args, '--adapter', adapter])]);
    const [left, right] = [JSON.parse(plain.stdout) as Report, JSON.parse(adapted.stdout) as Report];
    expect(left).toMatchObject({ task: 'qa', n: 1, interval: [0, 1] });
    expect(right.parts.likelihood).not.toBe(left.parts.likelihood);
  });

  const tiny = { train: [{ input: [[1, 2]], output: [[1]] }], test: [{ input: [[3, 4]] }] };
  writeFileSync(join(folder, 'challenges.json'), JSON.stringify({ a: tiny, b: tiny }));
  writeFileSync(join(folder, 'solutions.json'), JSON.stringify({ a: [[[3]]], b: [[[3]]] }));

  it('arc: the share of tasks solved, and its interval', async () => {
    const files = ['--data', join(folder, 'challenges.json'), '--solutions', join(folder, 'solutions.json')];
    const args = ['eval', '--model', TINY, '--task', 'arc', ...files];
    const { code, stdout, stderr } = await selfedit(args);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    const report = JSON.parse(stdout) as Report;
    expect(report).toMatchObject({ task: 'arc', n: 2, score: 0, parts: { solved: 0, attempt1: 0 } });
    // Wilson's interval for none of two: 0 to z² / (n + z²).
    expect(report.interval[0]).toBe(0);
    expect(report.interval[1]).toBeCloseTo(1.959964 ** 2 / (2 + 1.959964 ** 2), 6);
    expect(Object.keys(report.parts)).toEqual(['solved', 'attempt1', 'cells', 'likelihood']);
    // The two tasks are the same; the tiny model's context is short, but holds them.
    expect(report.parts.likelihood).toBeLessThan(0);
  });

  it('refuses data that is none before it loads the model', async () => {
    writeFileSync(join(folder, 'empty.json'), JSON.stringify(passages.slice(1, 2)));
    writeFileSync(
      join(folder, 'ragged.json'),
      JSON.stringify({ a: { ...tiny, test: [{ input: [[1], [2, 3]] }] } }),
    );
    for (const [name, says, task = 'qa'] of [
      ['missing.json', /\[FILE_NOT_FOUND\].*missing\.json/],
      ['empty.json', /\[INPUT_INVALID\].*has no questions/],
      ['missing.json', /\[FILE_NOT_FOUND\].*missing\.json/, 'arc'],
      ['challenges.json', /\[INPUT_INVALID\].*task a has no solution of test 0/, 'arc'],
      ['ragged.json', /\[INPUT_INVALID\].*ragged\.json a\.test\[0\]\.input row 1 has 2 cells/, 'arc'],
    ] as const) {
      const args = [
        'eval',
        '--model',
        join(folder, 'no-model'),
        '--task',
        task,
        '--data',
        join(folder, name),
      ];
      const { code, stdout, stderr } = await selfedit(args);
      expect(stderr).toMatch(/^error \[[A-Z_]+\]: .+\n$/);
      expect(stderr).toMatch(says);
      expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
    }
    const files = ['--data', data, '--solutions', join(folder, 'solutions.json')];
    const wrong = await selfedit(['eval', '--model', TINY, '--task', 'qa', ...files]);
    expect(wrong).toMatchObject({ code: 2, stderr: expect.stringMatching(/--solutions with --task qa/) });
  });
});
