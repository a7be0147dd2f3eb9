/** Rows that cannot be scored, compared or continued: one typed error that names the row, and a process that goes on. */
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { divergence, type Fork, type GenerateRow, generate, Model, score } from '../../lib/index.js';
import { fixture } from '../support/fixtures.js';
import { expectRefusal, type Refusal } from '../support/refusals.js';
import { bits, deltaOf, tinyModel, tokensOf } from '../support/tiny.js';

let model: Model;
let other: Model;
let real: Model; // with a tokenizer
let fork: Fork;
let expected: string;
const tokens = tokensOf(30, 1);
const good = async (): Promise<string> => bits((await score([{ fork, tokens }]))[0]!);
beforeAll(async () => {
  model = await tinyModel();
  other = await tinyModel({ seed: 2 });
  real = await Model.load(fixture('models', 'llama-tied'));
  fork = model.fork().apply(deltaOf(model));
  expected = await good();
});
afterAll(() => Promise.all([model.close(), other.close(), real.close()]));
// Whatever was refused, the next call is as good as the first.
afterEach(async () => expect(await good()).toBe(expected));

const many = (length: number) => tokensOf(length, 1);
const row = (input: unknown) => [
  { fork: model, tokens: tokens },
  { fork, tokens: input as number[] },
];

describe('score and divergence', () => {
  const cases: Refusal[] = [
    ['an empty row', () => score(row([])), 'InputError', 'PROMPT_EMPTY', /row 1 has no tokens/],
    [
      'an empty Int32Array',
      () => score(row(new Int32Array(0))),
      'InputError',
      'PROMPT_EMPTY',
      /row 1 has no tokens/,
    ],
    [
      'a row beyond the context',
      () => score(row(many(193))),
      'InputError',
      'CONTEXT_LENGTH',
      /row 1 has 193 tokens; the model's context holds 192/,
    ],
    [
      'a token beyond the vocabulary',
      () => score(row([1, 2, 331])),
      'InputError',
      'TOKEN_RANGE',
      /row 1, position 2: token id 331 is outside the vocabulary of 331/,
    ],
    ['a negative token', () => score(row([1, -2])), 'InputError', 'TOKEN_RANGE', /row 1, position 1: -2/],
    [
      'a negative token in an Int32Array',
      () => score(row(Int32Array.of(1, -2))),
      'InputError',
      'TOKEN_RANGE',
      /row 1, position 1: token id -2/,
    ],
    [
      'half a token',
      () => score(row([1, 2.5])),
      'InputError',
      'TOKEN_RANGE',
      /row 1, position 1: 2\.5 is not a token id/,
    ],
    [
      'a token that is NaN',
      () => score(row([Number.NaN])),
      'InputError',
      'TOKEN_RANGE',
      /row 1, position 0: NaN/,
    ],
    [
      'a token of 2^32',
      () => score(row([2 ** 32])),
      'InputError',
      'TOKEN_RANGE',
      /row 1, position 0: 4294967296/,
    ],
    [
      'no tokens at all',
      () => score(row(undefined)),
      'InputError',
      'INPUT_INVALID',
      /row 1 is undefined; expected text or token ids/,
    ],
    ['a number for tokens', () => score(row(5)), 'InputError', 'INPUT_INVALID', /row 1 is number/],
    [
      'text without a tokenizer',
      () => score(row('hello')),
      'ModelError',
      'TOKENIZER_INVALID',
      /has no tokenizer/,
    ],
    [
      'temperature 0',
      () => score(row([1]), { temperature: 0 }),
      'InputError',
      'OPTION_INVALID',
      /temperature is 0; score needs one above 0/,
    ],
    [
      'temperature NaN',
      () => score(row([1]), { temperature: Number.NaN }),
      'InputError',
      'OPTION_INVALID',
      /temperature is NaN/,
    ],
    [
      'an infinite temperature',
      () => score(row([1]), { temperature: Infinity }),
      'InputError',
      'OPTION_INVALID',
      /temperature is inf/,
    ],
    [
      'half a token a pass',
      () => score(row([1]), { maxBatchTokens: 1.5 }),
      'InputError',
      'INPUT_INVALID',
      /"maxBatchTokens" must be an integer/,
    ],
    [
      'something else for a fork',
      () => score([{ fork: {} as Fork, tokens }]),
      'InputError',
      'INPUT_INVALID',
      /row 0: expected a Fork or a Model/,
    ],
    [
      'nothing for a fork',
      () => score([{ fork: undefined as never, tokens }]),
      'InputError',
      'INPUT_INVALID',
      /row 0: expected a Fork or a Model/,
    ],
    [
      'a delta for a fork',
      () => score([...row([1]), { fork: deltaOf(model) as never, tokens }]),
      'InputError',
      'INPUT_INVALID',
      /row 2: expected a Fork or a Model/,
    ],
    [
      'forks of two models',
      () => score([...row([1]), { fork: other.fork(), tokens }]),
      'InputError',
      'INPUT_INVALID',
      /row 2 belongs to another model/,
    ],
    [
      'two models',
      () =>
        score([
          { fork: model, tokens },
          { fork: other, tokens },
        ]),
      'InputError',
      'INPUT_INVALID',
      /row 1 belongs to another model/,
    ],
    [
      'a reference of another model',
      () => divergence([{ fork, reference: other, tokens }]),
      'InputError',
      'INPUT_INVALID',
      /row 0 belongs to another model/,
    ],
    [
      'a reference that is none',
      () => divergence([{ fork, reference: 0 as never, tokens }]),
      'InputError',
      'INPUT_INVALID',
      /row 0: expected a Fork or a Model/,
    ],
    [
      'an empty row of a divergence',
      () => divergence([{ fork, reference: model, tokens: [] }]),
      'InputError',
      'PROMPT_EMPTY',
      /row 0/,
    ],
  ];
  it.each(cases)('%s', (...args) => expectRefusal(args));
  it('no rows give no results', async () => {
    expect(await score([])).toEqual([]);
    expect(await divergence([])).toEqual([]);
  });
});

