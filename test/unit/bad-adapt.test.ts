/** Edits that cannot be trained: one typed error that names the edit, and forks that stay as they were. */
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { type AdaptEdit, adapt, type Fork, type Model, score } from '../../lib/index.js';
import { expectRefusal, type Refusal } from '../support/refusals.js';
import { bits, deltaOf, failureOf, tinyModel, tokensOf } from '../support/tiny.js';

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

const many = (length: number) => tokensOf(length, 1);

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
  const cases: Refusal[] = [
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
  it.each(cases)('%s', (...args) => expectRefusal(args));
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

  it('values that overflow in the last step are not handed out', async () => {
    const options = {
      rank: 2,
      epochs: 1,
      learningRate: 3e38,
      weightDecay: 10,
      clip: 0,
      schedule: 'constant',
    } as const;
    const error = await failureOf(adapt([{ fork, documents: [tokens] }], options));
    expect(error).toMatchObject({ name: 'WorkError', code: 'LOSS_NOT_FINITE' });
    expect(error.message).toMatch(/edit 0: the values are not finite after the last step/);
  });
});
