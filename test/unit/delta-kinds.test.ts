/** Deltas of all kinds through the public API: values in and out, files, algebra, gradients, training, copied rows. */
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  adapt,
  Delta,
  type DeltaPartInput,
  divergence,
  type Fork,
  generate,
  gradient,
  type Model,
  resolveTargets,
  score,
} from '../../lib/index.js';
import { bits, deltaOf, draws, failureOf, floatsOf, tinyModel, tokensOf } from '../support/tiny.js';

let model: Model;
let folder: string;
beforeAll(async () => {
  model = await tinyModel({}, { qkvBias: true });
  folder = mkdtempSync(join(tmpdir(), 'selfedit-kinds-'));
});
afterAll(async () => {
  rmSync(folder, { recursive: true });
  await model.close();
});

const Q = 'model.layers.0.self_attn.q_proj';
const DOWN = 'model.layers.1.mlp.down_proj';
const NORM = 'model.layers.2.post_attention_layernorm';

function shape(name: string): { out: number; in: number } {
  return model.tensors.find((tensor) => tensor.name === name)!;
}

/** Every entry with probability `density`; the first row stays empty. */
function sparse(name: string, seed: number, density = 0.2): Extract<DeltaPartInput, { kind: 'sparse' }> {
  const { out, in: width } = shape(name);
  const chosen = draws(out * width, seed);
  const rowOffsets = new Int32Array(out + 1);
  const columns: number[] = [];
  for (let row = 0; row < out; row++) {
    for (let column = 0; row > 0 && column < width; column++) {
      if (chosen[row * width + column]! < density) columns.push(column);
    }
    rowOffsets[row + 1] = columns.length;
  }
  return {
    kind: 'sparse',
    matrix: name,
    scale: 0.5,
    rowOffsets,
    columns: Int32Array.from(columns),
    values: floatsOf(columns.length, seed + 1, 0.5),
  };
}

function dense(name: string, seed: number): Extract<DeltaPartInput, { kind: 'dense' }> {
  const { out, in: width } = shape(name);
  return { kind: 'dense', matrix: name, scale: 2, values: floatsOf(out * width, seed, 0.1) };
}

/** The change as a whole matrix in float64, computed here. */
function whole(part: ReturnType<Delta['part']>): Float64Array {
  const { out, in: width } = model.tensors[part.matrix]!;
  const result = new Float64Array(out * width);
  for (let o = 0; o < out; o++) {
    for (let i = 0; i < width; i++) {
      const at = o * width + i;
      if (part.kind === 'dense') result[at] = part.scale * part.values[at]!;
      if (part.kind === 'lowRank') {
        for (let r = 0; r < part.rank; r++) {
          result[at]! += part.scale * part.b[o * part.rank + r]! * part.a[r * width + i]!;
        }
      }
      if (part.kind === 'spectral') {
        const rank = part.values.length;
        for (let r = 0; r < rank; r++) {
          const gain = part.scale * part.sigma[r]! * part.values[r]!;
          result[at]! += gain * part.u[o * rank + r]! * part.v[r * width + i]!;
        }
      }
    }
    if (part.kind === 'sparse') {
      for (let k = part.rowOffsets[o]!; k < part.rowOffsets[o + 1]!; k++) {
        result[o * width + part.columns[k]!] = part.scale * part.values[k]!;
      }
    }
  }
  return result;
}

/** Sum of the changes of each weight. */
function wholes(delta: Delta): Map<number, Float64Array> {
  const sums = new Map<number, Float64Array>();
  for (const index of delta.parts.keys()) {
    const part = delta.part(index);
    const sum = sums.get(part.matrix);
    const change = whole(part);
    sums.set(part.matrix, sum ? sum.map((value, i) => value + change[i]!) : change);
  }
  return sums;
}

function gap(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let most = 0;
  for (let i = 0; i < a.length; i++) most = Math.max(most, Math.abs(a[i]! - b[i]!));
  return most;
}

