// Every bad input of the list: one line with the right code, exit code 2 (1 for the disk), nothing on standard output.
import { cpSync, mkdirSync, readdirSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { fixture } from '../support/fixtures.js';
import { jsonl, selfedit, temporaryFolder } from './helpers.js';

const TINY = fixture('models', 'llama-tied');
const GGUF = fixture('models', 'gguf', 'llama-q8_0.gguf');
const folder = temporaryFolder();

/** A copy of the tiny model with something changed. */
function variant(name: string, change: (path: string) => void): string {
  const path = join(folder, name);
  cpSync(TINY, path, { recursive: true });
  change(path);
  return path;
}

function editJson(path: string, change: (json: Record<string, unknown>) => void): void {
  const json = JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>;
  change(json);
  writeFileSync(path, JSON.stringify(json));
}

/** Overwrites the first value of a tensor with NaN (float32). */
function poison(path: string, tensor: string): void {
  const file = join(path, 'model.safetensors');
  const bytes = readFileSync(file);
  const size = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString('utf8', 8, 8 + size)) as Record<
    string,
    { data_offsets: number[] }
  >;
  bytes.writeFloatLE(Number.NaN, 8 + size + header[tensor]!.data_offsets[0]!);
  writeFileSync(file, bytes);
}

function cutGguf(name: string, bytes: number): string {
  const path = join(folder, name);
  writeFileSync(path, readFileSync(GGUF).subarray(0, bytes));
  return path;
}

const MODELS: { what: string; model: () => string; code: string; says: RegExp }[] = [
  {
    what: 'a missing file',
    model: () => join(folder, 'none.gguf'),
    code: 'FILE_NOT_FOUND',
    says: /none\.gguf/,
  },
  {
    what: 'truncated safetensors',
    model: () =>
      variant('short', (path) => {
        const file = join(path, 'model.safetensors');
        truncateSync(file, statSync(file).size - 100);
      }),
    code: 'FILE_TRUNCATED',
    says: /model\.safetensors/,
  },
  {
    what: 'safetensors with bytes to spare',
    model: () =>
      variant('long', (path) => {
        const file = join(path, 'model.safetensors');
        writeFileSync(file, Buffer.concat([readFileSync(file), Buffer.alloc(64)]));
      }),
    code: 'FILE_FORMAT',
    says: /model\.safetensors/,
  },
  {
    what: 'GGUF cut in its data',
    model: () => cutGguf('data.gguf', 100_000),
    code: 'FILE_TRUNCATED',
    says: /data\.gguf/,
  },
  {
    what: 'GGUF cut in its header',
    model: () => cutGguf('header.gguf', 500),
    code: 'FILE_TRUNCATED',
    says: /header\.gguf/,
  },
  {
    what: 'an unknown architecture',
    model: () =>
      variant('mamba', (path) => editJson(join(path, 'config.json'), (json) => (json.model_type = 'mamba'))),
    code: 'UNSUPPORTED_ARCHITECTURE',
    says: /mamba.*llama/,
  },
  {
    what: 'a tokenizer of another model',
    model: () =>
      variant('tokens', (path) =>
        editJson(join(path, 'tokenizer.json'), (json) => {
          const { vocab } = json.model as { vocab: Record<string, number> };
          vocab.unheard = 700;
        }),
      ),
    code: 'TOKENIZER_INVALID',
    says: /701.*512/,
  },
  {
    what: 'a pickle',
    model: () => {
      const path = join(folder, 'pytorch_model.bin');
      writeFileSync(path, 'x');
      return path;
    },
    code: 'FILE_UNSAFE',
    says: /pickle/,
  },
  {
    what: 'an invalid config.json',
    model: () => variant('json', (path) => writeFileSync(join(path, 'config.json'), '{"model_type": ')),
    code: 'CONFIG_INVALID',
    says: /config\.json/,
  },
];

