/** Adapter folders that PEFT wrote (scripts/fixtures/peft_adapters.py), against the log-probs that PEFT computes with them. */
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Delta, type Fork, Model, score } from '../../lib/index.js';
import { fixture, largestGap, readJson } from '../support/fixtures.js';
import { readSafetensors, type StoredTensor, writeSafetensors } from '../support/safetensors.js';
import { bits, failureOf } from '../support/tiny.js';

interface Computed {
  model: string;
  rows: { tokens: number[]; logprobs: (number | null)[] }[];
}
const { loaded, stacked, refused } = readJson<{
  loaded: Record<string, Computed>;
  stacked: (Computed & { adapters: string[] })[];
  refused: Record<string, { model: string; key: string }>;
}>('adapters', 'expected.json');
const adapter = (name: string) => fixture('adapters', name);

async function gapOf(fork: Fork | Model, rows: Computed['rows']): Promise<number> {
  const found = await score(rows.map(({ tokens }) => ({ fork, tokens })));
  return Math.max(...rows.map(({ logprobs }, r) => largestGap(found[r]!, logprobs)));
}

describe('an adapter that PEFT wrote gives the log-probs that PEFT computes', () => {
  it.each(Object.entries(loaded))('%s', async (name, { model: base, rows }) => {
    await using model = await Model.load(fixture('models', base));
    await using fork = model.fork().apply(await Delta.load(model, adapter(name)));
    expect(await gapOf(fork, rows)).toBeLessThan(1e-4);
    expect(await gapOf(model, rows)).toBeGreaterThan(2e-2);
  });

  it.each(stacked)('$adapters on top of each other', async ({ model: base, adapters, rows }) => {
    await using model = await Model.load(fixture('models', base));
    const deltas = await Promise.all(adapters.map((name) => Delta.load(model, adapter(name))));
    const one = model.fork();
    for (const delta of deltas) one.apply(delta);
    expect(await gapOf(one, rows)).toBeLessThan(1e-4);
    await using sum = model.fork().apply(await Delta.add(deltas));
    expect(await gapOf(sum, rows)).toBeLessThan(1e-4);
  });

  it('and written by selfedit again it has the same factors', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'selfedit-peft-'));
    for (const name of ['rslora-patterns', 'phi3-fused', 'embedding-and-head', 'float16']) {
      await using model = await Model.load(fixture('models', loaded[name]!.model));
      await using delta = await Delta.load(model, adapter(name));
      await delta.save(join(folder, name));
      await using again = await Delta.load(model, join(folder, name));
      const factors = (of: Delta) => of.parts.map((_, i) => Object.values(of.factors(i)).map(bits));
      expect(factors(again)).toEqual(factors(delta));
      for (const [i, { scale }] of delta.parts.entries())
        expect(again.parts[i]!.scale).toBeCloseTo(scale, 14);
    }
    rmSync(folder, { recursive: true });
  });
});

describe('an adapter of a kind that is not supported is refused by the key that says so', () => {
  it.each(Object.entries(refused))('%s', async (name, { model: base, key }) => {
    await using model = await Model.load(fixture('models', base));
    const error = await failureOf(Delta.load(model, adapter(name)));
    expect(error.code).toBe(key === 'peft_type' ? 'FILE_FORMAT' : 'OPTION_INVALID');
    expect(error.message).toContain(`${adapter(name)}/adapter_config.json`);
    expect(error.message).toMatch(new RegExp(`"${key}" (is|names) .*expected `));
  });
});