async function mixed(seed = 1): Promise<Delta> {
  const spectral = await Delta.spectral(
    model,
    [{ matrix: 'model.layers.2.mlp.up_proj', values: floatsOf(4, seed, 0.4), scale: 0.9 }],
    { cacheDir: null },
  );
  const others = Delta.fromParts(model, [
    dense(NORM, seed + 1),
    sparse('lm_head', seed + 2, 0.05),
    sparse('model.embed_tokens', seed + 3, 0.05),
    dense('model.layers.0.self_attn.k_proj.bias', seed + 4),
    dense(DOWN, seed + 5),
    sparse(Q, seed + 6),
  ]);
  return Delta.add([spectral, others, deltaOf(model, { seed })]);
}

describe('values', () => {
  it('of every kind come back to the bit, by ascending weight', () => {
    const parts = [sparse(DOWN, 3), dense(NORM, 5), dense(Q, 6), sparse(Q, 7)];
    const delta = Delta.fromParts(model, parts);
    expect(delta.kind).toBe('mixed');
    expect(delta.parts.map(({ matrix, kind }) => [model.tensors[matrix]!.name, kind])).toEqual([
      [Q, 'sparse'],
      [Q, 'dense'],
      [DOWN, 'sparse'],
      [NORM, 'dense'],
    ]);
    const found = delta.part(2);
    const given = parts[0] as Extract<DeltaPartInput, { kind: 'sparse' }>;
    if (found.kind !== 'sparse') throw new Error('not sparse');
    expect(bits(found.values)).toBe(bits(given.values));
    expect(bits(found.columns)).toBe(bits(given.columns));
    expect(bits(found.rowOffsets)).toBe(bits(given.rowOffsets));
    expect(delta.parts.map(({ values }) => values)[2]).toBe(given.values.length);
  });

  it('change the effective weight by exactly what they say, and no other weight', async () => {
    const delta = await mixed();
    await using fork = model.fork();
    const before = await Promise.all(model.tensors.map((_, id) => fork.weight(id)));
    fork.apply(delta, { scale: 0.7 });
    const changes = wholes(delta);
    for (const [id, base] of before.entries()) {
      const after = await fork.weight(id);
      const change = changes.get(id);
      if (change)
        expect(
          gap(
            after,
            Float64Array.from(base, (w, i) => w + 0.7 * change[i]!),
          ),
        ).toBeLessThan(1e-5);
      else expect(bits(after)).toBe(bits(base));
    }
  });

  it.each<[string, () => DeltaPartInput, RegExp]>([
    [
      'columns that do not ascend',
      () => ({ ...sparse(Q, 1), columns: sparse(Q, 1).columns.reverse() }),
      /ascending columns|names column/,
    ],
    [
      'the same column twice',
      () => {
        const part = sparse(Q, 1, 1);
        part.columns[1] = part.columns[0]!;
        return part;
      },
      /expected ascending columns, each once/,
    ],
    [
      'a column beyond the last',
      () => ({ ...sparse(Q, 1, 1), columns: sparse(Q, 1, 1).columns.map((c) => c + 1) }),
      /names column 48; there are 48/,
    ],
    [
      'offsets of another shape',
      () => ({ ...sparse(Q, 1), rowOffsets: new Int32Array(3) }),
      /row offsets are \[3\]/,
    ],
    [
      'values that are not finite',
      () => ({ ...dense(Q, 1), values: dense(Q, 1).values.fill(Number.NaN) }),
      /NaN or infinite/,
    ],
    [
      'too few values',
      () => ({ ...dense(Q, 1), values: new Float32Array(5) }),
      /has 5 values; expected 40 x 48/,
    ],
    ['an unknown kind', () => ({ ...dense(Q, 1), kind: 'diagonal' as never }), /kind is "diagonal"/],
  ])('are refused: %s', async (_, part, words) => {
    const error = await failureOf(() => Delta.fromParts(model, [part()]));
    expect(error.message).toMatch(words);
    expect(['DELTA_INVALID', 'DELTA_SHAPE', 'INPUT_INVALID']).toContain(error.code);
  });

  it('spectral: more scales than singular values, or a vector', async () => {
    const many = Delta.spectral(model, [{ matrix: Q, values: new Float32Array(41) }], { cacheDir: null });
    expect((await failureOf(many)).message).toMatch(/41 scales; the weight has 1 to 40 singular values/);
    const vector = Delta.spectral(model, [{ matrix: NORM, values: new Float32Array(1) }], { cacheDir: null });
    expect((await failureOf(vector)).code).toBe('TARGET_UNKNOWN');
  });
});

