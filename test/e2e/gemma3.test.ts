// The real model, Gemma 3 270M from its GGUF, against transformers on the same dequantised float32 weights.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { generate, Model, pull } from '../../lib/index.js';
import { largestGap, readJson } from '../support/fixtures.js';

interface Greedy {
  rows: { text: string; prompt: number[]; tokens: number[]; logprobs: number[] }[];
}

describe('Gemma 3 270M', () => {
  const { rows } = readJson<Greedy>('gemma3', 'greedy.json');
  let model: Model;

  beforeAll(async () => {
    model = await Model.load(await pull('gemma3-270m'));
  }, 600_000);
  afterAll(async () => {
    await model?.close();
  });

  it('encodes as transformers does', () => {
    for (const { text, prompt } of rows) expect([...model.tokenizer.encode(text)]).toEqual(prompt);
  });

  it('generates the greedy ids of transformers for 10 prompts and 32 tokens', {
    timeout: 300_000,
  }, async () => {
    const found = await generate(
      rows.map(({ prompt }) => ({ fork: model, prompt, maxTokens: 32 })),
      { temperature: 0 },
    );
    for (const [r, row] of rows.entries()) {
      expect([...found[r]!.tokens]).toEqual(row.tokens);
      expect(largestGap(found[r]!.logprobs, row.logprobs)).toBeLessThan(1e-3);
    }
  });
});
