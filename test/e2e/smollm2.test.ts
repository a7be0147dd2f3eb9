// The real model, SmolLM2-135M-Instruct from its GGUF, against transformers on the same dequantised float32 weights.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { adapt, generate, Model, pull, score } from '../../lib/index.js';
import { largestGap, readJson } from '../support/fixtures.js';

interface Greedy {
  rows: {
    messages: { role: 'user' | 'assistant' | 'system'; content: string }[];
    text: string;
    prompt: number[];
    tokens: number[];
    logprobs: number[];
  }[];
}

describe('SmolLM2-135M-Instruct', () => {
  const { rows } = readJson<Greedy>('smollm2', 'greedy.json');
  let model: Model;

  beforeAll(async () => {
    model = await Model.load(await pull('smollm2-135m-instruct'));
  }, 600_000);
  afterAll(async () => {
    await model?.close();
  });

  it('renders and encodes chat prompts as transformers does', () => {
    for (const { messages, prompt } of rows)
      expect([...model.tokenizer.encodeChat(messages)]).toEqual(prompt);
  });

  it('generates the greedy ids of transformers for 10 chat prompts and 32 tokens', {
    timeout: 300_000,
  }, async () => {
    const found = await generate(
      rows.map(({ prompt, tokens }) => ({ fork: model, prompt, maxTokens: Math.max(32, tokens.length) })),
      { temperature: 0 },
    );
    for (const [r, row] of rows.entries()) {
      expect([...found[r]!.tokens]).toEqual(row.tokens);
      expect(largestGap(found[r]!.logprobs, row.logprobs)).toBeLessThan(1e-3);
    }
  });

  it('learns a document by the inner loop and leaves the model as it was', { timeout: 300_000 }, async () => {
    const document = 'The Quillmere lighthouse was built of green basalt by Odra Venn in 1847.';
    const tokens = model.tokenizer.encode(document);
    const mean = (logprobs: Float32Array): number =>
      logprobs.slice(1).reduce((sum, value) => sum + value, 0) / (logprobs.length - 1);
    const before = mean((await score([{ fork: model, tokens }]))[0]!);
    const [edit] = await adapt([{ fork: model, documents: [document] }], { epochs: 6 });
    await using fork = model.fork().apply(edit!.delta);
    const [after, unedited] = await score([
      { fork, tokens },
      { fork: model, tokens },
    ]);
    expect(mean(unedited!)).toBe(before);
    expect(mean(after!)).toBeGreaterThan(before + 1);
    expect(edit!.loss.at(-1)).toBeLessThan(edit!.loss[0]! - 1);
  });
});
