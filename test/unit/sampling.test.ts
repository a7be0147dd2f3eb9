/** What generate draws, measured by score; how rows end. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type GenerateOptions, type Generation, generate, Model, score } from '../../lib/index.js';
import { fixture, largestGap } from '../support/fixtures.js';
import { bits, deltaOf, failureOf, tinyModel, tokensOf } from '../support/tiny.js';

let model: Model;
let real: Model; // with a tokenizer
beforeAll(async () => {
  model = await tinyModel({ std: 0.3 });
  real = await Model.load(fixture('models', 'llama-tied'));
});
afterAll(async () => {
  await model.close();
  await real.close();
});

const prompt = tokensOf(12, 5);
const VOCABULARY = 331;

/** Log-probs of every possible next token: one scored row each. */
async function nextLogprobs(tokens: ArrayLike<number>, temperature = 1): Promise<Float64Array> {
  const rows = Array.from({ length: VOCABULARY }, (_, next) => ({
    fork: model,
    tokens: Int32Array.of(...Array.from(tokens), next),
  }));
  return Float64Array.from(await score(rows, { temperature }), (row) => row.at(-1)!);
}
const best = (values: Float64Array): number => values.indexOf(Math.max(...values));

describe('temperature 0', () => {
  it('takes the most likely token every time, as top-k 1 does at any temperature', async () => {
    const rows = [0, 1.7].map((temperature) => ({
      fork: model,
      prompt,
      temperature,
      topK: temperature ? 1 : 0,
    }));
    const [greedy, first] = await generate(rows, { maxTokens: 6, seed: 3 });
    const sequence = Array.from(prompt);
    for (const token of greedy!.tokens) {
      expect(token).toBe(best(await nextLogprobs(sequence)));
      sequence.push(token);
    }
    expect(new Set(greedy!.tokens).size).toBeGreaterThan(2);
    expect(first!.tokens).toEqual(greedy!.tokens);
  });

  it('does not depend on the seed', async () => {
    const [a] = await generate([{ fork: model, prompt, seed: 1 }], { temperature: 0, maxTokens: 9 });
    const [b] = await generate([{ fork: model, prompt, seed: 2 }], { temperature: 0, maxTokens: 9 });
    expect(bits(a!.tokens)).toBe(bits(b!.tokens));
  });
});

describe('draws', () => {
  const draw = async (settings: GenerateOptions, samples = 4000): Promise<Float64Array> => {
    const drawn = await generate([{ fork: model, prompt, samples }], {
      maxTokens: 1,
      ...settings,
      maxRows: 1000,
    });
    const counts = new Float64Array(VOCABULARY);
    for (const { tokens } of drawn) counts[tokens[0]!]! += 1;
    return counts;
  };
  /** Σ (observed − expected)² / expected over the tokens that are likely enough, and how many those are. */
  const chiSquare = (counts: Float64Array, probabilities: Float64Array): { sum: number; cells: number } => {
    const total = counts.reduce((a, b) => a + b);
    let sum = 0;
    let cells = 0;
    for (const [token, p] of probabilities.entries()) {
      if (p * total < 5) continue;
      sum += (counts[token]! - p * total) ** 2 / (p * total);
      cells++;
    }
    return { sum, cells };
  };

  it.each([1, 0.5, 2.5])('follow the distribution at temperature %d', async (temperature) => {
    const probabilities = (await nextLogprobs(prompt, temperature)).map(Math.exp);
    expect(probabilities.reduce((a, b) => a + b)).toBeCloseTo(1, 4);
    const { sum, cells } = chiSquare(await draw({ temperature, seed: 1 }), probabilities);
    expect(cells).toBeGreaterThan(20);
    expect(sum).toBeLessThan(cells + 5 * Math.sqrt(2 * cells)); // five standard deviations
  });

  it('top-k draws from the k most likely tokens, top-p from the fewest that reach p', async () => {
    const probabilities = (await nextLogprobs(prompt)).map(Math.exp);
    const order = [...probabilities.keys()].sort((a, b) => probabilities[b]! - probabilities[a]!);
    const nucleus = (among: number[]): number[] => {
      const total = among.reduce((sum, token) => sum + probabilities[token]!, 0);
      let mass = 0;
      const end = among.findIndex((token) => {
        mass += probabilities[token]!;
        return mass >= 0.4 * total;
      });
      return among.slice(0, end + 1);
    };
    // Both together: top-p of what top-k has left, as in transformers.
    for (const [settings, kept] of [
      [{ topK: 7 }, order.slice(0, 7)],
      [{ topP: 0.4 }, nucleus(order)],
      [{ topK: 6, topP: 0.4 }, nucleus(order.slice(0, 6))],
    ] as const) {
      const counts = await draw({ ...settings, seed: 2 }, 3000);
      const drawn = [...counts.keys()].filter((token) => counts[token]! > 0);
      expect(drawn.sort((a, b) => a - b)).toEqual([...kept].sort((a, b) => a - b));
      const mass = kept.reduce((sum, token) => sum + probabilities[token]!, 0);
      const conditional = probabilities.map((p, token) => (kept.includes(token) ? p / mass : 0));
      const { sum, cells } = chiSquare(counts, conditional);
      expect(sum).toBeLessThan(cells + 5 * Math.sqrt(2 * cells));
    }
    expect(nucleus(order).length).toBeGreaterThan(nucleus(order.slice(0, 6)).length);
    expect(nucleus(order.slice(0, 6)).length).toBeGreaterThan(1);
  });

  it('same seed, same tokens; other seeds, samples and rows differ', async () => {
    const row = { fork: model, prompt, maxTokens: 12 };
    const text = (results: Generation[]) => results.map(({ tokens }) => bits(tokens));
    const samples = text(await generate([{ ...row, seed: 5, samples: 6 }]));
    expect(new Set(samples).size).toBe(6);
    expect(text(await generate([{ ...row, seed: 5n, samples: 6 }]))).toEqual(samples);
    expect(text(await generate([{ ...row, seed: 6, samples: 6 }]))).not.toEqual(samples);
    // More samples leave the first ones as they were.
    expect(text(await generate([{ ...row, seed: 5, samples: 9 }])).slice(0, 6)).toEqual(samples);
    const rows = text(await generate([row, row, row], { seed: 1 }));
    expect(new Set(rows).size).toBe(3);
    expect(text(await generate([row, row, row], { seed: 1 }))).toEqual(rows);
    expect(text(await generate([row, row, row], { seed: 2 }))).not.toEqual(rows);
  });
});