describe('a damaged adapter of PEFT is refused', () => {
  let folder: string;
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'selfedit-peft-'));
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  type Tensors = Map<string, StoredTensor>;
  type Config = Record<string, unknown>;
  /** A copy of a fixture with its tensors and configuration changed, and the error that loading it ends with. */
  async function failure(
    name: string,
    tensors: (all: Tensors) => void,
    config: (json: Config) => void = () => {},
  ) {
    const path = mkdtempSync(join(folder, 'case-'));
    cpSync(adapter(name), path, { recursive: true });
    const weights = join(path, 'adapter_model.safetensors');
    const stored = readSafetensors(weights);
    tensors(stored);
    writeSafetensors(weights, stored);
    const configPath = join(path, 'adapter_config.json');
    const json = JSON.parse(readFileSync(configPath, 'utf8')) as Config;
    config(json);
    writeFileSync(configPath, JSON.stringify(json));
    await using model = await Model.load(fixture('models', loaded[name]!.model));
    return await failureOf(Delta.load(model, path));
  }
  const key = (layer: number, module: string, factor: string) =>
    `base_model.model.model.layers.${layer}.${module}.lora_${factor}.weight`;
  const qA = key(0, 'self_attn.q_proj', 'A');
  const vB = key(1, 'self_attn.v_proj', 'B');
  const none = () => {};

  it('with missing keys, all listed', async () => {
    const error = await failure('plain', (all) => {
      all.delete(qA);
      all.delete(vB);
    });
    expect(error.code).toBe('TENSOR_MISSING');
    expect(error.message).toMatch(/adapter_model\.safetensors: 2 key\(s\) missing/);
    for (const name of [qA, vB]) expect(error.message).toContain(name);
  });

  it('with keys of modules that the configuration does not have, all listed', async () => {
    const extra = [
      key(0, 'self_attn.k_proj', 'A'),
      key(2, 'self_attn.q_proj', 'A'),
      'base_model.model.extra',
    ];
    const error = await failure('plain', (all) => {
      for (const name of extra) all.set(name, all.get(qA)!);
    });
    expect(error.code).toBe('TENSOR_UNEXPECTED');
    expect(error.message).toContain('3 key(s)');
    for (const name of extra) expect(error.message).toContain(name);
  });

  it('with the magnitudes of DoRA, its configuration denying it', async () => {
    const magnitude = readSafetensors(join(adapter('dora'), 'adapter_model.safetensors'));
    const name = [...magnitude.keys()].find((stored) => stored.includes('lora_magnitude_vector'))!;
    const error = await failure('plain', (all) => all.set(name, magnitude.get(name)!));
    expect(error).toMatchObject({ code: 'TENSOR_UNEXPECTED' });
    expect(error.message).toContain(name);
  });

  it('with fewer or more modules in the configuration than in the file', async () => {
    const fewer = await failure('plain', none, (config) => {
      config.target_modules = ['q_proj'];
    });
    expect(fewer.code).toBe('TENSOR_UNEXPECTED');
    for (const layer of [0, 1]) {
      for (const factor of ['A', 'B'])
        expect(fewer.message).toContain(key(layer, 'self_attn.v_proj', factor));
    }
    const more = await failure('layers', none, (config) => {
      config.layers_to_transform = [0, 1, 2];
    });
    expect(more.code).toBe('TENSOR_MISSING');
    expect(more.message).toContain(`6 key(s)`);
    expect(more.message).toContain(key(1, 'mlp.down_proj', 'B'));
  });

  it('with a matrix that is transposed, or of another rank than the configuration says', async () => {
    const turned = await failure('plain', (all) => {
      const { shape, ...rest } = all.get(qA)!;
      all.set(qA, { ...rest, shape: [...shape].reverse() });
    });
    expect(turned.code).toBe('DELTA_SHAPE');
    expect(turned.message).toContain(`"${qA}" is [36, 4], expected [4, 36]`);
    const ranked = await failure('patterns', none, (config) => {
      config.rank_pattern = {};
    });
    expect(ranked.code).toBe('DELTA_SHAPE');
    expect(ranked.message).toContain(`"${qA}" is [2, 36], expected [4, 36] (rank 4 by adapter_config.json)`);
    const fused = await failure('phi3-fused', none, (config) => {
      config.r = 3;
    });
    expect(fused.code).toBe('DELTA_SHAPE');
    expect(fused.message).toContain('(rank 3 by adapter_config.json)');
    const head = await failure('head', none, (config) => {
      config.rank_pattern = { lm_head: 2 };
    });
    expect(head.message).toContain('lm_head.lora_A.weight" is [4, 36], expected [2, 36]');
  });

  it('with copies of embedding or head that are not those of the model', async () => {
    for (const name of ['copies-of-the-base', 'embedding-and-head']) {
      const error = await failure(name, (all) => {
        const [copy, tensor] = [...all].find(([stored]) =>
          /embed_tokens\.(base_layer\.)?weight/.test(stored),
        )!;
        const bytes = Uint8Array.from(tensor.bytes);
        bytes[2]! ^= 1;
        all.set(copy, { ...tensor, bytes });
      });
      expect(error.code).toBe('TENSOR_UNEXPECTED');
      expect(error.message).toMatch(/embed_tokens.* is not the model's own "model\.embed_tokens"/);
    }
    const resized = await failure('copies-of-the-base', (all) => {
      const name = 'base_model.model.lm_head.weight';
      const { shape, bytes, ...rest } = all.get(name)!;
      all.set(name, { ...rest, shape: [shape[0]! - 1, shape[1]!], bytes: bytes.subarray(0, -4 * shape[1]!) });
    });
    expect(resized.code).toBe('DELTA_SHAPE');
    expect(resized.message).toContain('"base_model.model.lm_head.weight" is [95, 36], expected [96, 36]');
  });

  it('with its weights in a pickle, which is not opened', async () => {
    const path = mkdtempSync(join(folder, 'case-'));
    cpSync(join(adapter('plain'), 'adapter_config.json'), join(path, 'adapter_config.json'));
    writeFileSync(join(path, 'adapter_model.bin'), 'PK');
    await using model = await Model.load(fixture('models', 'llama2'));
    const error = await failureOf(Delta.load(model, path));
    expect(error.code).toBe('FILE_UNSAFE');
    expect(error.message).toMatch(/adapter_model\.bin .*pickle.*PeftModel\.from_pretrained/);
    // Beside safetensors it does not matter.
    cpSync(join(adapter('plain'), 'adapter_model.safetensors'), join(path, 'adapter_model.safetensors'));
    await using delta = await Delta.load(model, path);
    expect(delta.parts).toHaveLength(4);
  });

  it.each<[string, unknown, RegExp]>([
    ['use_dora', true, /"use_dora" is true, expected none \(not supported: DoRA\)/],
    ['use_something_new', true, /"use_something_new" is true, .*not known/],
    ['something_config', { a: 1 }, /"something_config" is .*not known/],
    ['layers_pattern', 'layers', /"layers_pattern" is "layers", expected none without "layers_to_transform"/],
  ])('with %s in its configuration', async (name, value, words) => {
    const error = await failure('plain', none, (config) => {
      config[name] = value;
    });
    expect(error.message).toMatch(words);
    expect(['OPTION_INVALID', 'FILE_FORMAT']).toContain(error.code);
  });
});
