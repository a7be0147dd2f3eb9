// Log-probs and greedy ids against transformers in float32, on tiny seeded models of every architecture and file format.
import { describe, expect, it } from 'vitest';
import { generate, Model, score } from '../../lib/index.js';
import { fixture, largestGap, readJson } from '../support/fixtures.js';

interface Expected {
  rows: { tokens: number[]; logprobs: (number | null)[] }[];
  greedy: { prompt: number[]; tokens: number[]; logprobs: number[]; margins: number[] }[];
}

const FOLDERS = [
  'llama-tied',
  'llama-untied-bias',
  'llama3-rope',
  'llama-linear-rope',
  'qwen2',
  'llama-bf16',
  'llama-sharded',
];
const GGUF = [
  'llama-f32',
  'llama-f16',
  'llama-bf16',
  'llama-q8_0',
  'llama-q4_0',
  'llama-q4_1',
  'qwen2-q8_0',
  'qwen2-q4_1',
];
const CASES = [
  ...FOLDERS.map((name) => ({
    name,
    path: fixture('models', name),
    expected: ['models', name, 'expected.json'],
  })),
  ...GGUF.map((name) => ({
    name: `${name}.gguf`,
    path: fixture('models', 'gguf', `${name}.gguf`),
    expected: ['models', 'gguf', `${name}.expected.json`],
  })),
];

describe.each(CASES)('$name', ({ path, expected: file }) => {
  const expected = readJson<Expected>(...file);

  it('gives the log-probs of transformers within 1e-4', async () => {
    await using model = await Model.load(path);
    const found = await score(expected.rows.map(({ tokens }) => ({ fork: model, tokens })));
    for (const [r, row] of expected.rows.entries())
      expect(largestGap(found[r]!, row.logprobs)).toBeLessThan(1e-4);
  });

  it('generates the greedy ids of transformers, with their log-probs', async () => {
    await using model = await Model.load(path);
    const rows = expected.greedy.map(({ prompt, tokens }) => ({
      fork: model,
      prompt,
      maxTokens: tokens.length,
    }));
    const found = await generate(rows, { temperature: 0 });
    for (const [r, row] of expected.greedy.entries()) {
      expect([...found[r]!.tokens]).toEqual(row.tokens);
      expect(largestGap(found[r]!.logprobs, row.logprobs)).toBeLessThan(1e-4);
    }
  });
});
