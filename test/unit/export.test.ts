/** Deltas on their way out and back: to the bit. */
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  Delta,
  type DeltaPartInput,
  type ExportOptions,
  exportDelta,
  Model,
  resolveTargets,
  score,
} from '../../lib/index.js';
import { fixture, largestGap, readJson } from '../support/fixtures.js';
import { readSafetensors } from '../support/safetensors.js';
import { bits, deltaOf, failureOf, floatsOf, tinyModel, tokensOf } from '../support/tiny.js';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'selfedit-export-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

let count = 0;
const fresh = (extension = '') => join(folder, `${count++}${extension}`);
const valuesOf = (delta: Delta) =>
  delta.parts.map((part, index) => {
    const { a, b } = delta.factors(index);
    return { ...part, a: bits(a), b: bits(b) };
  });

/** Every kind: on linear maps, the embedding, a gain, and a bias where there is one. */
function mixedDelta(model: Model): Delta {
  const id = (name: string) => model.tensors.findIndex((tensor) => tensor.name === name);
  const size = (matrix: number) => model.tensors[matrix]!.out * model.tensors[matrix]!.in;
  const dense = (name: string): DeltaPartInput[] =>
    id(name) < 0
      ? []
      : [{ kind: 'dense', matrix: id(name), values: floatsOf(size(id(name)), id(name), 0.1) }];
  const { out, in: width } = model.tensors[0]!;
  const rowOffsets = Int32Array.from({ length: out + 1 }, (_, row) => Math.min(row, 3));
  return Delta.fromParts(model, [
    { kind: 'lowRank', matrix: 0, rank: 2, scale: 0.3, a: floatsOf(2 * width, 1), b: floatsOf(2 * out, 2) },
    { kind: 'sparse', matrix: 0, rowOffsets, columns: Int32Array.of(1, 0, 5), values: floatsOf(3, 4) },
    ...dense('model.layers.1.mlp.down_proj'),
    ...dense('model.embed_tokens'),
    ...dense('model.layers.0.input_layernorm'),
    ...dense('model.norm'),
    ...dense('model.layers.0.self_attn.v_proj.bias'),
  ]);
}

const MODELS = ['llama-tied', 'llama-untied-bias', 'llama-sharded', 'llama-bf16', 'llama3-rope', 'qwen2'];