describe('files', () => {
  it('hold every kind to the bit', async () => {
    const delta = await mixed();
    const path = join(folder, 'mixed');
    await delta.save(path);
    expect(readdirSync(path)).toEqual(['delta.safetensors']);
    await using back = await Delta.load(model, path);
    expect(back.parts).toEqual(delta.parts);
    for (const index of delta.parts.keys()) expect(back.part(index)).toEqual(delta.part(index));
  });

  it('keep singular factors between processes, and make up for a spoilt one', async () => {
    const cacheDir = join(folder, 'factors');
    const parts = [{ matrix: Q, values: floatsOf(5, 3, 0.3) }];
    const first = await Delta.spectral(model, parts, { cacheDir });
    expect(readdirSync(cacheDir).length).toBe(1);
    await using again = await tinyModel({}, { qkvBias: true });
    const second = await Delta.spectral(again, parts, { cacheDir });
    expect(readdirSync(cacheDir).length).toBe(1);
    expect(second.part(0)).toEqual(first.part(0));
  });
});

describe('algebra', () => {
  it('add, scale and difference are sums of matrices', async () => {
    const a = await mixed(1);
    const b = await mixed(50);
    const sum = await Delta.add([a, b], [1, -2]);
    const [as, bs, sums] = [wholes(a), wholes(b), wholes(sum)];
    for (const [id, change] of sums) {
      expect(
        gap(
          change,
          Float64Array.from(as.get(id)!, (x, i) => x - 2 * bs.get(id)![i]!),
        ),
      ).toBeLessThan(1e-5);
    }
    await using to = model.fork().apply(a).apply(b);
    await using from = model.fork().apply(a);
    const difference = wholes(await Delta.difference(to, from));
    for (const [id, change] of difference) expect(gap(change, bs.get(id)!)).toBeLessThan(1e-5);
    expect([...difference.keys()]).toEqual([...bs.keys()]);
    const doubled = wholes(await a.scale(2));
    for (const [id, change] of doubled)
      expect(
        gap(
          change,
          as.get(id)!.map((x) => 2 * x),
        ),
      ).toBeLessThan(1e-5);
  });

  it('concat adds ranks up; truncate takes them away again', async () => {
    const a = deltaOf(model, { seed: 1, rank: 3 });
    const both = await Delta.concat([a, deltaOf(model, { seed: 2, rank: 2 })]);
    expect(both.parts.map(({ rank }) => rank)).toEqual(a.parts.map(() => 5));
    const same = await both.truncate({ rank: 5 });
    const [before, after] = [wholes(both), wholes(same)];
    for (const [id, change] of after) expect(gap(change, before.get(id)!)).toBeLessThan(1e-4);
    const less = await both.truncate({ rank: 2 });
    expect(less.parts.map(({ rank }) => rank)).toEqual(a.parts.map(() => 2));
    expect((await failureOf(Delta.concat([await mixed()]))).message).toMatch(
      /delta 0 is mixed; expected lowRank/,
    );
  });

  it('sparsify keeps the largest; statistics are those of the matrices', async () => {
    const part = dense(Q, 9);
    const delta = Delta.fromParts(model, [part]);
    const kept = (await delta.sparsify({ density: 0.1 })).part(0);
    if (kept.kind !== 'sparse') throw new Error('not sparse');
    const sizes = [...part.values].map((value) => Math.abs(part.scale! * value)).sort((x, y) => y - x);
    expect(kept.values.length).toBe(Math.ceil(0.1 * sizes.length));
    const least = Math.min(...[...kept.values].map((value) => Math.abs(kept.scale * value)));
    expect(least).toBeCloseTo(sizes[kept.values.length - 1]!, 5);
    const [statistics] = await delta.statistics();
    expect(statistics!.norm).toBeCloseTo(Math.hypot(...sizes), 4);
    expect(statistics!.largest).toBeCloseTo(sizes[0]!, 5);
    expect(statistics!.spectral).toBeLessThanOrEqual(statistics!.norm);
  });
});

