/** Models that are damaged, incomplete or of another kind: one typed error that names the file and the thing. */
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Model, score } from '../../lib/index.js';
import { fixture } from '../support/fixtures.js';
import {
  float32Of,
  readSafetensors,
  type StoredTensor,
  storeFloat32,
  writeSafetensors,
} from '../support/safetensors.js';
import { bits, failureOf, tokensOf } from '../support/tiny.js';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'selfedit-bad-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

let count = 0;
const tokens = tokensOf(20, 1, 512);
const scoreBits = async (path: string): Promise<string> => {
  await using model = await Model.load(path);
  return bits((await score([{ fork: model, tokens }]))[0]!);
};

/** The copy of a good model to be spoilt: a folder, or a GGUF file. */
function copyOf(name: string): string {
  const path = join(folder, `${count++}-${name}`);
  const from = name.endsWith('.gguf') ? fixture('models', 'gguf', name) : fixture('models', name);
  cpSync(from, path, { recursive: true });
  return path;
}

type Tensors = Map<string, StoredTensor>;
function change(path: string, edit: (tensors: Tensors) => void): void {
  const file = join(path, 'model.safetensors');
  const tensors = readSafetensors(file);
  edit(tensors);
  writeSafetensors(file, tensors);
}
function rewrite(path: string, file: string, edit: (bytes: Buffer) => Uint8Array): void {
  const target = join(path, file);
  writeFileSync(target, edit(readFileSync(target)));
}
function configure(path: string, entries: Record<string, unknown>): void {
  rewrite(path, 'config.json', (bytes) =>
    Buffer.from(JSON.stringify({ ...(JSON.parse(bytes.toString()) as object), ...entries })),
  );
}
/** Rewrites the header of the safetensors file as text. */
function header(path: string, edit: (text: string) => string): void {
  rewrite(path, 'model.safetensors', (bytes) => {
    const length = Number(bytes.readBigUInt64LE(0));
    const text = Buffer.from(edit(bytes.toString('utf8', 8, 8 + length)));
    const prefix = Buffer.alloc(8);
    prefix.writeBigUInt64LE(BigInt(text.length));
    return Buffer.concat([prefix, text, bytes.subarray(8 + length)]);
  });
}
const up = 'model.layers.1.mlp.up_proj.weight';
const norm = 'model.layers.0.input_layernorm.weight';
const with1 = (tensor: StoredTensor, at: number, value: number): StoredTensor => {
  const values = float32Of(tensor);
  values[at] = value;
  return storeFloat32(tensor.shape, values);
};

type Case = [name: string, spoil: (path: string) => void, error: string, code: string, words: RegExp];