describe('models', () => {
  it.each(MODELS)('$what: $code', async ({ what, model, code, says }) => {
    const path = model();
    // `inspect` reads the same headers.
    const args = what.startsWith('GGUF') ? ['inspect', path] : ['score', '--model', path];
    const outcome = await selfedit(args, { input: jsonl([{ tokens: [1, 2] }]) });
    expect(outcome.stderr).toMatch(/^error \[[A-Z_]+\]: .+\n$/);
    expect(outcome.stderr).toContain(`[${code}]`);
    expect(outcome.stderr).toMatch(says);
    expect({ code: outcome.code, stdout: outcome.stdout }).toEqual({ code: 2, stdout: '' });
  });

  it('NaN in weights: WEIGHT_NOT_FINITE, naming the tensor', async () => {
    const tensor = 'model.layers.1.mlp.up_proj.weight';
    const model = variant('nan', (path) => poison(path, tensor));
    const { code, stdout, stderr } = await selfedit(['score', '--model', model], {
      input: jsonl([{ tokens: [1] }]),
    });
    expect(stderr).toMatch(/^error \[WEIGHT_NOT_FINITE\]: .+\n$/);
    expect(stderr).toContain(tensor);
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
  });
});

describe('adapters', () => {
  it.each([
    {
      what: 'of another model',
      adapter: () => fixture('peft', 'q-v', 'init'),
      code: 'DELTA_SHAPE',
      says: /q_proj.*\d+.*\d+/,
    },
    {
      what: 'that is missing',
      adapter: () => join(folder, 'nothing'),
      code: 'FILE_NOT_FOUND',
      says: /nothing/,
    },
    {
      what: 'that is cut short',
      adapter: () => {
        const path = join(folder, 'cut-adapter');
        cpSync(fixture('peft', 'q-v', 'init'), path, { recursive: true });
        truncateSync(join(path, 'adapter_model.safetensors'), 600);
        return path;
      },
      code: 'FILE_TRUNCATED',
      says: /adapter_model\.safetensors/,
    },
  ])('$what: $code', async ({ what, adapter, code, says }) => {
    const model = what === 'of another model' ? fixture('models', 'qwen2') : TINY;
    const path = adapter();
    const byOption = ['score', '--model', model, '--adapter', path];
    const byLine = ['generate', '--model', model];
    const input = jsonl([{ tokens: [1, 2], adapter: path }]);
    for (const args of [byOption, byLine]) {
      const outcome = await selfedit(args, { input });
      expect(outcome.stderr).toMatch(/^error \[[A-Z_]+\]: .+\n$/);
      expect(outcome.stderr).toContain(`[${code}]`);
      expect(outcome.stderr).toMatch(says);
      if (args === byLine) expect(outcome.stderr).toContain('standard input line 1');
      expect({ code: outcome.code, stdout: outcome.stdout }).toEqual({ code: 2, stdout: '' });
    }
  });
});

