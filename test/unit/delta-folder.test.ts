/** PEFT adapter folders of others, sound and spoilt. */
import { mkdtempSync, readFileSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Delta, type Model } from '../../lib/index.js';
import {
  float32Of,
  readSafetensors,
  type StoredTensor,
  storeFloat32,
  writeSafetensors,
} from '../support/safetensors.js';
import { bits, deltaOf, failureOf, tinyModel } from '../support/tiny.js';

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

describe('an adapter folder that', () => {
  type Change = {
    config?: (config: Record<string, unknown>) => void;
    tensors?: (tensors: Map<string, StoredTensor>) => void;
    files?: (path: string) => void;
  };
  const key = 'base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight';

  async function spoilt({ config, tensors, files }: Change): Promise<string> {
    const path = fresh();
    await deltaOf(model, { targets: ['q_proj'], rank: 2, scale: 1.5 }).save(path);
    const configPath = join(path, 'adapter_config.json');
    const json = JSON.parse(readFileSync(configPath, 'utf8')) as Record<string, unknown>;
    config?.(json);
    writeFileSync(configPath, JSON.stringify(json));
    const weights = join(path, 'adapter_model.safetensors');
    const stored = readSafetensors(weights);
    tensors?.(stored);
    writeSafetensors(weights, stored);
    files?.(path);
    return path;
  }

  it('was written by someone else loads as it stands, rsLoRA scales and patterns included', async () => {
    expect((await Delta.load(model, await spoilt({}))).parts[0]).toMatchObject({
      matrix: 0,
      rank: 2,
      scale: 1.5,
    });
    const rs = await Delta.load(
      model,
      await spoilt({ config: (c) => Object.assign(c, { use_rslora: true, lora_alpha: 3 }) }),
    );
    expect(rs.parts[0]!.scale).toBe(3 / Math.sqrt(2));
    const pattern = { 'layers.1.self_attn.q_proj': 5, 'layers\\.2\\..*': 8 };
    const patterned = await Delta.load(
      model,
      await spoilt({ config: (c) => Object.assign(c, { alpha_pattern: pattern }) }),
    );
    expect(patterned.parts.map(({ scale }) => scale)).toEqual([1.5, 2.5, 4]);
    const doubles = await spoilt({
      tensors: (t) => {
        const a = t.get(key)!;
        t.set(key, { ...a, dtype: 'F64', bytes: new Uint8Array(Float64Array.from(float32Of(a)).buffer) });
      },
    });
    expect(valuesOf(await Delta.load(model, doubles))).toEqual(
      valuesOf(await Delta.load(model, await spoilt({}))),
    );
  });

  it.each<[string, Change, string, RegExp]>([
    [
      'is missing',
      { files: (path) => rmSync(path, { recursive: true }) },
      'FILE_NOT_FOUND',
      /no adapter: .*adapter_config\.json/,
    ],
    [
      'has no weights',
      { files: (path) => rmSync(join(path, 'adapter_model.safetensors')) },
      'FILE_NOT_FOUND',
      /adapter_model/,
    ],
    [
      'has its weights in a pickle',
      {
        files: (path) => renameSync(join(path, 'adapter_model.safetensors'), join(path, 'adapter_model.bin')),
      },
      'FILE_UNSAFE',
      /pickle.*PeftModel\.from_pretrained/,
    ],
    [
      'has a link to weights elsewhere',
      {
        files: (path) => {
          const elsewhere = `${path}.safetensors`;
          renameSync(join(path, 'adapter_model.safetensors'), elsewhere);
          symlinkSync(elsewhere, join(path, 'adapter_model.safetensors'));
        },
      },
      'FILE_UNSAFE',
      /adapter_model\.safetensors is a link to .* outside of/,
    ],
    [
      'has a configuration that is not JSON',
      { files: (path) => writeFileSync(join(path, 'adapter_config.json'), '{') },
      'FILE_FORMAT',
      /is not JSON/,
    ],
    ['is no LoRA', { config: (c) => Object.assign(c, { peft_type: 'IA3' }) }, 'FILE_FORMAT', /peft_type/],
    ['has no rank', { config: (c) => delete c.r }, 'FILE_FORMAT', /"r"/],
    ['is DoRA', { config: (c) => Object.assign(c, { use_dora: true }) }, 'OPTION_INVALID', /DoRA/],
    [
      'trains biases',
      { config: (c) => Object.assign(c, { bias: 'all' }) },
      'OPTION_INVALID',
      /"bias" is "all", expected "none"/,
    ],
    [
      'has transposed layers',
      { config: (c) => Object.assign(c, { fan_in_fan_out: true }) },
      'OPTION_INVALID',
      /fan_in_fan_out/,
    ],
    [
      'says another rank',
      { config: (c) => Object.assign(c, { r: 4 }) },
      'DELTA_SHAPE',
      /q_proj\.lora_A\.weight" is \[2, 48\], expected \[4, 48\] \(rank 4 by adapter_config\.json\)/,
    ],
    [
      'has a pattern that cannot be read',
      { config: (c) => Object.assign(c, { rank_pattern: { '(': 2 } }) },
      'FILE_FORMAT',
      /"\("/,
    ],
    [
      'has a rank pattern of 0',
      { config: (c) => Object.assign(c, { rank_pattern: { q_proj: 0 } }) },
      'FILE_FORMAT',
      /"rank_pattern\.q_proj" is 0, expected a whole number from 1/,
    ],
    [
      'has no tensors',
      { tensors: (t) => t.clear() },
      'TENSOR_MISSING',
      /6 key\(s\) missing.*layers\.0\.self_attn\.q_proj\.lora_A/,
    ],
    [
      'has half a pair',
      { tensors: (t) => t.delete(key) },
      'TENSOR_MISSING',
      new RegExp(`1 key\\(s\\) missing .*${key}`),
    ],
    [
      'has a key of no matrix',
      { tensors: (t) => t.set(key.replace('.0.', '.7.'), t.get(key)!) },
      'TENSOR_UNEXPECTED',
      /layers\.7/,
    ],
    [
      'has a shape that does not fit',
      { tensors: (t) => t.set(key, storeFloat32([2, 47], new Float32Array(94))) },
      'DELTA_SHAPE',
      /lora_A\.weight" is \[2, 47\], expected \[2, 48\]/,
    ],
    [
      'has a vector for a matrix',
      { tensors: (t) => t.set(key, storeFloat32([96], new Float32Array(96))) },
      'DELTA_SHAPE',
      /lora_A\.weight" is \[96\], expected \[2, 48\]/,
    ],
    [
      'holds integers',
      { tensors: (t) => t.set(key, { ...t.get(key)!, dtype: 'I32' }) },
      'FILE_FORMAT',
      /I32/,
    ],
    [
      'has factors without rows',
      { tensors: (t) => t.set(key, storeFloat32([0, 48], [])) },
      'DELTA_SHAPE',
      /lora_A\.weight" is \[0, 48\], expected \[2, 48\]/,
    ],
    [
      'has factors without columns',
      { tensors: (t) => t.set(key, storeFloat32([2, 0], [])) },
      'DELTA_SHAPE',
      /lora_A\.weight" is \[2, 0\], expected \[2, 48\]/,
    ],
    [
      'holds NaN',
      { tensors: (t) => t.set(key, storeFloat32([2, 48], new Float32Array(96).fill(Number.NaN))) },
      'DELTA_INVALID',
      /NaN or infinite/,
    ],
    [
      'is cut short',
      {
        files: (path) => {
          const file = join(path, 'adapter_model.safetensors');
          writeFileSync(file, readFileSync(file).subarray(0, -4));
        },
      },
      'FILE_TRUNCATED',
      /adapter_model/,
    ],
  ])('%s is refused', async (_, change, code, words) => {
    const error = await failureOf(Delta.load(model, await spoilt(change)));
    expect(error.code).toBe(code);
    expect(error.message).toMatch(words);
    expect((await Delta.load(model, await spoilt({}))).parts.length).toBe(3);
  });
});
