/** The addon's own checks: whatever reaches it, memory stays safe and the error says what is wrong. */
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import {
  type AdaptSpec,
  type EditHeadSpec,
  type GenerateSpec,
  type NativeEditHead,
  type NativeFork,
  type NativePolicy,
  type NativePolicySpec,
  native,
  type ScoreSpec,
} from '../../lib/binding.js';
import { type Delta, type Fork, type Model, score } from '../../lib/index.js';
import { deltaOf, tinyModel, tokensOf } from '../support/tiny.js';

let model: Model;
let fork: Fork;
let delta: Delta;
let policy: NativePolicy;
let head: NativeEditHead;
beforeAll(async () => {
  model = await tinyModel();
  fork = model.fork();
  delta = deltaOf(model);
  policy = model.handle.createPolicy(policySpec());
  head = await native().editHead(model.handle, headSpec()).promise;
});
afterAll(() => model.close());

/** Code and message of an error that the addon throws or rejects with. */
async function refusal(use: () => unknown): Promise<{ code: string; message: string }> {
  try {
    const result = use() as { promise?: Promise<unknown> } | undefined;
    await result?.promise;
  } catch (error) {
    const { code = 'none', message } = error as Error & { code?: string };
    return { code, message };
  }
  throw new Error('expected a refusal');
}
// Whatever was refused, the process goes on.
afterEach(async () => {
  expect((await score([{ fork, tokens: tokensOf(5, 1) }]))[0]!.length).toBe(5);
});

function policySpec(): NativePolicySpec {
  return { matrices: Int32Array.of(0), rank: 1, alpha: 1, key: 1n, valueHead: false, valueBias: 0 };
}

function headSpec(): EditHeadSpec {
  const ones = { spaces: Int32Array.of(1, 4), sizes: Int32Array.of(2, 1) };
  return { matrices: Int32Array.of(0, 2), ...ones, learntBasis: false, key: 1n };
}

const scoreSpec = (): ScoreSpec => ({
  tokens: tokensOf(10, 1),
  offsets: Int32Array.of(0, 4, 10),
  forks: [fork.handle],
  rowFork: Int32Array.of(0, 0),
  temperature: 1,
  maxBatchTokens: 0,
});

describe('objects of another kind', () => {
  const impostors: Record<string, () => unknown> = {
    undefined: () => undefined,
    'an object': () => ({}),
    'a function': () => () => {},
    'a model': () => model.handle,
    'a delta': () => delta.handle,
    'the TypeScript object': () => fork,
    'an heir of a fork': () => Object.create(fork.handle) as unknown,
    'a proxy of a fork': () => new Proxy(fork.handle, {}),
    'the prototype of forks': () => Object.getPrototypeOf(fork.handle) as unknown,
  };
  it.each(Object.keys(impostors))('%s is not taken for a fork', async (name) => {
    const forks = [impostors[name]!() as NativeFork];
    const found = await refusal(() => native().score({ ...scoreSpec(), forks }, undefined));
    expect(found).toEqual({ code: 'INPUT_INVALID', message: 'expected a fork made by this package' });
  });

  it('a fork is not taken for a delta, nor a delta for a model', async () => {
    expect(await refusal(() => fork.handle.apply(fork.handle as never, 1))).toMatchObject({
      code: 'INPUT_INVALID',
    });
    expect(await refusal(() => native().makeDelta(delta.handle as never, []))).toMatchObject({
      code: 'INPUT_INVALID',
    });
    expect(await refusal(() => native().loadDelta(fork.handle as never, 'x'))).toMatchObject({
      code: 'INPUT_INVALID',
    });
  });

  it('getters and methods of one class do not run on objects of another', () => {
    const handles: object[] = [model.handle, fork.handle, delta.handle, policy, head];
    for (const own of handles) {
      const members = Object.getOwnPropertyDescriptors(Object.getPrototypeOf(own) as object);
      for (const [name, { get, value }] of Object.entries(members)) {
        if (name === 'constructor') continue;
        const member = (get ?? value) as (...args: unknown[]) => unknown;
        for (const other of [
          ...handles.filter((handle) => handle !== own),
          {},
          Object.create(own) as object,
        ]) {
          expect(() => member.call(other, 0, 0), name).toThrow();
        }
      }
    }
    expect(fork.depth).toBe(0);
  });

  it('nobody else can construct one', () => {
    for (const handle of [model.handle, fork.handle, delta.handle, policy, head]) {
      const construct = handle.constructor as new (...args: unknown[]) => unknown;
      for (const args of [[], [{}], [handle], [1n]]) {
        expect(() => new construct(...args)).toThrow(/not constructed from JavaScript/);
      }
    }
  });
});

