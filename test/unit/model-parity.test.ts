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
  'llama2',
  'llama-yarn',
  'mistral',
  'qwen2-windows',
  'qwen3',
  'qwen3-bias-windows',
  'gemma3',
  'gemma3-untied',
  'phi3',
  'phi3-longrope',
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
  'llama3-q5_0-q4_k',
  'mistral-q5_1-q3_k',
  'qwen2-yarn-q4_0-q5_k',
  'qwen3-q4_1-q2_k',
  'gemma3-q5_0-q4_k-q6_k',
  'phi3-q4_0-q5_k',
];
/** In parts, as llama-gguf-split makes them; the first stands for all. */
const SPLIT = new Set(['llama3-q5_0-q4_k']);
const CASES = [
  ...FOLDERS.map((name) => ({
    name,
    path: fixture('models', name),
    expected: ['models', name, 'expected.json'],
  })),
  ...GGUF.map((name) => ({
    name: `${name}.gguf`,
    path: fixture('models', 'gguf', `${name}${SPLIT.has(name) ? '-00001-of-00003' : ''}.gguf`),
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