const folders: Case[] = [
  ['is not there', (p) => rmSync(p, { recursive: true }), 'FileError', 'FILE_NOT_FOUND', /llama-tied/],
  [
    'has no config.json',
    (p) => rmSync(join(p, 'config.json')),
    'FileError',
    'FILE_NOT_FOUND',
    /config\.json/,
  ],
  [
    'has no weights',
    (p) => rmSync(join(p, 'model.safetensors')),
    'FileError',
    'FILE_NOT_FOUND',
    /llama-tied/,
  ],
  [
    'has pickled weights only',
    (p) => {
      rmSync(join(p, 'model.safetensors'));
      writeFileSync(join(p, 'pytorch_model.bin'), 'x');
    },
    'FileError',
    'FILE_UNSAFE',
    /llama-tied has its weights in a pickle/,
  ],
  [
    'has a config.json cut short',
    (p) => rewrite(p, 'config.json', (b) => b.subarray(0, 40)),
    'ModelError',
    'CONFIG_INVALID',
    /config\.json/,
  ],
  [
    'is of an unknown architecture',
    (p) => configure(p, { architectures: ['MambaForCausalLM'], model_type: 'mamba' }),
    'ModelError',
    'UNSUPPORTED_ARCHITECTURE',
    /mamba/i,
  ],
  [
    'has a number of heads that does not divide',
    (p) => configure(p, { num_key_value_heads: 4 }),
    'ModelError',
    'CONFIG_INVALID',
    /4/,
  ],
  [
    'has a layer more in its configuration',
    (p) => configure(p, { num_hidden_layers: 3 }),
    'FileError',
    'TENSOR_MISSING',
    /model\.layers\.2\.self_attn\.q_proj\.weight/,
  ],
  [
    'has a layer less in its configuration',
    (p) => configure(p, { num_hidden_layers: 1 }),
    'FileError',
    'TENSOR_UNEXPECTED',
    /model\.layers\.1\./,
  ],
  [
    'lacks tensors',
    (p) =>
      change(p, (t) => {
        t.delete(up);
        t.delete(norm);
      }),
    'FileError',
    'TENSOR_MISSING',
    /2 tensor\(s\) missing: .*up_proj.*input_layernorm|2 tensor\(s\) missing: .*input_layernorm.*up_proj/,
  ],
  [
    'has a tensor of another architecture',
    (p) => change(p, (t) => t.set('model.layers.0.mlp.experts.3', t.get(norm)!)),
    'FileError',
    'TENSOR_UNEXPECTED',
    /1 tensor\(s\) not of this architecture: "model\.layers\.0\.mlp\.experts\.3"/,
  ],
  [
    'has a tensor of another shape',
    (p) => change(p, (t) => t.set(up, storeFloat32([48, 80], new Float32Array(3840)))),
    'FileError',
    'TENSOR_SHAPE',
    /up_proj\.weight" is \[48, 80\], the configuration needs \[80, 48\]/,
  ],
  [
    'holds integers',
    (p) => change(p, (t) => t.set(up, { ...t.get(up)!, dtype: 'I32' })),
    'FileError',
    'FILE_FORMAT',
    /up_proj\.weight" is of type I32; expected floating-point/,
  ],
  [
    'has a tensor of no elements',
    (p) => change(p, (t) => t.set(up, storeFloat32([80, 0], []))),
    'FileError',
    'TENSOR_SHAPE',
    /is \[80, 0\], the configuration needs \[80, 48\]/,
  ],
  [
    'has a vector where a matrix belongs',
    (p) => change(p, (t) => t.set(up, storeFloat32([3840], new Float32Array(3840)))),
    'FileError',
    'TENSOR_SHAPE',
    /is \[3840\]/,
  ],
  [
    'holds NaN in a weight',
    (p) => change(p, (t) => t.set(up, with1(t.get(up)!, 77, Number.NaN))),
    'ModelError',
    'WEIGHT_NOT_FINITE',
    /up_proj\.weight" holds NaN or infinite/,
  ],
  [
    'holds infinity in a norm',
    (p) => change(p, (t) => t.set(norm, with1(t.get(norm)!, 0, -Infinity))),
    'ModelError',
    'WEIGHT_NOT_FINITE',
    /input_layernorm\.weight"/,
  ],
  [
    'has empty weights',
    (p) => rewrite(p, 'model.safetensors', () => Buffer.alloc(0)),
    'FileError',
    'FILE_TRUNCATED',
    /model\.safetensors/,
  ],
  [
    'has weights of 7 bytes',
    (p) => rewrite(p, 'model.safetensors', (b) => b.subarray(0, 7)),
    'FileError',
    'FILE_TRUNCATED',
    /model\.safetensors/,
  ],
  [
    'has weights cut in the header',
    (p) => rewrite(p, 'model.safetensors', (b) => b.subarray(0, 300)),
    'FileError',
    'FILE_TRUNCATED',
    /model\.safetensors/,
  ],
  [
    'has weights cut in the data',
    (p) => rewrite(p, 'model.safetensors', (b) => b.subarray(0, -1)),
    'FileError',
    'FILE_TRUNCATED',
    /model\.safetensors/,
  ],
  [
    'has weights with bytes behind the end',
    (p) => rewrite(p, 'model.safetensors', (b) => Buffer.concat([b, Buffer.alloc(64)])),
    'FileError',
    'FILE_FORMAT',
    /model\.safetensors/,
  ],
  [
    'says that its header is enormous',
    (p) =>
      rewrite(p, 'model.safetensors', (b) => {
        b.writeBigUInt64LE(2n ** 63n - 1n);
        return b;
      }),
    'FileError',
    'FILE_FORMAT',
    /model\.safetensors/,
  ],
  [
    'has a header that is no JSON',
    (p) => header(p, (text) => text.replace('{', '[')),
    'FileError',
    'FILE_FORMAT',
    /model\.safetensors/,
  ],
  [
    'has tensors one over the other',
    (p) => header(p, (text) => text.replace(/"data_offsets":\[\d+,/, '"data_offsets":[4,')),
    'FileError',
    'FILE_FORMAT',
    /model\.safetensors/,
  ],
  [
    'has a tensor beyond the end',
    (p) =>
      header(p, (text) => text.replace(/"data_offsets":\[(\d+),\d+\]/, '"data_offsets":[$1,99999999999]')),
    'FileError',
    'FILE_FORMAT',
    /model\.safetensors/,
  ],
  [
    'has a tensor of a type that does not exist',
    (p) => header(p, (text) => text.replace('"F32"', '"F33"')),
    'FileError',
    'FILE_FORMAT',
    /F33/,
  ],
  [
    'has a tokenizer.json that is none',
    (p) => writeFileSync(join(p, 'tokenizer.json'), '{"model": 3}'),
    'ModelError',
    'TOKENIZER_INVALID',
    /tokenizer\.json/,
  ],
  [
    'has a tokenizer of more tokens than the model',
    addToken,
    'ModelError',
    'TOKENIZER_INVALID',
    /has 513 tokens, expected at most 512/,
  ],
];

function addToken(path: string): void {
  rewrite(path, 'tokenizer.json', (bytes) => {
    const json = JSON.parse(bytes.toString()) as { model: { vocab: Record<string, number> } };
    json.model.vocab['one too many'] = 512;
    return Buffer.from(JSON.stringify(json));
  });
}

describe('a folder that', () => {
  it.each(folders)('%s is refused', async (_, spoil, name, code, words) => {
    const path = copyOf('llama-tied');
    spoil(path);
    const error = await failureOf(Model.load(path));
    expect({ name: error.name, code: error.code }, error.message).toEqual({ name, code });
    expect(error.message).toMatch(words);
    expect(error.exitCode).toBe(2);
  });

  it('was refused loads when it is put right', async () => {
    const path = copyOf('llama-tied');
    const good = await scoreBits(path);
    const before = readFileSync(join(path, 'model.safetensors'));
    rewrite(path, 'model.safetensors', (bytes) => bytes.subarray(0, -1));
    await failureOf(Model.load(path));
    writeFileSync(join(path, 'model.safetensors'), before);
    expect(await scoreBits(path)).toBe(good);
  });

  it('lacks one of its shards, or has a tensor in two', async () => {
    const shard = 'model-00002-of-00005.safetensors';
    const missing = copyOf('llama-sharded');
    rmSync(join(missing, shard));
    const error = await failureOf(Model.load(missing));
    expect(error).toMatchObject({ name: 'FileError', code: 'FILE_NOT_FOUND' });
    expect(error.message).toContain(shard);
    const twice = copyOf('llama-sharded');
    const other = readSafetensors(join(twice, 'model-00003-of-00005.safetensors'));
    const [[name, tensor]] = [...readSafetensors(join(twice, shard))] as [[string, StoredTensor]];
    writeSafetensors(join(twice, 'model-00003-of-00005.safetensors'), other.set(name, tensor));
    const second = await failureOf(Model.load(twice));
    expect(second).toMatchObject({ name: 'FileError', code: 'FILE_FORMAT' });
    expect(second.message).toContain(`"${name}" is present twice`);
  });

  it('may hold its tensors in any order, and buffers of old versions', async () => {
    const path = copyOf('llama-tied');
    const good = await scoreBits(path);
    change(path, (tensors) => {
      const entries = [...tensors].reverse();
      tensors.clear();
      for (const [name, tensor] of entries) tensors.set(name, tensor);
      tensors.set('model.layers.0.self_attn.rotary_emb.inv_freq', storeFloat32([5], new Float32Array(5)));
    });
    expect(await scoreBits(path)).toBe(good);
  });
});

const files: [string, (bytes: Buffer) => Uint8Array, string, string, RegExp][] = [
  ['is empty', () => Buffer.alloc(0), 'FileError', 'FILE_TRUNCATED', /llama-f32\.gguf/],
  [
    'has another magic number',
    (b) => {
      b.write('GGML');
      return b;
    },
    'FileError',
    'FILE_FORMAT',
    /llama-f32\.gguf/,
  ],
  [
    'has a version from the future',
    (b) => {
      b.writeUInt32LE(99, 4);
      return b;
    },
    'FileError',
    'FILE_FORMAT',
    /99/,
  ],
  [
    'says that it has 2^60 tensors',
    (b) => {
      b.writeBigUInt64LE(2n ** 60n, 8);
      return b;
    },
    'FileError',
    'FILE_',
    /llama-f32\.gguf/,
  ],
  [
    'says that it has 2^60 entries',
    (b) => {
      b.writeBigUInt64LE(2n ** 60n, 16);
      return b;
    },
    'FileError',
    'FILE_',
    /llama-f32\.gguf/,
  ],
  ['is cut in its metadata', (b) => b.subarray(0, 500), 'FileError', 'FILE_TRUNCATED', /llama-f32\.gguf/],
  [
    'is cut in its data',
    (b) => b.subarray(0, b.length - 33),
    'FileError',
    'FILE_TRUNCATED',
    /llama-f32\.gguf/,
  ],
  [
    'is of another architecture',
    (b) => replaced(b, 'llama', 'mamba', 1),
    'ModelError',
    'UNSUPPORTED_ARCHITECTURE',
    /mamba/,
  ],
  [
    'lacks a tensor',
    (b) => replaced(b, 'blk.1.ffn_up.weight', 'blk.1.ffn_xx.weight'),
    'FileError',
    'TENSOR_MISSING',
    /layers\.1\.mlp\.up_proj\.weight/,
  ],
  [
    'holds NaN',
    (b) => {
      b.writeFloatLE(Number.NaN, b.length - 64);
      return b;
    },
    'ModelError',
    'WEIGHT_NOT_FINITE',
    /llama-f32\.gguf: tensor/,
  ],
];
/** Another text of the same length in place of one of its occurrences. */
function replaced(bytes: Buffer, from: string, to: string, times = 1): Buffer {
  let at = -1;
  for (let i = 0; i < times; i++) at = bytes.indexOf(from, at + 1);
  bytes.write(to, at);
  return bytes;
}

describe('a GGUF file that', () => {
  it.each(files)('%s is refused', async (_, spoil, name, code, words) => {
    const path = copyOf('llama-f32.gguf');
    writeFileSync(path, spoil(readFileSync(path)));
    const error = await failureOf(Model.load(path));
    expect(error.name, error.message).toBe(name);
    expect(error.code).toMatch(new RegExp(`^${code}`));
    expect(error.message).toMatch(words);
    expect(error.exitCode).toBe(2);
  });

  it('is good loads after all this', async () => {
    expect((await scoreBits(copyOf('llama-f32.gguf'))).length).toBeGreaterThan(0);
  });
});

describe('what is given to load', () => {
  const good = fixture('models', 'llama-tied');
  it.each<[string, () => Promise<unknown>, string, string, RegExp]>([
    ['a text file', () => Model.load(join(good, 'config.json')), 'FileError', 'FILE_FORMAT', /config\.json/],
    [
      'an empty folder',
      () => {
        const path = join(folder, 'empty');
        mkdirSync(path, { recursive: true });
        return Model.load(path);
      },
      'FileError',
      'FILE_NOT_FOUND',
      /empty/,
    ],
    [
      'a device that is not there',
      () => Model.load(good, { device: 'cuda' }),
      'ModelError',
      'DEVICE_UNAVAILABLE',
      /"cuda".*available: cpu/,
    ],
    [
      'an unknown dtype',
      () => Model.load(good, { dtype: 'int3' as never }),
      'InputError',
      'OPTION_INVALID',
      /int3.*float32, bfloat16 or float64/,
    ],
    ['no threads', () => Model.load(good, { threads: 0 }), 'InputError', 'OPTION_INVALID', /threads is 0/],
    [
      'half a thread',
      () => Model.load(good, { threads: 1.5 }),
      'InputError',
      'OPTION_INVALID',
      /threads is 1\.5/,
    ],
  ])('%s', async (_, load, name, code, words) => {
    const error = await failureOf(load);
    expect({ name: error.name, code: error.code }, error.message).toEqual({ name, code });
    expect(error.message).toMatch(words);
    expect((await scoreBits(good)).length).toBeGreaterThan(0);
  });
});