describe('ragged rows', () => {
  it.each<[string, Partial<Record<keyof ScoreSpec, unknown>>, string, RegExp]>([
    ['tokens of another type', { tokens: [1, 2] }, 'INPUT_INVALID', /"tokens" must be an Int32Array/],
    [
      'floats for tokens',
      { tokens: new Float32Array(10) },
      'INPUT_INVALID',
      /"tokens" must be an Int32Array/,
    ],
    ['no offsets', { offsets: new Int32Array(0) }, 'INPUT_INVALID', /"offsets"/],
    [
      'offsets that descend',
      { offsets: Int32Array.of(0, 8, 4, 10) },
      'INPUT_INVALID',
      /"offsets" must be ascending/,
    ],
    [
      'offsets that begin late',
      { offsets: Int32Array.of(4, 10) },
      'INPUT_INVALID',
      /"offsets" must be from 0/,
    ],
    [
      'offsets that end late',
      { offsets: Int32Array.of(0, 4, 11) },
      'INPUT_INVALID',
      /"offsets" must be from 0/,
    ],
    ['offsets below 0', { offsets: Int32Array.of(0, -4, 10) }, 'INPUT_INVALID', /ascending/],
    ['an empty row', { offsets: Int32Array.of(0, 0, 10) }, 'PROMPT_EMPTY', /row 0 has no tokens/],
    ['no forks', { forks: [] }, 'INPUT_INVALID', /"forks" must be at least one fork/],
    ['forks that are no list', { forks: {} }, 'INPUT_INVALID', /"forks" must be an array/],
    ['too few fork indices', { rowFork: Int32Array.of(0) }, 'INPUT_INVALID', /1 fork indices for 2 rows/],
    [
      'a fork index too high',
      { rowFork: Int32Array.of(0, 1) },
      'INPUT_INVALID',
      /fork index 1; there are 1 forks/,
    ],
    ['a negative fork index', { rowFork: Int32Array.of(-1, 0) }, 'INPUT_INVALID', /fork index -1/],
    ['text for a number', { temperature: '1' }, 'INPUT_INVALID', /"temperature" must be a number/],
    ['temperature 0', { temperature: 0 }, 'OPTION_INVALID', /score needs a number above 0/],
    [
      'temperature that float32 cannot hold',
      { temperature: 1e-60 },
      'OPTION_INVALID',
      /score needs a number above 0/,
    ],
    ['no temperature', { temperature: undefined }, 'INPUT_INVALID', /"temperature" must be a number/],
  ])('%s', async (_, change, code, words) => {
    const found = await refusal(() => native().score({ ...scoreSpec(), ...change } as ScoreSpec, undefined));
    expect(found.code).toBe(code);
    expect(found.message).toMatch(words);
  });

  it('no specification at all', async () => {
    for (const spec of [undefined, null, 3, 'x']) {
      expect(await refusal(() => native().score(spec as never, undefined))).toMatchObject({
        code: 'INPUT_INVALID',
      });
    }
  });

  it('arrays that are parts of larger or shared buffers are read at their own place', async () => {
    const reference = await native().score(scoreSpec(), undefined).promise;
    const buffers = [new ArrayBuffer(400), new SharedArrayBuffer(400)] as const;
    for (const buffer of buffers) {
      const tokens = new Int32Array(buffer as ArrayBuffer, 16, 10);
      tokens.set(tokensOf(10, 1));
      const found = await native().score({ ...scoreSpec(), tokens }, undefined).promise;
      expect(Array.from(found)).toEqual(Array.from(reference));
    }
  });

  it('a detached buffer has no tokens', async () => {
    const tokens = tokensOf(10, 1);
    structuredClone(tokens.buffer, { transfer: [tokens.buffer as ArrayBuffer] });
    expect(await refusal(() => native().score({ ...scoreSpec(), tokens }, undefined))).toMatchObject({
      code: 'INPUT_INVALID',
    });
  });

  it('rows are copied at the call: later changes do not reach it', async () => {
    const reference = await native().score(scoreSpec(), undefined).promise;
    const spec = scoreSpec();
    const job = native().score(spec, undefined);
    spec.tokens.fill(-1);
    spec.offsets.fill(99);
    spec.forks.length = 0;
    expect(Array.from(await job.promise)).toEqual(Array.from(reference));
  });
});

