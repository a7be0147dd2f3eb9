/** Deltas, configurations and names that do not fit a model. */
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import {
  adapt,
  Delta,
  divergence,
  type Fork,
  generate,
  type Model,
  resolveTargets,
  score,
} from '../../lib/index.js';
import { expectRefusal, type Refusal } from '../support/refusals.js';
import { bits, deltaOf, floatsOf, tinyConfig, tinyModel, tokensOf } from '../support/tiny.js';

let model: Model;
let fork: Fork;
let expected: string;
const tokens = tokensOf(30, 1);
const good = async (): Promise<string> => bits((await score([{ fork, tokens }]))[0]!);
beforeAll(async () => {
  model = await tinyModel();
  fork = model.fork().apply(deltaOf(model));
  expected = await good();
});
afterAll(() => model.close());
// Whatever was refused, the next call is as good as the first.
afterEach(async () => expect(await good()).toBe(expected));

describe('forks, deltas and models', () => {
  const cases: Refusal[] = [
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
      () => fork.weight('model.norm.bias'),
      'DeltaError',
      'TARGET_UNKNOWN',
      /no matrix "model\.norm\.bias"/,
    ],
    ['a weight of an id too high', () => fork.weight(99), 'DeltaError', 'TARGET_UNKNOWN', /no matrix "99"/],
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
  it.each(cases)('%s', (...args) => expectRefusal(args));

  it('a configuration that lacks a number', async () => {
    const { heads: _, ...rest } = tinyConfig();
    await expectRefusal([
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
      await expectRefusal([
        '',
        use,
        'WorkError',
        'LOSS_NOT_FINITE',
        /not finite|(row|edit) \d.* is -?(nan|inf)/,
      ]);
    }
  });
});