describe('lines', () => {
  const room = 128;
  it.each([
    { line: { tokens: [] }, code: 'PROMPT_EMPTY', says: /line 2/ },
    { line: { text: '', prompt: '' }, code: 'PROMPT_EMPTY', says: /line 2/ },
    { line: { tokens: [3, -1] }, code: 'TOKEN_RANGE', says: /line 2, position 1/ },
    { line: { tokens: [512] }, code: 'TOKEN_RANGE', says: /line 2, position 0.*512/ },
    { line: { tokens: ['a'] }, code: 'INPUT_INVALID', says: /line 2.*"tokens"/ },
    { line: { tokens: [1], text: 'a', prompt: 'a' }, code: 'INPUT_INVALID', says: /line 2 has both/ },
    { line: {}, code: 'INPUT_INVALID', says: /line 2 has neither/ },
    { line: { tokens: [1], adapter: 4 }, code: 'INPUT_INVALID', says: /line 2: "adapter" is 4/ },
    {
      line: { tokens: Array.from({ length: room + 1 }, () => 5) },
      code: 'CONTEXT_LENGTH',
      says: /line 2 has 129.*128/,
    },
  ])('$code for $says, after the results before it', async ({ line, code, says }) => {
    // Both commands read and check their lines by the same functions.
    const command = code === 'CONTEXT_LENGTH' || 'prompt' in line ? 'generate' : 'score';
    const input = jsonl([{ tokens: [1, 2] }, line, { tokens: [3] }]);
    const outcome = await selfedit([command, '--model', TINY], { input });
    expect(outcome.stderr).toMatch(/^error \[[A-Z_]+\]: .+\n$/);
    expect(outcome.stderr).toContain(`[${code}]`);
    expect(outcome.stderr).toMatch(says);
    expect(outcome.code).toBe(2);
    expect(outcome.stdout.split('\n')).toHaveLength(2);
  });

  it('a prompt that fills the context leaves nothing to generate; score takes it', async () => {
    const input = jsonl([{ tokens: Array.from({ length: room }, () => 5) }]);
    const [generated, scored] = await Promise.all([
      selfedit(['generate', '--model', TINY], { input }),
      selfedit(['score', '--model', TINY], { input }),
    ]);
    expect(generated.stderr).toMatch(/^error \[CONTEXT_LENGTH\]: .*128.*\n$/);
    expect([generated.code, scored.code]).toEqual([2, 0]);
  });

  it('seeds and conversations that are none', async () => {
    const cases: [unknown, RegExp][] = [
      [{ prompt: 'x', seed: 1.5 }, /"seed" is 1\.5/],
      [{ messages: [] }, /line 1: messages/],
      [{ messages: 'hi' }, /"messages" is "hi"/],
      [{ messages: [{ role: 'user', content: 'x' }], prompt: 'y' }, /"messages" beside/],
    ];
    for (const [line, says] of cases) {
      const { code, stderr } = await selfedit(['generate', '--model', TINY], { input: jsonl([line]) });
      expect(stderr).toMatch(/^error \[INPUT_INVALID\]: .+\n$/);
      expect(stderr).toMatch(says);
      expect(code).toBe(2);
    }
  });

  it('text for a model without a tokenizer', async () => {
    const model = join(folder, 'bare');
    mkdirSync(model);
    for (const name of readdirSync(TINY).filter((file) => !file.startsWith('tokenizer'))) {
      cpSync(join(TINY, name), join(model, name));
    }
    const text = await selfedit(['score', '--model', model], { input: jsonl([{ text: 'Hello' }]) });
    expect(text.stderr).toMatch(/^error \[TOKENIZER_INVALID\]: .*tokenizer\.json\n$/);
    const tokens = await selfedit(['generate', '--model', model], { input: jsonl([{ tokens: [5, 6] }]) });
    expect([text.code, tokens.code]).toEqual([2, 0]);
  });
});

describe('options that only the model can judge', () => {
  const edit = jsonl([{ id: 'a', documents: [[1, 2, 3]] }]);
  const init = fixture('peft', 'q-v', 'init');
  it.each([
    { args: ['--targets', 'q_proj,w_proj'], code: 'TARGET_UNKNOWN', says: /"w_proj".*q_proj.*down_proj/ },
    { args: ['--init', init, '--rank', '8'], code: 'DELTA_SHAPE', says: /rank 4.*8/ },
    { args: ['--init', init, '--alpha', '9'], code: 'OPTION_INVALID', says: /--alpha is 9.*8/ },
    { args: ['--init', init, '--targets', 'q_proj'], code: 'DELTA_SHAPE', says: /4.*2/ },
    { args: ['--device', 'tpu'], code: 'DEVICE_UNAVAILABLE', says: /tpu/ },
  ])('$args: $code', async ({ args, code, says }) => {
    const out = join(folder, 'options');
    const outcome = await selfedit(['adapt', '--model', TINY, '--input', '-', '--out', out, ...args], {
      input: edit,
    });
    expect(outcome.stderr).toMatch(/^error \[[A-Z_]+\]: .+\n$/);
    expect(outcome.stderr).toContain(`[${code}]`);
    expect(outcome.stderr).toMatch(says);
    expect({ code: outcome.code, stdout: outcome.stdout }).toEqual({ code: 2, stdout: '' });
  });
});