it('log-probs are those that score gives to the same tokens, at the temperature of the row', async () => {
  const fork = model.fork().apply(deltaOf(model, { targets: ['all'], size: 0.2 }));
  for (const [temperature, scored] of [
    [1, 1],
    [0.6, 0.6],
    [0, 1],
  ] as const) {
    for (const who of [model, fork]) {
      const settings = { temperature, topP: 0.9, topK: 50, maxTokens: 40, samples: 3, seed: 8 };
      const results = await generate([{ fork: who, prompt: tokensOf(70, 2), ...settings }]);
      for (const { prompt: given, tokens, logprobs } of results) {
        const row = Int32Array.of(...given, ...tokens);
        const [found] = await score([{ fork: who, tokens: row }], { temperature: scored });
        expect(largestGap(logprobs, found!.subarray(given.length))).toBeLessThan(1e-4);
      }
    }
  }
});

describe('a row ends', () => {
  const row = { prompt: 'Hello world', temperature: 0.9, seed: 4, maxTokens: 30 };
  const one = async (options: GenerateOptions & { prompt?: string | Int32Array; maxTokens?: number } = {}) =>
    (
      await generate(
        [{ ...row, ...('prompt' in options ? { prompt: options.prompt! } : {}), fork: real }],
        options,
      )
    )[0]!;

  it('at maxTokens', async () => {
    expect(await one()).toMatchObject({ finish: 'length', row: 0, sample: 0 });
    expect((await one()).tokens.length).toBe(30);
    expect(Array.from((await one()).prompt)).toEqual(Array.from(real.tokenizer.encode('Hello world')));
  });

  it('at a stop token, which is part of the tokens', async () => {
    const free = await one();
    const at = 11;
    const token = free.tokens[at]!;
    const first = free.tokens.indexOf(token);
    const stopped = await one({ stopTokens: [token] });
    expect(stopped.finish).toBe('stop');
    expect(Array.from(stopped.tokens)).toEqual(Array.from(free.tokens.subarray(0, first + 1)));
    expect(bits(stopped.logprobs)).toBe(bits(free.logprobs.slice(0, first + 1)));
  });

  it("at the tokenizer's end of text unless told otherwise", async () => {
    const [end] = real.tokenizer.eosTokenIds;
    const rows = Array.from({ length: 60 }, (_, seed) => ({
      fork: real,
      prompt: 'a',
      seed,
      temperature: 1.5,
      maxTokens: 60,
    }));
    const ended = (await generate(rows)).filter(({ finish }) => finish === 'stop');
    expect(ended.length).toBeGreaterThan(0);
    for (const { tokens, text } of ended) {
      expect(tokens.indexOf(end!)).toBe(tokens.length - 1);
      expect(text).not.toContain(real.tokenizer.decode([end!], { skipSpecialTokens: false }));
    }
    const on = await generate(rows, { stopTokens: [] });
    expect(on.filter(({ finish }) => finish !== 'length')).toEqual([]);
    expect(on.some(({ tokens }) => tokens.includes(end!))).toBe(true);
  });

  it('where a stop string is complete, also across tokens; the text is cut before it', async () => {
    const free = await one();
    const pieces = Array.from(free.tokens, (token) => real.tokenizer.decode([token]));
    // Two neighbouring tokens of plain text: the string lies across them.
    const at = pieces.findIndex((piece, i) => /[a-z]$/.test(piece) && /^[ a-z]/.test(pieces[i + 1] ?? ''));
    const stop = pieces[at]!.slice(-1) + pieces[at + 1]!.slice(0, 1);
    const cut = free.text.indexOf(stop);
    expect(cut).toBeGreaterThan(0);
    const stopped = await one({ stop: ['never there', stop] });
    expect(stopped.finish).toBe('stop');
    expect(stopped.text).toBe(free.text.slice(0, cut));
    expect(stopped.tokens.length).toBeLessThan(free.tokens.length);
    expect(Array.from(stopped.tokens)).toEqual(Array.from(free.tokens.subarray(0, stopped.tokens.length)));
    expect(real.tokenizer.decode(stopped.tokens)).toContain(stop);
    expect(real.tokenizer.decode(stopped.tokens.subarray(0, -1))).not.toContain(stop);
  });

  it('when the context is full', async () => {
    const long = tokensOf(120, 1, 512);
    const full = await one({ prompt: long });
    expect(full.finish).toBe('context');
    expect(full.tokens.length).toBe(real.config.maxPositions - 120);
    // Exactly as many as there is room for: the length was asked for.
    expect((await generate([{ ...row, fork: real, prompt: long, maxTokens: 7 }]))[0]).toMatchObject({
      finish: 'length',
    });
    expect((await one({ prompt: tokensOf(127, 1, 512) })).tokens.length).toBe(1);
    const error = await failureOf(one({ prompt: tokensOf(128, 1, 512) }));
    expect(error).toMatchObject({ name: 'InputError', code: 'CONTEXT_LENGTH' });
    expect(error.message).toContain('prompt 0 has 128 tokens');
  });

  it('stop strings need a tokenizer', async () => {
    const error = await failureOf(generate([{ fork: model, prompt }], { stop: ['x'] }));
    expect(error).toMatchObject({ name: 'ModelError', code: 'TOKENIZER_INVALID' });
  });
});

