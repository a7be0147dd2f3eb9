/** Forks: copy on write over shared weights. */
import { cpSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { adapt, ClosedError, type Delta, type Fork, Model, Policy, score } from '../../lib/index.js';
import { fixture, largestGap, relativeDifference } from '../support/fixtures.js';
import { float32Of, readSafetensors, storeFloat32, writeSafetensors } from '../support/safetensors.js';
import { addProduct, bits, deltaOf, failureOf, tinyModel, tokensOf } from '../support/tiny.js';

let model: Model;
beforeAll(async () => {
  model = await tinyModel();
});
afterAll(() => model.close());

const tokens = tokensOf(40, 3);
async function scoreBits(fork: Fork | Model): Promise<string> {
  return bits((await score([{ fork, tokens }]))[0]!);
}
/** The bits of every matrix. */
async function weights(fork: Fork): Promise<string[]> {
  return Promise.all(model.matrices.map(async (_, id) => bits(await fork.weight(id))));
}

describe('memory', () => {
  it('a fork owns nothing and shares the bytes of the model', () => {
    const fork = model.fork();
    expect(fork.memory()).toEqual({ shared: model.bytes, own: 0 });
    expect(model.bytes).toBeGreaterThanOrEqual(model.parameters * 4);
  });

  it('owns the bytes of its deltas, each once', () => {
    const one = deltaOf(model, { seed: 1 });
    const two = deltaOf(model, { seed: 2, targets: ['up_proj'] });
    const expected = (delta: Delta): number =>
      delta.parts.reduce((sum, { matrix, rank }) => {
        const { out, in: width } = model.matrices[matrix]!;
        return sum + 4 * rank * (out + width);
      }, 0);
    const fork = model.fork().apply(one).apply(two).apply(one, { scale: 2 });
    expect(one.bytes).toBe(expected(one));
    expect(fork.memory().own).toBe(expected(one) + expected(two));
    expect(fork.fork().memory().own).toBe(expected(one) + expected(two));
    expect(fork.revert(0).memory().own).toBe(0);
  });

  it('10,000 forks of a 24 MB model take no weight memory', async () => {
    await using large = await tinyModel({}, { vocabSize: 20_000, hiddenSize: 160 });
    expect(large.bytes).toBeGreaterThan(20e6);
    const delta = deltaOf(large);
    large.fork().apply(delta);
    const before = process.memoryUsage.rss();
    const forks = Array.from({ length: 10_000 }, () => large.fork().apply(delta));
    const grown = process.memoryUsage.rss() - before;
    expect(forks.at(-1)!.depth).toBe(1);
    expect(grown).toBeLessThan(100e6); // 240 GB with copies
    await Promise.all(forks.map((fork) => fork.close()));
  });
});

describe('apply', () => {
  const chosen = ['layers.1.self_attn.k_proj', 'layers.0.mlp.*', 'o_proj'];

  it('changes exactly the chosen matrices', async () => {
    const fork = model.fork();
    const before = await weights(fork);
    const delta = deltaOf(model, { targets: chosen });
    fork.apply(delta);
    const after = await weights(fork);
    const changed = model.matrices.flatMap((_, id) => (after[id] === before[id] ? [] : [id]));
    expect(changed).toEqual(delta.parts.map(({ matrix }) => matrix));
    expect(changed.length).toBe(1 + 3 + 3);
    expect(await weights(model.fork())).toEqual(before);
  });

  it('gives W + scale · B A, several deltas adding up', async () => {
    const one = deltaOf(model, { seed: 1, rank: 2, scale: 0.5, targets: ['all'] });
    const two = deltaOf(model, { seed: 2, rank: 5, scale: -1.5, targets: ['down_proj', 'q_proj'] });
    const fork = model.fork().apply(one).apply(two, { scale: 0.25 });
    for (const [id, { name }] of model.matrices.entries()) {
      let expected: ArrayLike<number> = await model.fork().weight(id);
      for (const [delta, factor] of [
        [one, 1],
        [two, 0.25],
      ] as const) {
        const index = delta.parts.findIndex(({ matrix }) => matrix === id);
        if (index < 0) continue;
        const { rank, scale } = delta.parts[index]!;
        expected = addProduct(expected, { rank, scale: scale * factor }, delta.factors(index));
      }
      expect(relativeDifference(await fork.weight(name), expected), name).toBeLessThan(1e-6);
    }
  });

  it('leaves the model as it was: fingerprint before and after apply, adapt and policy.step', async () => {
    const before = await model.fingerprint();
    const fork = model.fork().apply(deltaOf(model, { targets: ['all'] }));
    await score([{ fork, tokens }]);
    await adapt([{ fork, documents: [tokens] }], { epochs: 2, rank: 2, targets: ['all'], learningRate: 0.1 });
    await using policy = Policy.create(model, { rank: 2 });
    await policy.step({
      rows: [{ tokens, promptLength: 4, oldLogprobs: tokensToLogprobs(), advantages: ones() }],
    });
    expect(policy.version).toBe(1);
    expect(await model.fingerprint()).toBe(before);
    expect(before).toMatch(/^[0-9a-f]{64}$/);
    await using other = await tinyModel({ seed: 8 });
    expect(await other.fingerprint()).not.toBe(before);
  });

  it('scores as a model does whose weights were merged and saved by someone else', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'selfedit-merged-'));
    try {
      cpSync(fixture('models', 'llama-tied'), folder, { recursive: true });
      await using base = await Model.load(fixture('models', 'llama-tied'));
      const delta = deltaOf(base, { targets: ['all'], rank: 4, scale: 0.6, size: 0.25 });
      const stored = readSafetensors(join(folder, 'model.safetensors'));
      for (const [index, { matrix, rank, scale }] of delta.parts.entries()) {
        const name = `${base.matrices[matrix]!.name}.weight`;
        const weight = stored.get(name)!;
        expect(bits(await base.fork().weight(matrix)), name).toBe(bits(float32Of(weight)));
        const merged = addProduct(float32Of(weight), { rank, scale }, delta.factors(index));
        stored.set(name, storeFloat32(weight.shape, merged));
      }
      writeSafetensors(join(folder, 'model.safetensors'), stored);
      await using merged = await Model.load(folder);
      const row = tokensOf(50, 9, 512);
      const [expected] = await score([{ fork: merged, tokens: row }]);
      const [found] = await score([{ fork: base.fork().apply(delta), tokens: row }]);
      const [plain] = await score([{ fork: base, tokens: row }]);
      expect(largestGap(found!, expected!)).toBeLessThan(1e-4);
      expect(largestGap(found!, plain!)).toBeGreaterThan(0.1);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  it('takes a delta of another model whose shapes fit, and names what does not fit', async () => {
    await using twin = await tinyModel();
    await using wide = await tinyModel({}, { hiddenSize: 56 });
    await using double = await tinyModel({ dtype: 'float64' });
    const fork = model.fork().apply(deltaOf(twin));
    expect(await scoreBits(fork)).toBe(await scoreBits(model.fork().apply(deltaOf(model))));
    for (const [other, code, words] of [
      [wide, 'DELTA_SHAPE', /"model\.layers\.0\.self_attn\.q_proj": A is \[3, 56\].*\[r, 48\]/],
      [double, 'DELTA_INVALID', /"model\.layers\.0\.self_attn\.q_proj" holds Double values.*Float/],
    ] as const) {
      const error = await failureOf(() => model.fork().apply(deltaOf(other)));
      expect(error).toMatchObject({ name: 'DeltaError', code });
      expect(error.message).toMatch(words);
    }
    // The other way round: float32 values read as float64 would reach beyond them.
    expect(await failureOf(() => double.fork().apply(deltaOf(model)))).toMatchObject({
      code: 'DELTA_INVALID',
    });
  });
});

function ones(): Float32Array {
  return new Float32Array(tokens.length).fill(1);
}
function tokensToLogprobs(): Float32Array {
  return new Float32Array(tokens.length).fill(-5);
}

describe('forks of forks', () => {
  it('go their own ways', async () => {
    const [one, two, three] = [1, 2, 3].map((seed) => deltaOf(model, { seed }));
    const parent = model.fork().apply(one!);
    const before = await scoreBits(parent);
    const child = parent.fork();
    expect(await scoreBits(child)).toBe(before);
    child.apply(two!);
    const grandchild = child.fork().apply(three!);
    expect([parent.depth, child.depth, grandchild.depth]).toEqual([1, 2, 3]);
    expect(await scoreBits(parent)).toBe(before);
    const all = await Promise.all([parent, child, grandchild].map(scoreBits));
    expect(new Set(all).size).toBe(3);
    parent.apply(two!).apply(three!);
    expect(await scoreBits(parent)).toBe(all[2]);
    await parent.close();
    expect(await scoreBits(grandchild)).toBe(all[2]);
  });

  it('revert to any depth with the bits from before', async () => {
    const fork = model.fork();
    const history = [await scoreBits(fork)];
    for (const seed of [1, 2, 3, 4]) {
      fork.apply(deltaOf(model, { seed, targets: seed % 2 ? ['all'] : ['q_proj'] }), { scale: seed / 2 });
      history.push(await scoreBits(fork));
    }
    expect(new Set(history).size).toBe(5);
    const whole = fork.fork();
    for (const depth of [4, 3, 1, 0]) {
      expect(await scoreBits(fork.revert(depth)), `depth ${depth}`).toBe(history[depth]);
      expect(await scoreBits(whole.fork().revert(depth)), `depth ${depth} of a copy`).toBe(history[depth]);
    }
    const error = await failureOf(() => whole.revert(5));
    expect(error).toMatchObject({ name: 'InputError', code: 'OPTION_INVALID' });
    expect(error.message).toContain('holds 4 deltas');
    for (const depth of [-1, 1.5, Number.NaN]) {
      expect(await failureOf(() => whole.revert(depth))).toMatchObject({ code: 'OPTION_INVALID' });
    }
    expect(whole.depth).toBe(4);
  });
});

describe('lives', () => {
  it('a delta lives on in its forks after its own close', async () => {
    const delta = deltaOf(model);
    const fork = model.fork().apply(delta);
    const before = await scoreBits(fork);
    await delta.close();
    expect(await scoreBits(fork)).toBe(before);
    expect(await scoreBits(fork.fork())).toBe(before);
    const error = await failureOf(() => model.fork().apply(delta));
    expect(error).toBeInstanceOf(ClosedError);
    expect(error.message).toContain('delta');
  });

  it('forks, deltas and policies work on after the close of their model', async () => {
    const short = await tinyModel();
    const fork = short.fork().apply(deltaOf(short));
    const policy = Policy.create(short, { rank: 2 });
    const before = await scoreBits(fork);
    await short.close();
    expect(await scoreBits(fork)).toBe(before);
    const [made] = await adapt([{ fork, documents: [tokens] }], { epochs: 1, rank: 2 });
    expect(made!.steps).toBe(1);
    expect(await scoreBits(policy.fork())).toBe(await scoreBits(model));
    for (const use of [
      () => short.fork(),
      () => scoreBits(short),
      () => short.fingerprint(),
      () => Policy.create(short),
    ]) {
      expect(await failureOf(use)).toMatchObject({ name: 'ClosedError', code: 'CLOSED' });
    }
  });

  it('a call in flight keeps the deltas it began with', async () => {
    const fork = model.fork().apply(deltaOf(model, { seed: 1 }));
    const before = await scoreBits(fork);
    const running = score([{ fork, tokens }]);
    fork.revert(0).apply(deltaOf(model, { seed: 2 }));
    expect(bits((await running)[0]!)).toBe(before);
    expect(await scoreBits(fork)).not.toBe(before);
  });

  it("a policy's fork does not follow the policy; values can be set while forks hold the old ones", async () => {
    await using policy = Policy.create(model, { rank: 2, targets: ['q_proj', 'up_proj'] });
    const start = policy.parameters().map((value, i) => value + 0.05 * Math.sin(i));
    policy.setParameters(start);
    const fork = policy.fork();
    const delta = policy.delta();
    const before = await scoreBits(fork);
    const step = { rows: [{ tokens, promptLength: 1, oldLogprobs: tokensToLogprobs(), advantages: ones() }] };
    await policy.step({ ...step, learningRate: 0.01 });
    expect(await scoreBits(fork)).toBe(before);
    expect(await scoreBits(model.fork().apply(delta))).toBe(before);
    // The values are now the policy's own copy, made by the compute thread; they can be set from here.
    const moved = policy.parameters();
    expect(bits(moved)).not.toBe(bits(start));
    policy.setParameters(start);
    expect(await scoreBits(policy.fork())).toBe(before);
    policy.setParameters(moved);
    expect(await scoreBits(policy.fork())).not.toBe(before);
    expect(await scoreBits(fork)).toBe(before);
  });
});