describe('generate', () => {
  const spec = (): GenerateSpec => ({
    tokens: tokensOf(10, 1),
    offsets: Int32Array.of(0, 4, 10),
    forks: [fork.handle],
    promptFork: Int32Array.of(0, 0),
    sharedPrefix: new Int32Array(0),
    rowPrompt: Int32Array.of(0, 1, 1),
    maxTokens: Int32Array.of(2, 2, 2),
    temperature: Float32Array.of(1, 1, 1),
    topP: Float32Array.of(1, 1, 1),
    topK: Int32Array.of(0, 0, 0),
    keys: BigUint64Array.of(1n, 2n, 3n),
    stopTokens: Int32Array.of(),
    stopStrings: [],
    maxRows: 0,
    application: 0,
  });
  it('the specification is good as it stands', async () => {
    expect((await native().generate(spec(), undefined).promise).tokens.length).toBe(6);
  });
  it.each<[string, Partial<GenerateSpec>, string, RegExp]>([
    [
      'a prompt index too high',
      { rowPrompt: Int32Array.of(0, 2, 1) },
      'INPUT_INVALID',
      /row 1: prompt index 2 of 2/,
    ],
    [
      'a negative prompt index',
      { rowPrompt: Int32Array.of(0, -1, 1) },
      'INPUT_INVALID',
      /row 1: prompt index -1/,
    ],
    ['too few keys', { keys: BigUint64Array.of(1n) }, 'INPUT_INVALID', /every row needs/],
    [
      'maxTokens 0',
      { maxTokens: Int32Array.of(2, 0, 2) },
      'OPTION_INVALID',
      /row 1: maxTokens must be at least 1/,
    ],
    [
      'temperature NaN',
      { temperature: Float32Array.of(1, 1, Number.NaN) },
      'OPTION_INVALID',
      /row 2: temperature/,
    ],
    ['topP 0', { topP: Float32Array.of(0, 1, 1) }, 'OPTION_INVALID', /row 0: topP must lie in \(0, 1\]/],
    ['topP NaN', { topP: Float32Array.of(Number.NaN, 1, 1) }, 'OPTION_INVALID', /row 0: topP/],
    ['topK below 0', { topK: Int32Array.of(0, -3, 0) }, 'OPTION_INVALID', /row 1: topK/],
    [
      'keys of another type',
      { keys: Float32Array.of(1) as never },
      'INPUT_INVALID',
      /"keys" must be a BigUint64Array/,
    ],
    ['stop strings without a tokenizer', { stopStrings: ['a'] }, 'TOKENIZER_INVALID', /stop strings need/],
    [
      'a stop string that is none',
      { stopStrings: [1 as never] },
      'INPUT_INVALID',
      /"stopStrings" must be a string/,
    ],
  ])('%s', async (_, change, code, words) => {
    const found = await refusal(() => native().generate({ ...spec(), ...change }, undefined));
    expect(found.code).toBe(code);
    expect(found.message).toMatch(words);
  });
});

