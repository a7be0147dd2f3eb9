import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { runDemo } from '../../lib/demo.js';
import { readConfig } from '../../lib/run/config.js';
import { readTask } from '../../lib/run/task.js';
import { readPassages, readTexts } from '../../lib/task/passages.js';
import { tinyModelFolder } from './helpers/tiny-model.js';

const examples = join(dirname(fileURLToPath(import.meta.url)), '../../examples');
let folder: string;
let model: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'selfedit-demo-'));
  model = await tinyModelFolder(join(folder, 'model'));
});
afterAll(() => rm(folder, { recursive: true }));

describe('the demo', () => {
  it('prints its settings, a line a round, the table and what it shows, on any model', async () => {
    const lines: string[] = [];
    // No time at all: one round, which is the least, and the table.
    const comparison = await runDemo({ model, minutes: 0, write: (line) => lines.push(line) });
    const text = lines.join('\n');
    expect(text).toMatch(
      /task: 22 passages to train on, 8 unseen ones for the table, 24 retention texts; seed 0/,
    );
    expect(text).toMatch(/inner loop: LoRA rank \d+ .* learning rate/);
    expect(lines.filter((line) => line.startsWith('round '))).toHaveLength(1);
    expect(text).toMatch(/1 of \d+ rounds fit into 0 minutes/);
    for (const method of ['unedited', 'passage only', 'untrained edits', 'trained edits'])
      expect(text).toContain(method);
    expect(text).toMatch(/8 unseen passages, 48 questions, 1 edit a passage; mean \[95 % interval\]/);
    expect(text).toMatch(/excludes zero|includes zero/);
    expect(comparison).toMatchObject({ passages: 8, questions: 48, measures: ['likelihood', 'recall'] });
  });

  it('runs on passages of the caller and stops when told', async () => {
    const data = join(folder, 'data.json');
    const passage = (index: number) => ({
      title: `T${index}`,
      context: `Passage ${index}.`,
      questions: [{ question: 'Q?', answer: 'A' }],
    });
    await writeFile(data, JSON.stringify(Array.from({ length: 9 }, (_, index) => passage(index))));
    const lines: string[] = [];
    await runDemo({ model, data, passages: 5, minutes: 0, write: (line) => lines.push(line) });
    expect(lines.join('\n')).toContain('3 passages to train on, 2 unseen ones');
    const controller = new AbortController();
    const write = (line: string) => line.startsWith('round ') && controller.abort();
    await expect(runDemo({ model, data, write, signal: controller.signal })).rejects.toMatchObject({
      code: 'ABORTED',
    });
  });
});

describe('the examples', () => {
  it('have a corpus and retention texts that fit their task', async () => {
    const { passages } = await readPassages(join(examples, 'corpus.json'));
    expect(passages.length).toBeGreaterThanOrEqual(24);
    for (const { questions } of passages) expect(questions).toHaveLength(6);
    // What is held out for the KL must not be what edits are written from.
    const { texts } = await readTexts(join(examples, 'retention.json'));
    for (const { context } of passages) expect(texts).not.toContain(context);
  });

  it('have a configuration that is valid and finds its data', async () => {
    const config = await readConfig(join(examples, 'train.yaml'));
    const { task } = await readTask(config);
    expect(task.evaluation.length).toBeGreaterThan(0);
    expect(task.retention.length).toBeGreaterThan(config.reward.retentionTexts);
  });
});