it('results come row by row, sample by sample', async () => {
  const rows = [3, 1, 2].map((samples, r) => ({
    fork: model,
    prompt: tokensOf(4 + r, r),
    samples,
    maxTokens: 3 - r,
  }));
  const results = await generate(rows, { maxRows: 2 });
  expect(results.map(({ row, sample }) => [row, sample])).toEqual([
    [0, 0],
    [0, 1],
    [0, 2],
    [1, 0],
    [2, 0],
    [2, 1],
  ]);
  for (const { row, tokens, logprobs, prompt: given } of results) {
    expect([tokens.length, logprobs.length]).toEqual([3 - row, 3 - row]);
    expect(Array.from(given)).toEqual(Array.from(rows[row]!.prompt));
  }
});

describe('a shared prefix', () => {
  it('is read once for the rows that name it, and changes nothing', async () => {
    const fork = model.fork().apply(deltaOf(model));
    const rows = [3, 4, 5].map((seed) => ({
      fork,
      prompt: Int32Array.of(...prompt, ...tokensOf(6, seed)),
      seed,
    }));
    const tokensOfAll = (all: Generation[]): string[] => all.map(({ tokens }) => bits(tokens));
    const plain = await generate(rows, { maxTokens: 8 });
    const shared = await generate(
      rows.map((row) => ({ ...row, sharedPrefix: prompt.length })),
      { maxTokens: 8 },
    );
    expect(tokensOfAll(shared)).toEqual(tokensOfAll(plain));
    const [alone] = await generate([{ ...rows[1]!, sharedPrefix: prompt.length }], { maxTokens: 8 });
    expect(bits(alone!.logprobs)).toBe(bits(shared[1]!.logprobs));
    for (const sharedPrefix of [18, -1, 1.5]) {
      const error = await failureOf(generate([{ ...rows[0]!, sharedPrefix }], { maxTokens: 1 }));
      expect(error.message).toMatch(
        /sharedPrefix is .*; expected an integer from 0, less than the prompt's 18/,
      );
    }
    await fork.close();
  });
});