describe('a merged folder', () => {
  it.each(MODELS)('of %s holds what the fork computes with, and the rest as it was', async (name) => {
    await using model = await Model.load(fixture('models', name));
    await using delta = mixedDelta(model);
    await using fork = model.fork().apply(delta);
    const out = fresh();
    expect(await exportDelta(delta, out, { format: 'merged' })).toEqual({ format: 'merged', path: out });
    const before = allTensors(fixture('models', name));
    const after = allTensors(out);
    expect([...after.keys()].sort()).toEqual(
      [...before.keys()].filter((key) => !(model.config.tied && key === 'lm_head.weight')).sort(),
    );
    const touched = new Set(delta.parts.map(({ matrix }) => model.tensors[matrix]!.name));
    for (const [key, tensor] of after) {
      expect(tensor.dtype).toBe(before.get(key)!.dtype);
      expect(tensor.shape).toEqual(before.get(key)!.shape);
      const same = Buffer.compare(tensor.bytes, before.get(key)!.bytes) === 0;
      expect([key, same]).toEqual([key, !touched.has(key.replace(/\.weight$/, ''))]);
    }
    await using merged = await Model.load(out);
    expect(merged.config).toEqual(model.config);
    for (const { matrix } of delta.parts) {
      const [found, expected] = [await weightOf(merged, matrix), await fork.weight(matrix)];
      if (name === 'llama-bf16') {
        // Eight bits of mantissa: at most half a step away.
        expect(
          found.every((value, i) => Math.abs(value - expected[i]!) <= 2 ** -8 * Math.abs(expected[i]!)),
        ).toBe(true);
      } else expect(bits(found)).toBe(bits(expected));
    }
    if (name === 'llama-bf16') return;
    const tokens = tokensOf(12, 3, model.config.vocabSize);
    const [expected] = await score([{ fork, tokens }]);
    const [found] = await score([{ fork: merged, tokens }]);
    expect(largestGap(found!, expected!)).toBeLessThan(1e-5);
  });

  it('is the same model whether it is cut into files or not, and can be of another type', async () => {
    await using model = await Model.load(fixture('models', 'llama-sharded'));
    await using delta = mixedDelta(model);
    const [whole, cut, half] = [fresh(), fresh(), fresh()];
    await exportDelta(delta, whole, { format: 'merged' });
    await exportDelta(delta, cut, { format: 'merged', maxShardBytes: 100_000 });
    await exportDelta(delta, half, { format: 'merged', dtype: 'bfloat16' });
    const index = JSON.parse(readFileSync(join(cut, 'model.safetensors.index.json'), 'utf8')) as {
      metadata: { total_size: number };
      weight_map: Record<string, string>;
    };
    const shards = [...new Set(Object.values(index.weight_map))];
    expect(shards.length).toBeGreaterThan(2);
    expect(shards[0]).toBe(`model-00001-of-${String(shards.length).padStart(5, '0')}.safetensors`);
    const sizes = shards.map((shard) =>
      [...readSafetensors(join(cut, shard)).values()].reduce((sum, { bytes }) => sum + bytes.byteLength, 0),
    );
    expect(Math.max(...sizes)).toBeLessThanOrEqual(100_000);
    expect(index.metadata.total_size).toBe(sizes.reduce((a, b) => a + b));
    expect(existsSync(join(whole, 'model.safetensors.index.json'))).toBe(false);
    await using one = await Model.load(whole);
    await using many = await Model.load(cut);
    expect(await many.fingerprint()).toBe(await one.fingerprint());
    for (const { dtype } of allTensors(half).values()) expect(dtype).toBe('BF16');
    expect(JSON.parse(readFileSync(join(half, 'config.json'), 'utf8'))).toMatchObject(
      'dtype' in readJson<object>('models', 'llama-sharded', 'config.json')
        ? { dtype: 'bfloat16' }
        : { torch_dtype: 'bfloat16' },
    );
  });

  it.each(['llama-f32', 'llama-q8_0', 'qwen2-q4_1'])('of %s.gguf says what the GGUF says', async (name) => {
    await using model = await Model.load(fixture('models', 'gguf', `${name}.gguf`));
    await using delta = deltaOf(model, { targets: ['q_proj'], scale: 0 });
    await using changed = mixedDelta(model);
    const [same, out] = [fresh(), fresh()];
    await exportDelta(delta, same, { format: 'merged' });
    await exportDelta(changed, out, { format: 'merged' });
    await using back = await Model.load(same);
    expect(await back.fingerprint()).toBe(await model.fingerprint());
    await using merged = await Model.load(out);
    await using fork = model.fork().apply(changed);
    for (const { matrix } of changed.parts) {
      expect(bits(await weightOf(merged, matrix))).toBe(bits(await fork.weight(matrix)));
    }
    expect(merged.hasTokenizer).toBe(model.hasTokenizer);
    if (model.hasTokenizer) {
      const text = 'Grün 12 und more, it’s\n\n text';
      expect(merged.tokenizer.encode(text)).toEqual(model.tokenizer.encode(text));
    }
  });

  it('is refused where its weights are not known exactly, or out is taken; nothing is left behind', async () => {
    const gguf = fixture('models', 'gguf', 'llama-q8_0.gguf');
    await using half = await Model.load(gguf, { dtype: 'bfloat16' });
    await using delta = deltaOf(half);
    const out = fresh();
    expect(await failureOf(exportDelta(delta, out, { format: 'merged' }))).toMatchObject({
      code: 'OPTION_INVALID',
    });
    await using random = await tinyModel();
    await using own = deltaOf(random);
    expect(await failureOf(exportDelta(own, out, { format: 'merged' }))).toMatchObject({
      code: 'INPUT_INVALID',
    });
    await using model = await Model.load(fixture('models', 'llama-tied'));
    await using huge = Delta.fromParts(model, [
      {
        kind: 'dense',
        matrix: 0,
        values: new Float32Array(model.tensors[0]!.out * model.tensors[0]!.in).fill(1e6),
      },
    ]);
    const failure = await failureOf(exportDelta(huge, out, { format: 'merged', dtype: 'float16' }));
    expect(failure).toMatchObject({ code: 'WEIGHT_NOT_FINITE' });
    expect(failure.message).toContain('model.layers.0.self_attn.q_proj.weight');
    await using good = deltaOf(model);
    const stopped = AbortSignal.abort();
    await failureOf(exportDelta(good, out, { format: 'merged', signal: stopped }));
    expect(readdirSync(folder).filter((name) => name.startsWith('.'))).toEqual([]);
    expect(existsSync(out)).toBe(false);
    mkdirSync(out);
    writeFileSync(join(out, 'mine'), '');
    for (const format of ['merged', 'peft', 'gguf-lora'] as const) {
      const taken = await failureOf(exportDelta(good, out, { format }));
      expect(taken.code).toBe('INPUT_INVALID');
      expect(taken.message).toContain('not empty');
    }
    expect(readdirSync(out)).toEqual(['mine']);
  });

  it('refuses options of another format, and values that are none', async () => {
    await using model = await Model.load(fixture('models', 'llama-tied'));
    await using delta = deltaOf(model);
    const out = fresh();
    for (const [options, words] of [
      [{ format: 'peft', dtype: 'float16' }, 'dtype is float16 with format "peft"'],
      [{ format: 'gguf-lora', maxShardBytes: 5 }, 'maxShardBytes is 5 with format "gguf-lora"'],
      [{ format: 'merged', dtype: 'float64' }, 'dtype is "float64"; expected float32, float16, bfloat16'],
      [{ format: 'merged', maxShardBytes: 0.5 }, 'maxShardBytes is 0.5'],
      [{ format: 'onnx' }, 'format is "onnx"; expected peft, merged, gguf-lora'],
    ] as const) {
      const error = await failureOf(exportDelta(delta, out, options as unknown as ExportOptions));
      expect(error.code).toBe('OPTION_INVALID');
      expect(error.message).toContain(words);
    }
    expect(existsSync(out)).toBe(false);
  });

  it('has the chat template of its base, wherever that keeps it', async () => {
    const base = fresh();
    mkdirSync(base);
    for (const name of ['config.json', 'model.safetensors']) {
      writeFileSync(join(base, name), readFileSync(fixture('models', 'llama-tied', name)));
    }
    writeFileSync(join(base, 'chat_template.json'), '{"chat_template":"{{ messages[0].content }}"}');
    await using model = await Model.load(base);
    await using delta = deltaOf(model);
    const out = fresh();
    await exportDelta(delta, out, { format: 'merged' });
    expect(readFileSync(join(out, 'chat_template.json'))).toEqual(
      readFileSync(join(base, 'chat_template.json')),
    );
  });

  it('does not copy what a link leads to outside of the model', async () => {
    const base = fresh();
    mkdirSync(base);
    for (const name of ['config.json', 'model.safetensors']) {
      writeFileSync(join(base, name), readFileSync(fixture('models', 'llama-tied', name)));
    }
    const secret = fresh();
    writeFileSync(secret, 'secret');
    symlinkSync(secret, join(base, 'merges.txt'));
    await using model = await Model.load(base);
    await using delta = deltaOf(model);
    const out = fresh();
    expect(await failureOf(exportDelta(delta, out, { format: 'merged' }))).toMatchObject({
      code: 'FILE_UNSAFE',
    });
    expect(existsSync(out)).toBe(false);
  });
});

