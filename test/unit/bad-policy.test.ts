/** Minibatches, settings and checkpoints that a policy refuses; it stays as it was. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { type Fork, type Model, Policy, type PolicyMinibatch, score } from '../../lib/index.js';
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

  const cases: Refusal[] = [
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
    await expectRefusal(args);
    expect([bits(policy.parameters()), policy.version]).toEqual(before);
  });

  it('a checkpoint of another shape, or without its value head', async () => {
    const path = join(folder, 'other.safetensors');
    await Policy.create(model, { rank: 3, valueHead: true }).save(path);
    await expectRefusal([
      '',
      () => policy.load(path),
      'FileError',
      'TENSOR_SHAPE',
      /"values" has \d+ values, this policy has \d+/,
    ]);
    await Policy.create(model, { rank: 2 }).save(path);
    await expectRefusal([
      '',
      () => policy.load(path),
      'FileError',
      'TENSOR_MISSING',
      /"value_head" is missing/,
    ]);
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