describe('generate', () => {
  const prompt = (input: unknown, rest: Partial<GenerateRow> = {}) =>
    generate(
      [
        { fork: model, prompt: [1] },
        { fork, prompt: input as number[], ...rest },
      ],
      { maxTokens: 2 },
    );
  const cases: Refusal[] = [
    ['an empty prompt', () => prompt([]), 'InputError', 'PROMPT_EMPTY', /prompt 1 has no tokens/],
    [
      'a prompt that fills the context',
      () => prompt(many(192)),
      'InputError',
      'CONTEXT_LENGTH',
      /prompt 1 has 192 tokens and leaves no room in a context of 192/,
    ],
    [
      'a prompt beyond the context',
      () => prompt(many(500)),
      'InputError',
      'CONTEXT_LENGTH',
      /prompt 1 has 500 tokens/,
    ],
    [
      'a token beyond the vocabulary',
      () => prompt([5, 999]),
      'InputError',
      'TOKEN_RANGE',
      /prompt 1, position 1: token id 999/,
    ],
    [
      'temperature NaN',
      () => prompt([1], { temperature: Number.NaN }),
      'InputError',
      'OPTION_INVALID',
      /row 1: temperature/,
    ],
    [
      'a negative temperature',
      () => prompt([1], { temperature: -1 }),
      'InputError',
      'OPTION_INVALID',
      /row 1: temperature/,
    ],
    [
      'an infinite temperature',
      () => prompt([1], { temperature: Infinity }),
      'InputError',
      'OPTION_INVALID',
      /row 1: temperature/,
    ],
    [
      'topP 0',
      () => prompt([1], { topP: 0 }),
      'InputError',
      'OPTION_INVALID',
      /row 1: topP must lie in \(0, 1\]/,
    ],
    ['topP above 1', () => prompt([1], { topP: 1.1 }), 'InputError', 'OPTION_INVALID', /row 1: topP/],
    [
      'a negative topK',
      () => prompt([1], { topK: -1 }),
      'InputError',
      'OPTION_INVALID',
      /topK is -1; expected an integer from 0/,
    ],
    [
      'maxTokens 0',
      () => prompt([1], { maxTokens: 0 }),
      'InputError',
      'OPTION_INVALID',
      /maxTokens is 0; expected an integer from 1/,
    ],
    [
      'maxTokens beyond 32 bits',
      () => prompt([1], { maxTokens: 2 ** 32 }),
      'InputError',
      'OPTION_INVALID',
      /maxTokens is 4294967296/,
    ],
    ['no samples', () => prompt([1], { samples: 0 }), 'InputError', 'OPTION_INVALID', /row 1: samples is 0/],
    ['half a seed', () => prompt([1], { seed: 0.5 }), 'InputError', 'OPTION_INVALID', /seed is 0\.5/],
    [
      'an empty text',
      () => generate([{ fork: real, prompt: '' }]),
      'InputError',
      'PROMPT_EMPTY',
      /prompt 0 has no tokens/,
    ],
    [
      'an empty stop string of a model with a tokenizer',
      () => generate([{ fork: real, prompt: 'a' }], { stop: ['x', ''] }),
      'InputError',
      'OPTION_INVALID',
      /a stop string is empty/,
    ],
    [
      'one stop string where a list is expected',
      () => generate([{ fork, prompt: [1] }], { stop: 'abc' as never }),
      'InputError',
      'OPTION_INVALID',
      /stop is string; expected a list/,
    ],
    [
      'a stop token that is NaN',
      () => generate([{ fork, prompt: [1] }], { stopTokens: [Number.NaN] }),
      'InputError',
      'TOKEN_RANGE',
      /stop token NaN is outside the vocabulary of 331/,
    ],
    [
      'a stop token beyond the vocabulary',
      () => generate([{ fork, prompt: [1] }], { stopTokens: [2, 331] }),
      'InputError',
      'TOKEN_RANGE',
      /stop token 331 is outside/,
    ],
    [
      'an empty stop string',
      () => generate([{ fork, prompt: [1] }], { stop: [''] }),
      'ModelError',
      'TOKENIZER_INVALID',
      /stop strings need/,
    ],
    [
      'a fork of another model',
      () =>
        generate([
          { fork, prompt: [1] },
          { fork: other, prompt: [1] },
        ]),
      'InputError',
      'INPUT_INVALID',
      /row 1 belongs to another model/,
    ],
    [
      'a fork that is none',
      () => generate([{ fork: null as never, prompt: [1] }]),
      'InputError',
      'INPUT_INVALID',
      /row 0: expected a Fork or a Model/,
    ],
  ];
  it.each(cases)('%s', (...args) => expectRefusal(args));
  it('no rows give no results', async () => expect(await generate([])).toEqual([]));
});