describe('a PEFT adapter', () => {
  it('comes back with the same bytes, and so does its configuration', async () => {
    await using model = await Model.load(fixture('models', 'llama-untied-bias'));
    const targets = ['q_proj', 'down_proj'];
    await using delta = await Delta.add([
      deltaOf(model, { targets, rank: 3, scale: 1 / 3 }),
      deltaOf(model, { targets: ['layers.1.mlp.up_proj'], rank: 5, scale: 0.7, seed: 2 }),
      embeddingDelta(model),
    ]);
    const [first, second] = [fresh(), fresh()];
    await exportDelta(delta, first, { format: 'peft' });
    await using loaded = await Delta.load(model, first);
    expect(valuesOf(loaded)).toEqual(valuesOf(delta));
    await exportDelta(loaded, second, { format: 'peft' });
    for (const name of ['adapter_config.json', 'adapter_model.safetensors']) {
      expect(readFileSync(join(second, name)).equals(readFileSync(join(first, name)))).toBe(true);
    }
  });

  it('cannot hold more than low-rank changes, nor those of a tied embedding', async () => {
    await using tied = await Model.load(fixture('models', 'llama-tied'));
    for (const delta of [mixedDelta(tied), embeddingDelta(tied)]) {
      for (const format of ['peft', 'gguf-lora'] as const) {
        const error = await failureOf(exportDelta(delta, fresh(), { format }));
        expect(error.code).toBe('DELTA_INVALID');
        expect(error.message).toMatch(/"model\..*merged model instead/);
      }
    }
  });
});

describe('a GGUF adapter', () => {
  it.each(['llama-tied', 'qwen2'])('of %s comes back with the same factors', async (name) => {
    await using model = await Model.load(fixture('models', name));
    await using delta = deltaOf(model, { targets: ['all'], rank: 4, scale: 0.5 });
    const file = fresh('.gguf');
    expect(await exportDelta(delta, file, { format: 'gguf-lora' })).toEqual({
      format: 'gguf-lora',
      path: file,
    });
    await using loaded = await Delta.load(model, file);
    expect(valuesOf(loaded)).toEqual(valuesOf(delta));
    const inFolder = fresh();
    const { path } = await exportDelta(loaded, inFolder, { format: 'gguf-lora' });
    expect(path).toBe(join(inFolder, 'adapter.gguf'));
    expect(readFileSync(path).equals(readFileSync(file))).toBe(true);
  });

  it('of another model is refused', async () => {
    await using llama = await Model.load(fixture('models', 'llama-tied'));
    await using qwen = await Model.load(fixture('models', 'qwen2'));
    const file = fresh('.gguf');
    await deltaOf(llama).saveGguf(file);
    const error = await failureOf(Delta.load(qwen, file));
    expect(error.code).toBe('UNSUPPORTED_ARCHITECTURE');
    expect(error.message).toContain('"general.architecture" is "llama", expected "qwen2"');
    const model = await failureOf(Delta.load(llama, fixture('models', 'gguf', 'llama-f16.gguf')));
    expect(model.message).toMatch(/"general\.type" is .*, expected "adapter"/);
  });
});

function embeddingDelta(model: Model): Delta {
  const [matrix] = resolveTargets(model, ['embed_tokens']);
  const { out, in: width } = model.tensors[matrix!]!;
  return Delta.fromFactors(model, [
    { matrix: matrix!, rank: 2, scale: 0.5, a: floatsOf(2 * width, 1), b: floatsOf(2 * out, 2) },
  ]);
}

function allTensors(path: string): ReturnType<typeof readSafetensors> {
  const files = readdirSync(path).filter((name) => name.endsWith('.safetensors'));
  return new Map(files.flatMap((name) => [...readSafetensors(join(path, name))]));
}

async function weightOf(model: Model, matrix: number): Promise<Float32Array> {
  await using fork = model.fork();
  return fork.weight(matrix);
}