describe('gradient', () => {
  it('of the mean negative log-likelihood agrees with finite differences', async () => {
    await using exact = await tinyModel({ dtype: 'float64' }, { qkvBias: true });
    const row = tokensOf(14, 3);
    const parts = [sparse(Q, 7), dense(NORM, 5)];
    const lossOf = async (changed: DeltaPartInput[]): Promise<number> => {
      await using fork = exact.fork().apply(deltaOf(exact)).apply(Delta.fromParts(exact, changed));
      const [logprobs] = await score([{ fork, tokens: row }]);
      return -logprobs!.slice(1).reduce((sum, x) => sum + x, 0) / (row.length - 1);
    };
    await using fork = exact.fork().apply(deltaOf(exact)).apply(Delta.fromParts(exact, parts));
    const { gradients, logprobs } = await gradient([{ fork, tokens: row }]);
    const [expected] = await score([{ fork, tokens: row }]);
    expect(gap(logprobs[0]!.slice(1), expected!.slice(1))).toBeLessThan(1e-6);
    const found = gradients[0]!.gradient;
    expect(found.parts).toEqual(Delta.fromParts(exact, parts).parts);
    for (const [p, part] of parts.entries()) {
      const whole = found.part(p) as { values: Float32Array };
      for (const index of [0, 5, 17]) {
        const shifted = async (step: number): Promise<number> => {
          const values = part.values.slice();
          values[index]! += step;
          return lossOf(
            parts.map((other, o) => (o === p ? ({ ...other, values } as DeltaPartInput) : other)),
          );
        };
        // Log-probs leave the addon as float32: the step is large, and so is what is allowed.
        const numeric = ((await shifted(2e-2)) - (await shifted(-2e-2))) / 4e-2;
        expect(Math.abs(whole.values[index]! - numeric)).toBeLessThan(2e-4 + 0.02 * Math.abs(numeric));
      }
    }
  });

  it('is one a fork, and refuses a fork without such a delta', async () => {
    await using a = model.fork().apply(deltaOf(model));
    await using b = a.fork().apply(await mixed());
    const rows = [
      { fork: b, tokens: tokensOf(9, 1) },
      { fork: a, tokens: tokensOf(5, 2) },
      { fork: b, tokens: tokensOf(7, 3) },
    ];
    const { gradients } = await gradient(rows);
    expect(gradients.map(({ fork }) => fork)).toEqual([b, a]);
    expect(gradients.map(({ gradient: g }) => g.kind)).toEqual(['mixed', 'lowRank']);
    const alone = await gradient(rows.slice(1, 2));
    expect(alone.gradients[0]!.gradient.part(0)).toEqual(gradients[1]!.gradient.part(0));
    expect((await failureOf(gradient([{ fork: model.fork(), tokens: [1, 2] }]))).code).toBe('OPTION_INVALID');
    const weights = new Float32Array(3);
    expect((await failureOf(gradient([{ fork: a, tokens: [1, 2], weights }]))).message).toMatch(
      /3 weights for 2 tokens/,
    );
  });
});

describe('adapt', () => {
  const documents = [tokensOf(20, 1), tokensOf(15, 2)];
  it('trains values on a chosen support: the part asked for, zeros nowhere else', async () => {
    for (const selection of ['gradient', 'fisher'] as const) {
      const options = { kind: 'sparse', density: 0.05, selection, epochs: 8, learningRate: 0.02 } as const;
      const [result] = await adapt([{ fork: model, documents }], options);
      expect(result!.delta.kind).toBe('sparse');
      const ids = Array.from(resolveTargets(model, ['q_proj', 'v_proj']));
      expect(result!.delta.parts.map(({ matrix }) => matrix)).toEqual(ids);
      for (const { matrix, values } of result!.delta.parts) {
        const { out, in: width } = model.tensors[matrix]!;
        expect(values).toBe(Math.ceil(Math.fround(0.05) * out * width));
      }
      const mean = (loss: Float32Array): number => loss.reduce((sum, x) => sum + x, 0) / loss.length;
      expect(mean(result!.loss.slice(-2))).toBeLessThan(mean(result!.loss.slice(0, 2)) - 0.1);
    }
  });

  it('takes low-rank and sparse slots in one call, each with the bits it has alone', async () => {
    const edits = [
      { fork: model, documents, options: { rank: 5 } },
      { fork: model, documents, options: { kind: 'sparse', density: 0.03 } as const },
      { fork: model, documents: [tokensOf(9, 5)], init: await mixed() },
      { fork: model, documents, options: { targets: ['embed_tokens', 'norm', 'input_layernorm'], rank: 1 } },
    ];
    const together = await adapt(edits, { epochs: 3 });
    for (const [e, edit] of edits.entries()) {
      // Alone an edit has another index, and so another derived seed: both are given.
      const [alone] = await adapt([{ ...edit, seed: 5 }], { epochs: 3 });
      const [, beside] = await adapt([edits[(e + 1) % 4]!, { ...edit, seed: 5 }], { epochs: 3 });
      expect(bits(beside!.loss)).toBe(bits(alone!.loss));
      for (const index of alone!.delta.parts.keys()) {
        expect(beside!.delta.part(index)).toEqual(alone!.delta.part(index));
      }
    }
    expect(together.map(({ delta }) => delta.kind)).toEqual(['lowRank', 'sparse', 'mixed', 'lowRank']);
  });

  it.each<[string, object, RegExp]>([
    ['density 0', { kind: 'sparse', density: 0 }, /density is 0; expected a part above 0/],
    ['density 1.5', { kind: 'sparse', density: 1.5 }, /density is 1.5/],
    ['an unknown kind', { kind: 'dense' }, /kind is dense; expected lowRank, sparse/],
    ['an unknown selection', { selection: 'random' }, /selection is random/],
  ])('refuses %s', async (_, options, words) => {
    const error = await failureOf(adapt([{ fork: model, documents }], options));
    expect(error).toMatchObject({ code: 'OPTION_INVALID' });
    expect(error.message).toMatch(words);
  });
});

