/** Deltas from factors, and in PEFT's layout on disk. */
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { adapt, Delta, type LowRankFactors, type Model, resolveTargets } from '../../lib/index.js';
import { float32Of, readSafetensors } from '../support/safetensors.js';
import { bits, deltaOf, failureOf, floatsOf, tinyModel, tokensOf } from '../support/tiny.js';

let model: Model;
let folder: string;
beforeAll(async () => {
  model = await tinyModel();
  folder = mkdtempSync(join(tmpdir(), 'selfedit-delta-'));
});
afterAll(async () => {
  rmSync(folder, { recursive: true });
  await model.close();
});

let count = 0;
function fresh(): string {
  return join(folder, String(count++));
}
function valuesOf(delta: Delta): string[] {
  return delta.parts.map((_, part) => {
    const { a, b } = delta.factors(part);
    return `${bits(a)} ${bits(b)}`;
  });
}

describe('from factors', () => {
  const part = (name: string, rank: number, seed: number): LowRankFactors => {
    const { out, in: width } = model.matrices.find((matrix) => matrix.name === name)!;
    return {
      matrix: name,
      rank,
      scale: seed / 10,
      a: floatsOf(rank * width, seed),
      b: floatsOf(out * rank, seed + 1),
    };
  };

  it('gives the factors back to the bit, in the order of the matrices', () => {
    const given = [
      part('model.layers.2.mlp.down_proj', 4, 3),
      part('model.layers.0.self_attn.q_proj', 1, 5),
      part('model.layers.0.mlp.gate_proj', 2, 7),
    ];
    const delta = Delta.fromFactors(model, given);
    expect(delta.kind).toBe('lowRank');
    expect(delta.parts.map(({ matrix, rank, scale }) => [model.matrices[matrix]!.name, rank, scale])).toEqual(
      [
        ['model.layers.0.self_attn.q_proj', 1, 0.5],
        ['model.layers.0.mlp.gate_proj', 2, 0.7],
        ['model.layers.2.mlp.down_proj', 4, 0.3],
      ],
    );
    for (const [index, from] of [1, 2, 0].entries()) {
      const { a, b } = delta.factors(index);
      expect(bits(a)).toBe(bits(given[from]!.a));
      expect(bits(b)).toBe(bits(given[from]!.b));
    }
  });

  it('copies them: later changes of the arrays do not reach the delta', () => {
    const given = part('model.layers.0.self_attn.q_proj', 2, 5);
    const delta = Delta.fromFactors(model, [given]);
    const before = valuesOf(delta);
    given.a.fill(9);
    delta.factors(0).b.fill(9);
    expect(valuesOf(delta)).toEqual(before);
  });

  it.each<[string, (good: LowRankFactors) => LowRankFactors[], string, RegExp]>([
    [
      'A too short',
      (good) => [{ ...good, a: good.a.slice(1) }],
      'DELTA_SHAPE',
      /"a" has 95 values; expected 2 x 48/,
    ],
    [
      'B too long',
      (good) => [{ ...good, b: new Float32Array(81) }],
      'DELTA_SHAPE',
      /"b" has 81 values; expected 40 x 2/,
    ],
    ['rank 0', (good) => [{ ...good, rank: 0 }], 'DELTA_SHAPE', /rank is 0; expected 1/],
    ['a huge rank', (good) => [{ ...good, rank: 2 ** 40 }], 'DELTA_SHAPE', /rank is 1099511627776/],
    ['half a rank', (good) => [{ ...good, rank: 1.5 }], 'INPUT_INVALID', /"rank" must be an integer/],
    ['the same matrix twice', (good) => [good, good], 'DELTA_INVALID', /q_proj" is named twice/],
    [
      'an unknown name',
      (good) => [{ ...good, matrix: 'model.layers.9.mlp.up_proj' }],
      'TARGET_UNKNOWN',
      /layers\.9/,
    ],
    ['an unknown id', (good) => [{ ...good, matrix: 999 }], 'TARGET_UNKNOWN', /999/],
    [
      'a scale that is NaN',
      (good) => [{ ...good, scale: Number.NaN }],
      'DELTA_INVALID',
      /scale is not finite/,
    ],
    [
      'an infinite value',
      (good) => [{ ...good, a: new Float32Array(96).fill(Infinity) }],
      'DELTA_INVALID',
      /NaN or infinite/,
    ],
    [
      'values of another type',
      (good) => [{ ...good, a: [1, 2] as never }],
      'INPUT_INVALID',
      /"a" must be a Float32Array/,
    ],
  ])('refuses %s', async (_, make, code, words) => {
    const error = await failureOf(() =>
      Delta.fromFactors(model, make(part('model.layers.0.self_attn.q_proj', 2, 5))),
    );
    expect(error.code).toBe(code);
    expect(error.message).toMatch(words);
    expect(Delta.fromFactors(model, [part('model.layers.0.self_attn.q_proj', 2, 5)]).parts.length).toBe(1);
  });
});

describe('on disk', () => {
  it('comes back with the same bits, ranks and scales', async () => {
    const mixed = Array.from(resolveTargets(model, ['all']), (matrix, index) => {
      const { out, in: width } = model.matrices[matrix]!;
      const rank = 1 + (index % 4);
      const scale = [64.3, 5, 0.3, 1 / 7][index % 4]! / rank;
      return { matrix, rank, scale, a: floatsOf(rank * width, index), b: floatsOf(out * rank, index + 99) };
    });
    for (const delta of [
      deltaOf(model, { scale: 2 }),
      deltaOf(model, { rank: 7, scale: 64 / 7 }),
      Delta.fromFactors(model, mixed),
    ]) {
      const path = fresh();
      await delta.save(path);
      const back = await Delta.load(model, path);
      expect(back.parts).toEqual(delta.parts);
      expect(valuesOf(back)).toEqual(valuesOf(delta));
    }
  });

  it('comes back from adapt with its scale for every rank and many alphas', async () => {
    const documents = [tokensOf(6, 1)];
    const settings = [1, 3, 5, 6, 7, 11, 13, 48].flatMap((rank) =>
      [1, 16, 64, 0.1, 2.7].map((alpha) => ({ rank, alpha })),
    );
    const made = await adapt(
      settings.map((options) => ({ fork: model, documents, options })),
      { epochs: 1, targets: ['layers.0.self_attn.q_proj'] },
    );
    for (const [index, { delta }] of made.entries()) {
      const path = fresh();
      await delta.save(path);
      const back = await Delta.load(model, path);
      expect(back.parts, JSON.stringify(settings[index])).toEqual(delta.parts);
      expect(valuesOf(back)).toEqual(valuesOf(delta));
    }
  });

  it("has PEFT's keys, shapes and configuration", async () => {
    const delta = deltaOf(model, { targets: ['v_proj', 'down_proj'], rank: 3, scale: 4 });
    const path = fresh();
    await delta.save(path);
    expect(readdirSync(path).sort()).toEqual(['adapter_config.json', 'adapter_model.safetensors']);
    const stored = readSafetensors(join(path, 'adapter_model.safetensors'));
    expect(stored.size).toBe(2 * delta.parts.length);
    for (const [index, { matrix }] of delta.parts.entries()) {
      const { name, out, in: width } = model.matrices[matrix]!;
      const { a, b } = delta.factors(index);
      const [storedA, storedB] = ['A', 'B'].map(
        (f) => stored.get(`base_model.model.${name}.lora_${f}.weight`)!,
      );
      expect([storedA!.shape, storedB!.shape]).toEqual([
        [3, width],
        [out, 3],
      ]);
      expect(bits(float32Of(storedA!))).toBe(bits(a));
      expect(bits(float32Of(storedB!))).toBe(bits(b));
    }
    expect(JSON.parse(readFileSync(join(path, 'adapter_config.json'), 'utf8'))).toMatchObject({
      peft_type: 'LORA',
      task_type: 'CAUSAL_LM',
      r: 3,
      lora_alpha: 12,
      bias: 'none',
      use_rslora: false,
      use_dora: false,
      target_modules: ['v_proj', 'down_proj'],
      rank_pattern: {},
      alpha_pattern: {},
    });
  });

  it('names the matrices one by one when modules would choose too many', async () => {
    const path = fresh();
    await deltaOf(model, { targets: ['layers.1.mlp.up_proj'] }).save(path);
    const config = JSON.parse(readFileSync(join(path, 'adapter_config.json'), 'utf8')) as {
      target_modules: string[];
    };
    expect(config.target_modules).toEqual(['model.layers.1.mlp.up_proj']);
  });

  it('leaves an earlier one as it was when it cannot be written', async () => {
    const path = fresh();
    writeFileSync(path, 'a file where a folder is needed');
    const error = await failureOf(deltaOf(model).save(path));
    expect(error).toMatchObject({ name: 'WorkError', code: 'IO' });
    expect(error.message).toContain(path);

    const good = fresh();
    const delta = deltaOf(model);
    await delta.save(good);
    const before = readFileSync(join(good, 'adapter_model.safetensors'));
    // A folder of the configuration's name: the rename over it fails.
    rmSync(join(good, 'adapter_config.json'));
    mkdirSync(join(good, 'adapter_config.json', 'inner'), { recursive: true });
    expect(await failureOf(delta.save(good))).toMatchObject({ code: 'IO' });
    expect(readFileSync(join(good, 'adapter_model.safetensors')).equals(before)).toBe(true);
    expect(readdirSync(good).filter((name) => name.endsWith('.tmp'))).toEqual([]);
  });
});

it('a delta without parts is one, but there is nothing to save', async () => {
  const nothing = Delta.fromFactors(model, []);
  expect(bits(await model.fork().apply(nothing).weight(0))).toBe(bits(await model.fork().weight(0)));
  const path = fresh();
  expect(await failureOf(nothing.save(path))).toMatchObject({ code: 'DELTA_INVALID' });
  expect(existsSync(path)).toBe(false);
});
