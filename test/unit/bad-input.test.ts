/** Calls with input that cannot work: one typed error that names the thing, and a process that goes on. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import {
  type AdaptEdit,
  adapt,
  Delta,
  divergence,
  type Fork,
  type GenerateRow,
  generate,
  type Model,
  Policy,
  type PolicyMinibatch,
  resolveTargets,
  score,
} from '../../lib/index.js';
import { bits, deltaOf, failureOf, floatsOf, tinyConfig, tinyModel, tokensOf } from '../support/tiny.js';

let model: Model;
let other: Model;
let fork: Fork;
let expected: string;
const tokens = tokensOf(30, 1);
const good = async (): Promise<string> => bits((await score([{ fork, tokens }]))[0]!);
beforeAll(async () => {
  model = await tinyModel();
  other = await tinyModel({ seed: 2 });
  fork = model.fork().apply(deltaOf(model));
  expected = await good();
});
afterAll(() => Promise.all([model.close(), other.close()]));
// Whatever was refused, the next call is as good as the first.
afterEach(async () => expect(await good()).toBe(expected));

type Case = [name: string, use: () => unknown, error: string, code: string, words: RegExp];
async function check([, use, name, code, words]: Case): Promise<void> {
  const error = await failureOf(use);
  expect({ name: error.name, code: error.code }, error.message).toEqual({ name, code });
  expect(error.message).toMatch(words);
}
const many = (length: number) => tokensOf(length, 1);
const row = (input: unknown) => [
  { fork: model, tokens: tokens },
  { fork, tokens: input as number[] },
];

describe('score and divergence', () => {
  const cases: Case[] = [
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
  it.each(cases)('%s', (...args) => check(args));
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
  const cases: Case[] = [
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
  it.each(cases)('%s', (...args) => check(args));
  it('no rows give no results', async () => expect(await generate([])).toEqual([]));
});

describe('adapt', () => {
  const edit = (rest: Partial<AdaptEdit> & Record<string, unknown> = {}) =>
    adapt(
      [
        { fork, documents: [tokens] },
        { fork, documents: [tokens], ...rest },
      ],
      { epochs: 1, rank: 2 },
    );
  const option = (options: AdaptEdit['options']) => () => edit({ options: options! });
  const cases: Case[] = [
    ['no documents', () => edit({ documents: [] }), 'InputError', 'INPUT_INVALID', /edit 1 has no documents/],
    [
      'a document of one token',
      () => edit({ documents: [tokens, [5]] }),
      'InputError',
      'INPUT_INVALID',
      /edit 1, document 1 has 1 token; expected at least 2/,
    ],
    [
      'an empty document',
      () => edit({ documents: [[]] }),
      'InputError',
      'PROMPT_EMPTY',
      /edit 1, document 0 has no tokens/,
    ],
    [
      'a document beyond the context',
      () => edit({ documents: [many(193)] }),
      'InputError',
      'CONTEXT_LENGTH',
      /edit 1, document 0 has 193 tokens; the model's context holds 192/,
    ],
    [
      'a token beyond the vocabulary',
      () => edit({ documents: [[1, 400]] }),
      'InputError',
      'TOKEN_RANGE',
      /document 1, position 1: token id 400/,
    ],
    [
      'an unknown target',
      option({ targets: ['w_proj'] }),
      'DeltaError',
      'TARGET_UNKNOWN',
      /"w_proj" matches no matrix/,
    ],
    ['no target', option({ targets: [] }), 'DeltaError', 'TARGET_UNKNOWN', /no target/],
    [
      'rank 0',
      option({ rank: 0 }),
      'InputError',
      'OPTION_INVALID',
      /edit 1: rank is 0; expected an integer from 1/,
    ],
    ['half a rank', option({ rank: 2.5 }), 'InputError', 'OPTION_INVALID', /edit 1: rank is 2\.5/],
    [
      'a rank beyond 32 bits',
      option({ rank: 2 ** 32 + 1 }),
      'InputError',
      'OPTION_INVALID',
      /edit 1: rank is 4294967297/,
    ],
    [
      'a rank beyond memory',
      option({ rank: 2 ** 30 }),
      'InputError',
      'OPTION_INVALID',
      /rank is 1073741824; expected 1 to 1048576/,
    ],
    ['no epochs', option({ epochs: 0 }), 'InputError', 'OPTION_INVALID', /edit 1: epochs is 0/],
    ['an empty batch', option({ batchSize: 0 }), 'InputError', 'OPTION_INVALID', /edit 1: batchSize is 0/],
    [
      'a negative rate',
      option({ learningRate: -1 }),
      'InputError',
      'OPTION_INVALID',
      /edit 1: learningRate is -1/,
    ],
    [
      'a rate that is NaN',
      option({ learningRate: Number.NaN }),
      'InputError',
      'OPTION_INVALID',
      /edit 1: learningRate is NaN/,
    ],
    [
      'an infinite alpha',
      option({ alpha: Infinity }),
      'InputError',
      'OPTION_INVALID',
      /edit 1: alpha is Infinity/,
    ],
    [
      'beta 1',
      option({ betas: [0.9, 1] }),
      'InputError',
      'OPTION_INVALID',
      /edit 1: betas must lie in \[0, 1\)/,
    ],
    ['epsilon 0', option({ epsilon: 0 }), 'InputError', 'OPTION_INVALID', /epsilon above 0/],
    ['a negative clip', option({ clip: -1 }), 'InputError', 'OPTION_INVALID', /edit 1: clip is -1/],
    [
      'a negative warm-up',
      option({ warmupSteps: -1 }),
      'InputError',
      'OPTION_INVALID',
      /edit 1: warmupSteps is -1/,
    ],
    [
      'an unknown schedule',
      option({ schedule: 'step' as never }),
      'InputError',
      'OPTION_INVALID',
      /schedule is step; expected constant, linear, cosine/,
    ],
    [
      'a mask of another length',
      () => edit({ lossMask: [new Uint8Array(29)] }),
      'InputError',
      'INPUT_INVALID',
      /edit 1, document 0: the loss mask has 29 entries for 30 tokens/,
    ],
    [
      'a mask too few',
      () => edit({ lossMask: [] }),
      'InputError',
      'INPUT_INVALID',
      /edit 1 has 0 loss masks for 1 documents/,
    ],
    [
      'a mask too many',
      () => edit({ lossMask: [new Uint8Array(30), new Uint8Array(30)] }),
      'InputError',
      'INPUT_INVALID',
      /edit 1 has 2 loss masks for 1/,
    ],
    [
      'a mask without loss',
      () => edit({ lossMask: [new Uint8Array(30)] }),
      'InputError',
      'INPUT_INVALID',
      /edit 1, document 0 .*has no token that carries loss/,
    ],
    [
      'a mask on the first token only',
      () => edit({ lossMask: [new Uint8Array(30).fill(1, 0, 1)] }),
      'InputError',
      'INPUT_INVALID',
      /has no token that carries loss/,
    ],
    [
      'initial values of other targets',
      () => edit({ init: deltaOf(model, { targets: ['k_proj', 'v_proj'], rank: 2 }) }),
      'DeltaError',
      'DELTA_SHAPE',
      /k_proj" where the chosen targets have .*q_proj/,
    ],
    [
      'initial values of fewer targets',
      () => edit({ init: deltaOf(model, { targets: ['q_proj'], rank: 2 }) }),
      'DeltaError',
      'DELTA_SHAPE',
      /changes 3 matrices, the chosen targets are 6/,
    ],
    [
      'initial values of another rank',
      () => edit({ init: deltaOf(model, { rank: 3 }) }),
      'DeltaError',
      'DELTA_SHAPE',
      /has rank 3, expected 2/,
    ],
    [
      'a fork of another model',
      () => edit({ fork: other }),
      'InputError',
      'INPUT_INVALID',
      /edit 1 belongs to another model/,
    ],
    [
      'half a step',
      () => adapt([{ fork, documents: [tokens] }], { maxStepTokens: 0.5 }),
      'InputError',
      'INPUT_INVALID',
      /"maxStepTokens" must be an integer/,
    ],
  ];
  it.each(cases)('%s', (...args) => check(args));
  it('no edits give no deltas', async () => expect(await adapt([])).toEqual([]));

  it('a loss that becomes NaN ends the call; forks and the model stay as they are', async () => {
    const before = await model.fingerprint();
    const options = { rank: 4, epochs: 20, learningRate: 1e30, clip: 0, schedule: 'constant' } as const;
    const error = await failureOf(
      adapt(
        [
          { fork, documents: [tokens] },
          { fork: model, documents: [tokens], options },
        ],
        { epochs: 20, rank: 2 },
      ),
    );
    expect(error).toMatchObject({ name: 'WorkError', code: 'LOSS_NOT_FINITE', exitCode: 1 });
    expect(error.message).toMatch(/edit 1, step \d+: .*(is|not) .*; lower the learning rate/);
    expect(await model.fingerprint()).toBe(before);
  });
});

describe('forks, deltas and models', () => {
  const cases: Case[] = [
    [
      'apply of something else',
      () => model.fork().apply({} as Delta),
      'InputError',
      'INPUT_INVALID',
      /expected a Delta/,
    ],
    [
      'apply of nothing',
      () => model.fork().apply(undefined as never),
      'InputError',
      'INPUT_INVALID',
      /expected a Delta/,
    ],
    [
      'apply of a fork',
      () => model.fork().apply(fork as never),
      'InputError',
      'INPUT_INVALID',
      /expected a Delta/,
    ],
    [
      'a scale that is NaN',
      () => model.fork().apply(deltaOf(model), { scale: Number.NaN }),
      'InputError',
      'INPUT_INVALID',
      /"scale" must be finite/,
    ],
    [
      'a scale that is text',
      () => model.fork().apply(deltaOf(model), { scale: '2' as never }),
      'InputError',
      'INPUT_INVALID',
      /"scale" must be a number/,
    ],
    [
      'a weight of no matrix',
      () => fork.weight('lm_head'),
      'DeltaError',
      'TARGET_UNKNOWN',
      /no matrix "lm_head"/,
    ],
    ['a weight of an id too high', () => fork.weight(21), 'DeltaError', 'TARGET_UNKNOWN', /no matrix "21"/],
    ['a weight of half an id', () => fork.weight(0.5), 'DeltaError', 'TARGET_UNKNOWN', /no matrix "0\.5"/],
    ['a weight of NaN', () => fork.weight(Number.NaN), 'DeltaError', 'TARGET_UNKNOWN', /no matrix "NaN"/],
    ['a part that is not there', () => deltaOf(model).factors(6), 'InputError', 'OPTION_INVALID', /no part/],
    ['half a part', () => deltaOf(model).factors(0.5), 'InputError', 'OPTION_INVALID', /no part/],
    [
      'a model without layers',
      () => tinyModel({}, { layers: 0 }),
      'ModelError',
      'CONFIG_INVALID',
      /layers is 0/,
    ],
    [
      'heads that do not divide',
      () => tinyModel({}, { kvHeads: 3 }),
      'ModelError',
      'CONFIG_INVALID',
      /heads \(4\) is not a multiple of kvHeads \(3\)/,
    ],
    [
      'an odd width of a head',
      () => tinyModel({}, { headDim: 9 }),
      'ModelError',
      'CONFIG_INVALID',
      /headDim is 9/,
    ],
    [
      'a vocabulary beyond memory',
      () => tinyModel({}, { vocabSize: 2 ** 30, hiddenSize: 2 ** 30 }),
      'WorkError',
      'OUT_OF_MEMORY',
      /memory/,
    ],
    [
      'a standard deviation that is NaN',
      () => tinyModel({ std: Number.NaN }),
      'InputError',
      'OPTION_INVALID',
      /std is nan/,
    ],
    [
      'an unknown dtype',
      () => tinyModel({ dtype: 'float8' as never }),
      'InputError',
      'OPTION_INVALID',
      /float8/,
    ],
    [
      'an unknown target',
      () => resolveTargets(model, ['nothing']),
      'DeltaError',
      'TARGET_UNKNOWN',
      /"nothing"/,
    ],
  ];
  it.each(cases)('%s', (...args) => check(args));

  it('a configuration that lacks a number', async () => {
    const { heads: _, ...rest } = tinyConfig();
    await check([
      '',
      () => tinyModel({}, { ...rest, heads: undefined as never }),
      'InputError',
      'INPUT_INVALID',
      /"heads" must be a number/,
    ]);
  });

  it('a delta that makes the numbers overflow is told by every call that uses it', async () => {
    const parts = Array.from(resolveTargets(model, ['down_proj']), (matrix) => {
      const { out, in: width } = model.matrices[matrix]!;
      return {
        matrix,
        rank: 1,
        scale: 1e30,
        a: floatsOf(width, matrix, 1e30),
        b: floatsOf(out, matrix + 9, 1e30),
      };
    });
    const broken = model.fork().apply(Delta.fromFactors(model, parts));
    for (const use of [
      () =>
        score([
          { fork: model, tokens },
          { fork: broken, tokens },
        ]),
      () => divergence([{ fork: broken, reference: model, tokens }]),
      () => generate([{ fork: broken, prompt: tokens }]),
      () => adapt([{ fork: broken, documents: [tokens] }], { epochs: 1, rank: 1 }),
    ]) {
      await check(['', use, 'WorkError', 'LOSS_NOT_FINITE', /not finite|(row|edit) \d.* is -?(nan|inf)/]);
    }
  });
});

describe('policies', () => {
  let folder: string;
  let policy: Policy;
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'selfedit-policy-'));
    policy = Policy.create(model, { rank: 2, valueHead: true });
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  const filled = (value: number, length = 30) => new Float32Array(length).fill(value);
  const minibatch = (
    rest: Partial<PolicyMinibatch['rows'][0]> = {},
    scalars: Partial<PolicyMinibatch> = {},
  ): PolicyMinibatch => ({
    rows: [
      {
        tokens,
        promptLength: 5,
        oldLogprobs: filled(-5),
        advantages: filled(1),
        returns: filled(1),
        oldValues: filled(0),
        ...rest,
      },
    ],
    ...scalars,
  });
  const step = (...args: Parameters<typeof minibatch>) => policy.step(minibatch(...args));
  const spoil = async (edit: (bytes: Buffer) => Uint8Array): Promise<string> => {
    const path = join(folder, 'spoilt.safetensors');
    await policy.save(path);
    writeFileSync(path, edit(readFileSync(path)));
    return path;
  };

  const cases: Case[] = [
    ['no rows', () => policy.step({ rows: [] }), 'InputError', 'INPUT_INVALID', /minibatch has no rows/],
    [
      'a prompt of no tokens',
      () => step({ promptLength: 0 }),
      'InputError',
      'INPUT_INVALID',
      /row 0: promptLength is 0; expected 1 to 30/,
    ],
    [
      'a prompt longer than the row',
      () => step({ promptLength: 31 }),
      'InputError',
      'INPUT_INVALID',
      /promptLength is 31/,
    ],
    [
      'the first token as an action',
      () => step({ actionMask: new Uint8Array(30).fill(1) }),
      'InputError',
      'INPUT_INVALID',
      /row 0: its first token cannot be an action/,
    ],
    [
      'a mask of another length',
      () => step({ actionMask: new Uint8Array(3) }),
      'InputError',
      'INPUT_INVALID',
      /actionMask has 3 entries; expected 30/,
    ],
    [
      'advantages of another length',
      () => step({ advantages: filled(1, 29) }),
      'InputError',
      'INPUT_INVALID',
      /row 0: advantages has 29 entries; expected 30/,
    ],
    [
      'no old log-probs',
      () => policy.step({ rows: [{ tokens, promptLength: 5, advantages: filled(1) }] }),
      'InputError',
      'INPUT_INVALID',
      /oldLogprobs has 0 entries/,
    ],
    [
      'a KL without a reference',
      () => step({}, { klCoefficient: 0.1 }),
      'InputError',
      'INPUT_INVALID',
      /referenceLogprobs has 0 entries/,
    ],
    [
      'returns without old values',
      () =>
        policy.step({
          rows: [
            { tokens, promptLength: 5, oldLogprobs: filled(-5), advantages: filled(1), returns: filled(1) },
          ],
        }),
      'InputError',
      'INPUT_INVALID',
      /oldValues has 0 entries/,
    ],
    [
      'a token beyond the vocabulary',
      () => step({ tokens: Int32Array.from(tokens, () => 400) }),
      'InputError',
      'TOKEN_RANGE',
      /row 0, position 0: token id 400/,
    ],
    ['temperature 0', () => step({}, { temperature: 0 }), 'InputError', 'OPTION_INVALID', /temperature is 0/],
    [
      'normalizer 0',
      () => step({}, { normalizer: 0 }),
      'InputError',
      'OPTION_INVALID',
      /normalizer must be above 0/,
    ],
    [
      'a rate that is NaN',
      () => step({}, { learningRate: Number.NaN }),
      'InputError',
      'OPTION_INVALID',
      /learningRate is nan/,
    ],
    [
      'a rate beyond float32',
      () => step({}, { learningRate: 1e300 }),
      'InputError',
      'OPTION_INVALID',
      /learningRate/,
    ],
    [
      "the value head's rate negative",
      () => step({}, { valueLearningRate: -1 }),
      'InputError',
      'OPTION_INVALID',
      /valueLearningRate is -1/,
    ],
    [
      'clipLow NaN',
      () => step({}, { clipLow: Number.NaN }),
      'InputError',
      'OPTION_INVALID',
      /clipLow is nan/,
    ],
    ['beta 1', () => step({}, { beta1: 1 }), 'InputError', 'OPTION_INVALID', /beta1 and beta2/],
    [
      'an advantage that is NaN',
      () => step({ advantages: filled(Number.NaN) }),
      'WorkError',
      'LOSS_NOT_FINITE',
      /policy step 1: loss -?nan.*was not changed/,
    ],
    [
      'an infinite return',
      () => step({ returns: filled(Infinity) }),
      'WorkError',
      'LOSS_NOT_FINITE',
      /policy step 1.*was not changed/,
    ],
    [
      'a return whose gradient overflows',
      () => step({ returns: filled(3e38), advantages: filled(0) }, { valueCoefficient: 1e30 }),
      'WorkError',
      'LOSS_NOT_FINITE',
      /was not changed/,
    ],
    [
      'values of too few parameters',
      () => policy.setParameters(new Float32Array(3)),
      'InputError',
      'INPUT_INVALID',
      /there are 3 parameters; the policy has/,
    ],
    ['rank 0', () => Policy.create(model, { rank: 0 }), 'InputError', 'OPTION_INVALID', /rank is 0/],
    [
      'a rank beyond memory',
      () => Policy.create(model, { rank: 2 ** 40 }),
      'InputError',
      'OPTION_INVALID',
      /rank is 1099511627776/,
    ],
    [
      'an alpha that is NaN',
      () => Policy.create(model, { alpha: Number.NaN }),
      'InputError',
      'OPTION_INVALID',
      /alpha is not finite/,
    ],
    [
      'a value bias that is NaN',
      () => Policy.create(model, { valueHead: true, valueBias: Number.NaN }),
      'InputError',
      'OPTION_INVALID',
      /valueBias/,
    ],
    [
      'an unknown target',
      () => Policy.create(model, { targets: ['x'] }),
      'DeltaError',
      'TARGET_UNKNOWN',
      /"x"/,
    ],
    [
      'values without a value head',
      () => Policy.create(model, { rank: 1 }).values([tokens]),
      'InputError',
      'OPTION_INVALID',
      /without a value head/,
    ],
    [
      'returns without a value head',
      () => Policy.create(model, { rank: 1 }).step(minibatch()),
      'InputError',
      'INPUT_INVALID',
      /no value head/,
    ],
    [
      'a checkpoint that is not there',
      () => policy.load(join(folder, 'nothing')),
      'FileError',
      'FILE_NOT_FOUND',
      /nothing/,
    ],
    [
      'a checkpoint cut short',
      async () => policy.load(await spoil((bytes) => bytes.subarray(0, -5))),
      'FileError',
      'FILE_TRUNCATED',
      /spoilt/,
    ],
    [
      'a checkpoint of another format',
      async () =>
        policy.load(
          await spoil((bytes) =>
            Buffer.from(bytes.toString('latin1').replace('policy-1', 'policy-9'), 'latin1'),
          ),
        ),
      'FileError',
      'FILE_FORMAT',
      /not a policy checkpoint/,
    ],
    [
      'a checkpoint with steps that are no number',
      async () =>
        policy.load(
          await spoil((bytes) =>
            Buffer.from(bytes.toString('latin1').replace('"steps":"0"', '"steps":"x"'), 'latin1'),
          ),
        ),
      'FileError',
      'FILE_FORMAT',
      /"steps" is not a number/,
    ],
    [
      'a folder that cannot be written',
      () => policy.save(join(folder, 'no', 'such', 'place')),
      'WorkError',
      'IO',
      /place/,
    ],
  ];
  it.each(cases)('%s leaves the policy as it was', async (...args) => {
    const before = [bits(policy.parameters()), policy.version];
    await check(args);
    expect([bits(policy.parameters()), policy.version]).toEqual(before);
  });

  it('a checkpoint of another shape, or without its value head', async () => {
    const path = join(folder, 'other.safetensors');
    await Policy.create(model, { rank: 3, valueHead: true }).save(path);
    await check([
      '',
      () => policy.load(path),
      'FileError',
      'TENSOR_SHAPE',
      /"values" has \d+ values, this policy has \d+/,
    ]);
    await Policy.create(model, { rank: 2 }).save(path);
    await check(['', () => policy.load(path), 'FileError', 'TENSOR_MISSING', /"value_head" is missing/]);
  });

  it('a step of rate 1e30 breaks the next one, which changes nothing; a checkpoint brings the policy back', async () => {
    const path = join(folder, 'good.safetensors');
    const own = Policy.create(model, { rank: 2, valueHead: true });
    await own.step(minibatch());
    await own.save(path);
    const saved = bits(own.parameters());
    const before = own.fork();
    const scores = bits((await score([{ fork: before, tokens }]))[0]!);
    await own.step(minibatch({}, { learningRate: 1e30 }));
    const broken = bits(own.parameters());
    expect(await failureOf(own.step(minibatch()))).toMatchObject({ code: 'LOSS_NOT_FINITE' });
    expect([bits(own.parameters()), own.version]).toEqual([broken, 2]);
    expect(bits((await score([{ fork: before, tokens }]))[0]!)).toBe(scores);
    await own.load(path);
    expect([bits(own.parameters()), own.version]).toEqual([saved, 1]);
    // With its moments: the next step is the one that would have been.
    const twin = Policy.create(model, { rank: 2, valueHead: true });
    await twin.step(minibatch());
    await twin.step(minibatch());
    await own.step(minibatch());
    expect(bits(own.parameters())).toBe(bits(twin.parameters()));
  });
});