describe('copied rows', () => {
  it('take the place of the overlay until the list of deltas changes, and are counted', async () => {
    const delta = Delta.fromParts(model, [dense(DOWN, 3), sparse(Q, 4)]);
    await using fork = model.fork().apply(delta);
    const row = tokensOf(30, 2);
    const overlay = (await score([{ fork, tokens: row }]))[0]!;
    expect(fork.memory().own).toBe(delta.bytes);
    expect(fork.materialised).toBe(false);
    expect(await fork.materialise()).toBe(fork);
    expect(fork.materialised).toBe(true);
    const { out, in: width } = shape(DOWN);
    const q = shape(Q);
    expect(fork.memory().own).toBe(delta.bytes + 4 * (out * width + q.out * q.in));
    const child = fork.fork();
    expect(child.materialised).toBe(true);
    const copied = (await score([{ fork, tokens: row }]))[0]!;
    expect(gap(copied.slice(1), overlay.slice(1))).toBeLessThan(1e-4);
    expect(bits((await score([{ fork: child, tokens: row }]))[0]!)).toBe(bits(copied));
    child.apply(deltaOf(model));
    expect([child.materialised, fork.materialised]).toEqual([false, true]);
    fork.dematerialise();
    expect(fork.materialised).toBe(false);
    expect(bits((await score([{ fork, tokens: row }]))[0]!)).toBe(bits(overlay));
    expect(fork.memory().own).toBe(delta.bytes);
    const [kl] = await divergence([{ fork, reference: model, tokens: row }]);
    expect(kl!.reduce((sum, x) => sum + x, 0)).toBeGreaterThan(0);
  });

  it('serve generation when asked to, with the same tokens', async () => {
    await using fork: Fork = model.fork().apply(Delta.fromParts(model, [dense(DOWN, 3)]));
    const rows = [
      { fork, prompt: tokensOf(6, 1), samples: 3 },
      { fork: model, prompt: tokensOf(4, 2) },
    ];
    const call = (application: 'auto' | 'overlay' | 'materialised') =>
      generate(rows, { application, maxTokens: 20, seed: 5 });
    const [overlay, copied, auto] = [await call('overlay'), await call('materialised'), await call('auto')];
    expect(copied.map(({ tokens }) => bits(tokens))).toEqual(overlay.map(({ tokens }) => bits(tokens)));
    // Twenty steps under a dense change pay for the copy; the unedited row has nothing to copy.
    expect(auto.map(({ logprobs }) => bits(logprobs))).toEqual(copied.map(({ logprobs }) => bits(logprobs)));
    expect(bits(copied[3]!.logprobs)).toBe(bits(overlay[3]!.logprobs));
    expect((await failureOf(generate(rows, { application: 'merged' as never }))).code).toBe('OPTION_INVALID');
  });
});