describe('adapt', () => {
  const spec = (): AdaptSpec => ({
    tokens: tokensOf(10, 1),
    offsets: Int32Array.of(0, 4, 10),
    forks: [fork.handle],
    slotFork: Int32Array.of(0),
    slotDocuments: Int32Array.of(0, 2),
    lossMask: new Uint8Array(0),
    attended: new Int32Array(0),
    rank: Int32Array.of(2),
    alpha: Float32Array.of(4),
    learningRate: Float32Array.of(1e-3),
    epochs: Int32Array.of(1),
    batchSize: Int32Array.of(1),
    schedule: Int32Array.of(1),
    warmupSteps: Int32Array.of(0),
    beta1: Float32Array.of(0.9),
    beta2: Float32Array.of(0.999),
    epsilon: Float32Array.of(1e-8),
    weightDecay: Float32Array.of(0),
    clip: Float32Array.of(1),
    shuffle: Uint8Array.of(1),
    keys: BigUint64Array.of(1n),
    matrices: Int32Array.of(0, 2),
    matrixOffsets: Int32Array.of(0, 2),
    kind: Int32Array.of(0),
    density: Float32Array.of(0.1),
    selection: Int32Array.of(0),
    init: [null],
    maxStepTokens: 0,
    slots: 0,
    deterministic: false,
  });
  it('the specification is good as it stands', async () => {
    expect((await native().adapt(spec(), undefined).promise).loss.length).toBe(2);
  });
  it.each<[string, Partial<AdaptSpec>, string, RegExp]>([
    [
      'documents beyond the last',
      { slotDocuments: Int32Array.of(0, 3) },
      'INPUT_INVALID',
      /edit 0 has no documents/,
    ],
    [
      'documents before the first',
      { slotDocuments: Int32Array.of(-1, 2) },
      'INPUT_INVALID',
      /edit 0 has no documents/,
    ],
    [
      'documents backwards',
      { slotDocuments: Int32Array.of(2, 0) },
      'INPUT_INVALID',
      /edit 0 has no documents/,
    ],
    ['no document offsets', { slotDocuments: new Int32Array(0) }, 'INPUT_INVALID', /one entry a slot/],
    ['two ranks', { rank: Int32Array.of(2, 2) }, 'INPUT_INVALID', /one entry a slot \(1\)/],
    ['no slots', { slotFork: new Int32Array(0) }, 'INPUT_INVALID', /one entry a slot \(0\)/],
    ['a fork index too high', { slotFork: Int32Array.of(1) }, 'INPUT_INVALID', /fork index 1/],
    ['rank 0', { rank: Int32Array.of(0) }, 'OPTION_INVALID', /rank is 0/],
    [
      'a matrix that is not there',
      { matrices: Int32Array.of(0, 99) },
      'TARGET_UNKNOWN',
      /below \d+; found 99/,
    ],
    ['matrices that descend', { matrices: Int32Array.of(2, 0) }, 'TARGET_UNKNOWN', /must ascend/],
    ['no matrices', { matrixOffsets: Int32Array.of(0, 0) }, 'TARGET_UNKNOWN', /no matrix is chosen/],
    [
      'matrix offsets beyond the end',
      { matrixOffsets: Int32Array.of(0, 9) },
      'INPUT_INVALID',
      /"matrixOffsets"/,
    ],
    ['matrix offsets below 0', { matrixOffsets: Int32Array.of(-5, 2) }, 'INPUT_INVALID', /"matrixOffsets"/],
    [
      'an unknown schedule',
      { schedule: Int32Array.of(3) },
      'INPUT_INVALID',
      /"schedule" must be constant, linear or cosine/,
    ],
    ['epochs 0', { epochs: Int32Array.of(0) }, 'OPTION_INVALID', /epochs and batchSize/],
    ['a rate that is NaN', { learningRate: Float32Array.of(Number.NaN) }, 'OPTION_INVALID', /learning rate/],
    [
      'an infinite alpha',
      { alpha: Float32Array.of(Number.POSITIVE_INFINITY) },
      'OPTION_INVALID',
      /alpha is not finite/,
    ],
    ['beta 1', { beta2: Float32Array.of(1) }, 'OPTION_INVALID', /betas must lie in \[0, 1\)/],
    ['epsilon 0', { epsilon: Float32Array.of(0) }, 'OPTION_INVALID', /epsilon above 0/],
    ['a mask of another length', { lossMask: new Uint8Array(9) }, 'INPUT_INVALID', /9 entries for 10 tokens/],
    [
      'padding of other documents',
      { attended: Int32Array.of(2) },
      'INPUT_INVALID',
      /attended has 1 entries for/,
    ],
    [
      'padding alone',
      { attended: Int32Array.of(1, 0) },
      'INPUT_INVALID',
      /document 1: 0 tokens are attended/,
    ],
    ['padding behind the end', { attended: Int32Array.of(99, 1) }, 'INPUT_INVALID', /document 0: 99 tokens/],
    ['a mask without loss', { lossMask: new Uint8Array(10) }, 'INPUT_INVALID', /no token that carries loss/],
    ['an initial value that is no delta', { init: [{} as never] }, 'INPUT_INVALID', /expected a delta/],
  ])('%s', async (_, change, code, words) => {
    const found = await refusal(() => native().adapt({ ...spec(), ...change }, undefined));
    expect(found.code).toBe(code);
    expect(found.message).toMatch(words);
  });

  it('initial values made for a model with more and larger matrices', async () => {
    const large = await tinyModel({}, { layers: 9, hiddenSize: 96 });
    const init = [
      deltaOf(large, { targets: ['layers.8.mlp.up_proj', 'layers.8.mlp.down_proj'], rank: 2 }).handle,
    ];
    expect(await refusal(() => native().adapt({ ...spec(), init }, undefined))).toMatchObject({
      code: 'DELTA_INVALID',
    });
    const wide = [
      deltaOf(large, { targets: ['layers.0.self_attn.q_proj', 'layers.0.self_attn.v_proj'], rank: 2 }).handle,
    ];
    expect(await refusal(() => native().adapt({ ...spec(), init: wide }, undefined))).toMatchObject({
      code: 'DELTA_SHAPE',
    });
  });
});

