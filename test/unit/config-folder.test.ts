import { execFileSync } from 'node:child_process';
import { mkdir, mkdtemp, realpath, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { resolveModel } from '../../lib/format/folder.js';

const FIXTURES = fileURLToPath(new URL('../fixtures/models', import.meta.url));
const CONFIG = {
  model_type: 'llama',
  vocab_size: 512,
  hidden_size: 48,
  intermediate_size: 80,
  num_hidden_layers: 2,
  num_attention_heads: 6,
  rms_norm_eps: 1e-5,
};
const noInspect = { inspect: () => Promise.reject(new Error('nothing to inspect')) };

let root: string;
let folder: string;
beforeEach(async () => {
  root = await realpath(await mkdtemp(join(tmpdir(), 'selfedit-folder-')));
  folder = join(root, 'model');
  await mkdir(folder);
});
afterEach(() => rm(root, { recursive: true, force: true }));

async function write(files: Record<string, string | object>): Promise<void> {
  for (const [name, content] of Object.entries(files)) {
    await writeFile(join(folder, name), typeof content === 'string' ? content : JSON.stringify(content));
  }
}
const index = (...files: string[]) => ({
  weight_map: Object.fromEntries(files.map((file, i) => [`model.layers.${i}.mlp.up_proj.weight`, file])),
});
const resolved = () => resolveModel(folder, noInspect);

describe('a Hugging Face folder', () => {
  test('one file', async () => {
    const source = await resolveModel(join(FIXTURES, 'llama-tied'), noInspect);
    expect(source).toMatchObject({
      kind: 'folder',
      format: 'safetensors',
      path: join(FIXTURES, 'llama-tied'),
      files: [join(FIXTURES, 'llama-tied', 'model.safetensors')],
      layout: { permutedQK: false, normOffset: 0, fused: false },
      config: { architecture: 'llama', tied: true },
    });
  });

  test('shards, each once, in order', async () => {
    const source = await resolveModel(join(FIXTURES, 'llama-sharded'), noInspect);
    const names = [1, 2, 3, 4, 5].map((i) =>
      join(FIXTURES, 'llama-sharded', `model-0000${i}-of-00005.safetensors`),
    );
    expect(source.files).toEqual(names);
  });

  test('a tokenizer is optional', async () => {
    await write({ 'config.json': CONFIG, 'model.safetensors': '' });
    expect(await resolved()).toMatchObject({ hasTokenizer: false });
    await write({ 'tokenizer.json': {} });
    expect(await resolved()).toMatchObject({ hasTokenizer: true });
  });

  test('links within the folder are followed, links out of it refused', async () => {
    await write({ 'config.json': CONFIG, 'weights.safetensors': '' });
    await symlink('weights.safetensors', join(folder, 'model.safetensors'));
    expect((await resolved()).files).toEqual([join(folder, 'model.safetensors')]);
    await rm(join(folder, 'model.safetensors'));
    await writeFile(join(root, 'elsewhere.safetensors'), '');
    await symlink('../elsewhere.safetensors', join(folder, 'model.safetensors'));
    await expect(resolved()).rejects.toMatchObject({
      code: 'FILE_UNSAFE',
      message: expect.stringContaining('elsewhere.safetensors'),
    });
  });

  test('a folder that is itself reached through a link', async () => {
    await write({ 'config.json': CONFIG, 'model.safetensors': '' });
    await symlink(folder, join(root, 'link'));
    const source = await resolveModel(join(root, 'link'), noInspect);
    expect(source.files).toEqual([join(root, 'link', 'model.safetensors')]);
  });

  test("a snapshot of the hub's cache links to the blobs beside it", async () => {
    const snapshot = join(root, 'models--a--b', 'snapshots', 'f00d');
    await mkdir(snapshot, { recursive: true });
    await mkdir(join(root, 'models--a--b', 'blobs'));
    await writeFile(join(root, 'models--a--b', 'blobs', 'cafe'), '');
    await writeFile(join(snapshot, 'config.json'), JSON.stringify(CONFIG));
    await symlink('../../blobs/cafe', join(snapshot, 'model.safetensors'));
    expect((await resolveModel(snapshot, noInspect)).files).toEqual([join(snapshot, 'model.safetensors')]);

    const inner = join(snapshot, 'fp32');
    await mkdir(inner);
    await writeFile(join(inner, 'config.json'), JSON.stringify(CONFIG));
    await symlink('../../../blobs/cafe', join(inner, 'model.safetensors'));
    expect((await resolveModel(inner, noInspect)).files).toEqual([join(inner, 'model.safetensors')]);
    await rm(join(inner, 'model.safetensors'));
    await symlink('../model.safetensors.index.json', join(inner, 'model.safetensors'));
    await writeFile(join(snapshot, 'model.safetensors.index.json'), '');
    await expect(resolveModel(inner, noInspect)).rejects.toMatchObject({ code: 'FILE_UNSAFE' });
  });

  test('a folder of any other cache has no blobs beside it', async () => {
    const snapshot = join(root, 'snapshots', 'f00d');
    await mkdir(snapshot, { recursive: true });
    await mkdir(join(root, 'blobs'));
    await writeFile(join(root, 'blobs', 'cafe'), '');
    await writeFile(join(snapshot, 'config.json'), JSON.stringify(CONFIG));
    await symlink('../../blobs/cafe', join(snapshot, 'model.safetensors'));
    await expect(resolveModel(snapshot, noInspect)).rejects.toMatchObject({ code: 'FILE_UNSAFE' });
  });

  test('an adapter is no model', async () => {
    await write({ 'adapter_config.json': {} });
    await expect(resolved()).rejects.toMatchObject({
      code: 'FILE_NOT_FOUND',
      message: expect.stringMatching(/no config\.json; it is an adapter, expected a model/),
    });
  });

  test('a pipe in the place of config.json is no regular file', async () => {
    execFileSync('mkfifo', [join(folder, 'config.json')]);
    await expect(resolved()).rejects.toMatchObject({
      code: 'FILE_FORMAT',
      message: expect.stringContaining('config.json is not a regular file'),
    });
  });

  test.each([
    ['../elsewhere.safetensors'],
    ['a/../../elsewhere.safetensors'],
    ['/etc/elsewhere.safetensors'],
    ['..\\elsewhere.safetensors'],
  ])('refuses a shard at %s', async (name) => {
    await writeFile(join(root, 'elsewhere.safetensors'), '');
    await write({ 'config.json': CONFIG, 'model.safetensors.index.json': index(name) });
    await expect(resolved()).rejects.toMatchObject({
      code: 'FILE_UNSAFE',
      message: expect.stringContaining('elsewhere.safetensors'),
    });
  });

  test.each(['pytorch_model.bin', 'model.pt', 'consolidated.00.pth'])(
    'refuses %s with advice',
    async (name) => {
      await write({ 'config.json': CONFIG, [name]: '' });
      await expect(resolved()).rejects.toMatchObject({
        code: 'FILE_UNSAFE',
        message: expect.stringMatching(/pickle.*safetensors.*save_pretrained/),
      });
      await expect(resolveModel(join(folder, name), noInspect)).rejects.toMatchObject({
        code: 'FILE_UNSAFE',
      });
    },
  );

  test('refuses an index that names pickles, nothing, or is malformed', async () => {
    await write({ 'config.json': CONFIG, 'model.safetensors.index.json': index('pytorch_model.bin') });
    await expect(resolved()).rejects.toMatchObject({ code: 'FILE_UNSAFE' });
    await write({ 'model.safetensors.index.json': { weight_map: {} } });
    await expect(resolved()).rejects.toMatchObject({ code: 'FILE_FORMAT' });
    await write({ 'model.safetensors.index.json': { weight_map: { a: 3 } } });
    await expect(resolved()).rejects.toMatchObject({
      code: 'FILE_FORMAT',
      message: expect.stringContaining('"weight_map.a" is 3, expected a file name'),
    });
    await write({ 'model.safetensors.index.json': '{' });
    await expect(resolved()).rejects.toMatchObject({ code: 'FILE_FORMAT' });
  });

  test('names the missing shard, and missing weights', async () => {
    await write({
      'config.json': CONFIG,
      'model.safetensors.index.json': index('a.safetensors', 'b.safetensors'),
    });
    await write({ 'a.safetensors': '' });
    await expect(resolved()).rejects.toMatchObject({
      code: 'FILE_NOT_FOUND',
      message: expect.stringContaining('b.safetensors'),
    });
    await rm(join(folder, 'model.safetensors.index.json'));
    await expect(resolved()).rejects.toMatchObject({
      code: 'FILE_NOT_FOUND',
      message: expect.stringContaining('expected model.safetensors'),
    });
  });

  test('refuses a missing, malformed or oversized config.json', async () => {
    await expect(resolved()).rejects.toMatchObject({
      code: 'FILE_NOT_FOUND',
      message: expect.stringContaining('config.json'),
    });
    await write({ 'a.gguf': '' });
    await expect(resolved()).rejects.toMatchObject({ message: expect.stringContaining('a.gguf') });
    await write({ 'config.json': '{"model_type": "llama", ' });
    await expect(resolved()).rejects.toMatchObject({
      code: 'CONFIG_INVALID',
      message: expect.stringContaining('not valid JSON'),
    });
    await write({ 'config.json': ' '.repeat(5_000_000) });
    await expect(resolved()).rejects.toMatchObject({
      code: 'FILE_FORMAT',
      message: expect.stringContaining('5000000 bytes'),
    });
  });

  test('refuses a path that is nothing, or another kind of file', async () => {
    await expect(resolveModel(join(root, 'none'), noInspect)).rejects.toMatchObject({
      code: 'FILE_NOT_FOUND',
    });
    await write({ 'notes.txt': 'hello', 'model.safetensors': '' });
    await expect(resolveModel(join(folder, 'notes.txt'), noInspect)).rejects.toMatchObject({
      code: 'FILE_FORMAT',
    });
    await expect(resolveModel(join(folder, 'model.safetensors'), noInspect)).rejects.toMatchObject({
      code: 'FILE_FORMAT',
      message: expect.stringContaining('config.json'),
    });
  });
});

describe('a GGUF file', () => {
  const metadata = {
    'general.architecture': 'llama',
    'llama.block_count': 2,
    'llama.context_length': 131072,
    'llama.embedding_length': 256,
    'llama.feed_forward_length': 80,
    'llama.attention.head_count': 4,
    'llama.attention.layer_norm_rms_epsilon': 1e-5,
    'llama.rope.freq_base': 500000,
  };
  const embedding = { name: 'token_embd.weight', dtype: 'F32', shape: [512, 256], offset: 0, bytes: 524288 };
  const inspecting = (header: object) => ({
    inspect: () => Promise.resolve(JSON.stringify({ format: 'gguf', version: 3, ...header })),
  });

  test('its header becomes a configuration, with permuted q and k for the Llama family only', async () => {
    await write({ 'm.gguf': 'GGUF' });
    const path = join(folder, 'm.gguf');
    const llama = await resolveModel(path, inspecting({ metadata, tensors: [embedding] }));
    expect(llama).toMatchObject({
      kind: 'gguf',
      format: 'gguf',
      path,
      files: [path],
      layout: { permutedQK: true, normOffset: 0, fused: false },
      config: { vocabSize: 512, headDim: 64, tied: true },
      header: { metadata },
    });
    const renamed = Object.fromEntries(
      Object.entries(metadata).map(([key, value]) => [key.replace('llama', 'qwen2'), value]),
    );
    const qwen2 = { ...renamed, 'general.architecture': 'qwen2' };
    expect(await resolveModel(path, inspecting({ metadata: qwen2, tensors: [embedding] }))).toMatchObject({
      layout: { permutedQK: false, normOffset: 0, fused: false },
      config: { architecture: 'qwen2' },
    });
  });

  test('that holds an adapter is no model', async () => {
    await write({ 'm.gguf': 'GGUF' });
    const adapter = { ...metadata, 'general.type': 'adapter' };
    await expect(
      resolveModel(join(folder, 'm.gguf'), inspecting({ metadata: adapter, tensors: [] })),
    ).rejects.toMatchObject({
      code: 'FILE_FORMAT',
      message: expect.stringMatching(/m\.gguf is an adapter, expected a model/),
    });
  });

  test('is known by its first bytes where the name does not say so', async () => {
    await write({ model: 'GGUF\x03' });
    const source = await resolveModel(join(folder, 'model'), inspecting({ metadata, tensors: [embedding] }));
    expect(source.kind).toBe('gguf');
  });

  test('rotary factors are read from the file', async () => {
    // Llama 3.1: factor 8, head dimension 64 (values of transformers, as in config.test.ts).
    const buffer = Buffer.alloc(16 + 128);
    const values = [...Array<number>(15).fill(1), 1.553414, 2.69453, 5.257327, ...Array<number>(14).fill(8)];
    values.forEach((value, i) => {
      buffer.writeFloatLE(value, 16 + 4 * i);
    });
    await writeFile(join(folder, 'm.gguf'), buffer);
    const tensor = { name: 'rope_freqs.weight', dtype: 'F32', shape: [32], offset: 16, bytes: 128 };
    const source = await resolveModel(
      join(folder, 'm.gguf'),
      inspecting({ metadata, tensors: [embedding, tensor] }),
    );
    expect(source.config.ropeScaling).toMatchObject({
      type: 'llama3',
      factor: 8,
      originalMaxPositions: 8192,
    });
    for (const [change, code] of [
      [{ offset: 100 }, 'FILE_TRUNCATED'],
      [{ bytes: 4_000_000_000 }, 'TENSOR_SHAPE'],
      [{ dtype: 'F16' }, 'TENSOR_SHAPE'],
    ] as const) {
      const tensors = [embedding, { ...tensor, ...change }];
      await expect(
        resolveModel(join(folder, 'm.gguf'), inspecting({ metadata, tensors })),
      ).rejects.toMatchObject({ code });
    }
  });

  test('refuses one part of several', async () => {
    await write({ 'm.gguf': 'GGUF' });
    const parts = { ...metadata, 'split.count': 3 };
    await expect(
      resolveModel(join(folder, 'm.gguf'), inspecting({ metadata: parts, tensors: [embedding] })),
    ).rejects.toMatchObject({ code: 'FILE_FORMAT', message: expect.stringContaining('3 parts') });
  });
});