describe('an edit head', () => {
  const material = () => ({
    ...{ tokens: tokensOf(10, 1), offsets: Int32Array.of(0, 4, 10), fork: fork.handle, adapted: [null] },
    ...{ contextDocuments: Int32Array.of(0, 2), rate: 0.1, fisher: false, folder: '' },
  });
  const vector = () => new Float32Array(3);

  it.each<[string, () => unknown, string, RegExp]>([
    [
      'spaces shorter than matrices',
      () => native().editHead(model.handle, { ...headSpec(), spaces: Int32Array.of(1) }),
      'INPUT_INVALID',
      /spaces/,
    ],
    [
      'an unknown space',
      () => native().editHead(model.handle, { ...headSpec(), spaces: Int32Array.of(1, 5) }),
      'INPUT_INVALID',
      /spaces/,
    ],
    [
      'matrices that fall',
      () => native().editHead(model.handle, { ...headSpec(), matrices: Int32Array.of(2, 0) }),
      'TARGET_UNKNOWN',
      /ascend/,
    ],
    [
      'a matrix beyond the last',
      () => native().editHead(model.handle, { ...headSpec(), matrices: Int32Array.of(0, 9999) }),
      'TARGET_UNKNOWN',
      /9999/,
    ],
    [
      'sizes below 1',
      () => native().editHead(model.handle, { ...headSpec(), sizes: Int32Array.of(-1, 1) }),
      'OPTION_INVALID',
      /-1 entries/,
    ],
    ['features of half a context', () => head.means(new Float32Array(5)), 'INPUT_INVALID', /features has 5/],
    [
      'documents of another number of contexts',
      () => head.material({ ...material(), contextDocuments: Int32Array.of(0, 1) }, undefined),
      'INPUT_INVALID',
      /contextDocuments/,
    ],
    ['no delta to modulate', () => head.material(material(), undefined), 'DELTA_SHAPE', /inner loop/],
    [
      'a delta that lacks the matrix',
      () => head.material({ ...material(), adapted: [native().makeDelta(model.handle, [])] }, undefined),
      'DELTA_SHAPE',
      /modulate/,
    ],
    [
      'material of another kind',
      () => head.compose([fork.handle as never], vector()),
      'INPUT_INVALID',
      /expected a delta/,
    ],
    ['no material', () => head.compose([null as never], vector()), 'INPUT_INVALID', /materials/],
    [
      'a vector too long',
      () => head.compose([delta.handle], new Float32Array(4)),
      'INPUT_INVALID',
      /4 numbers for 1 vectors/,
    ],
    [
      'the gradient of another delta',
      () => head.pullBack([delta.handle], vector(), [native().makeDelta(model.handle, [])]),
      'DELTA_SHAPE',
      /the gradient has no/,
    ],
    [
      'noise of another length',
      () => {
        head.noise = new Float32Array(1);
      },
      'INPUT_INVALID',
      /noise has 1/,
    ],
    [
      'keys of another number of contexts',
      () => head.sample({ means: vector(), keys: BigUint64Array.of(1n, 2n), samples: 1, antithetic: true }),
      'INPUT_INVALID',
      /means has 3/,
    ],
  ])('refuses %s', async (_, use, code, message) => {
    const found = await refusal(use);
    expect(found.code).toBe(code);
    expect(found.message).toMatch(message);
    expect(head.steps).toBe(0);
  });
});

describe('handles that are closed', () => {
  it('refuse every use, and may be closed again', async () => {
    const handle = model.handle.fork();
    const made = native().makeDelta(model.handle, []);
    const own = model.handle.createPolicy(policySpec());
    const emits = await native().editHead(model.handle, headSpec()).promise;
    for (const closing of [handle, made, own, emits]) {
      closing.close();
      closing.close();
    }
    const uses: (() => unknown)[] = [
      () => handle.depth,
      () => handle.fork(),
      () => handle.apply(delta.handle, 1),
      () => handle.revert(0),
      () => handle.memory(),
      () => handle.weight(0),
      () => native().score({ ...scoreSpec(), forks: [handle] }, undefined),
      () => made.parts,
      () => made.part(0),
      () => made.save('never'),
      () => fork.handle.apply(made, 1),
      () => own.steps,
      () => own.fork(),
      () => own.delta(),
      () => own.parameters(),
      () => own.save('never'),
      () => emits.steps,
      () => emits.noise,
      () => emits.parameters(),
      () => emits.means(new Float32Array(0)),
      () => emits.compose([], new Float32Array(0)),
      () => emits.save('never'),
    ];
    for (const use of uses) {
      const found = await refusal(use);
      expect(found.code, use.toString()).toBe('CLOSED');
      expect(found.message).toMatch(/^the (fork|delta|policy|edit head) is closed$/);
    }
  });
});
