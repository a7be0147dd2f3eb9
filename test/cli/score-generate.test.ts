// `score` and `generate` as processes, against what transformers and PEFT gave for the same tiny models.
import { describe, expect, it } from 'vitest';
import { fixture, largestGap, readJson } from '../support/fixtures.js';
import { jsonl, lines, selfedit, temporaryFolder } from './helpers.js';

interface Scored {
  tokens: number[];
  logprobs: (number | null)[];
}
interface Generated extends Scored {
  id?: unknown;
  text: string;
  finish: string;
}
interface Expected {
  rows: Scored[];
  greedy: { prompt: number[]; tokens: number[]; logprobs: number[] }[];
}
interface Spec {
  documents: number[][];
  loss: number[];
}

const TINY = fixture('models', 'llama-tied');
const MODELS = [
  { name: 'folder, tied', path: TINY, expected: ['models', 'llama-tied', 'expected.json'] },
  {
    name: 'sharded',
    path: fixture('models', 'llama-sharded'),
    expected: ['models', 'llama-sharded', 'expected.json'],
  },
  {
    name: 'GGUF, Qwen2',
    path: fixture('models', 'gguf', 'qwen2-q8_0.gguf'),
    expected: ['models', 'gguf', 'qwen2-q8_0.expected.json'],
  },
];

/** Mean negative log-prob of a scored row: the loss of a training step on it. */
function lossOf({ logprobs }: Scored): number {
  const predicted = logprobs.slice(1) as number[];
  return -predicted.reduce((sum, value) => sum + value, 0) / predicted.length;
}

describe.each(MODELS)('$name', ({ path, expected: file }) => {
  const expected = readJson<Expected>(...file);

  it('scores as transformers does, in the order of the input', async () => {
    // More rows than one batch holds, so that the order is put to the test.
    const rows = Array.from({ length: 260 }, (_, index) => expected.rows[index % expected.rows.length]!);
    const input = jsonl(rows.map(({ tokens }) => ({ tokens })));
    const { code, stdout, stderr } = await selfedit(['score', '--model', path], { input });
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    const found = lines<Scored>(stdout);
    expect(found).toHaveLength(rows.length);
    for (const [r, row] of rows.entries()) {
      expect(found[r]!.tokens).toEqual(row.tokens);
      expect(found[r]!.logprobs[0]).toBeNull();
      expect(largestGap(found[r]!.logprobs, row.logprobs)).toBeLessThan(1e-4);
    }
  });

  it('generates the greedy ids of transformers', async () => {
    const length = String(expected.greedy[0]!.tokens.length);
    const input = jsonl(expected.greedy.map(({ prompt }, id) => ({ id, tokens: prompt })));
    const args = ['generate', '--model', path, '--temperature', '0', '--max-tokens', length];
    const { code, stdout, stderr } = await selfedit(args, { input });
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    for (const [r, { id, tokens, logprobs, finish }] of lines<Generated>(stdout).entries()) {
      expect({ id, tokens }).toEqual({ id: r, tokens: expected.greedy[r]!.tokens });
      expect(largestGap(logprobs, expected.greedy[r]!.logprobs)).toBeLessThan(1e-4);
      expect(['length', 'stop']).toContain(finish);
    }
  });
});

describe('adapters', () => {
  // A training step's loss is that of the adapter before it: step 0 sees the initial one, step 20 the one after 20
  // steps. PEFT computed both, the second on top of another adapter.
  it('stack in order, by option or by line', async () => {
    const init = readJson<Spec>('peft', 'q-v-init-b', 'spec.json');
    const stacked = readJson<Spec>('peft', 'stacked', 'spec.json');
    const initial = fixture('peft', 'q-v-init-b', 'init');
    const stack = [fixture('peft', 'stacked', 'base-adapter'), fixture('peft', 'stacked', 'after-20')];
    const input = jsonl([
      { tokens: stacked.documents[20 % stacked.documents.length] },
      { tokens: init.documents[0], adapter: initial },
      { tokens: stacked.documents[20 % stacked.documents.length], adapter: stack },
      { tokens: stacked.documents[0], adapter: [stack[0]] },
      { tokens: stacked.documents[0], adapter: [] },
    ]);
    const args = ['score', '--model', TINY, ...stack.flatMap((folder) => ['--adapter', folder])];
    const { code, stdout, stderr } = await selfedit(args, { input });
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    const [byOption, byLine, both, base, none] = lines<Scored>(stdout);
    const gap = (row: Scored | undefined, loss: number | undefined) => Math.abs(lossOf(row!) - loss!);
    expect(gap(byOption, stacked.loss[20])).toBeLessThan(1e-4);
    expect(gap(byLine, init.loss[0])).toBeLessThan(1e-4);
    expect(both).toEqual(byOption);
    expect(gap(base, stacked.loss[0])).toBeLessThan(1e-4);
    expect(gap(none, stacked.loss[0])).toBeGreaterThan(1e-2);
  });

  it('change what is generated', async () => {
    const adapter = fixture('peft', 'q-v', 'after-85');
    const args = ['generate', '--model', TINY, '--temperature', '0', '--max-tokens', '8'];
    const tokens = [5, 6, 7];
    const lineOwn = await selfedit(args, { input: jsonl([{ tokens }, { tokens, adapter }]) });
    const option = await selfedit([...args, '--adapter', adapter], { input: jsonl([{ tokens }]) });
    const [plain, own] = lines<Generated>(lineOwn.stdout);
    expect(lines<Generated>(option.stdout)).toEqual([own]);
    expect(own!.logprobs).not.toEqual(plain!.logprobs);
  });
});

describe('text', () => {
  interface Corpus {
    [name: string]: unknown;
  }

  it('is encoded with the special tokens that the tokenizer adds, and decoded without', async () => {
    const { stdout } = await selfedit(['score', '--model', TINY], {
      input: jsonl([{ text: 'Hello there' }, { text: ' there' }]),
    });
    const [hello] = lines<Scored>(stdout);
    // The ids are those of the model's own tokenizer.json, looked up by hand: no special token is added.
    const { model } = readJson<{ model: { vocab: Record<string, number> } } & Corpus>(
      'models',
      'llama-tied',
      'tokenizer.json',
    );
    const pieces = hello!.tokens.map((id) =>
      Object.keys(model.vocab).find((piece) => model.vocab[piece] === id),
    );
    expect(pieces.join('')).toBe('HelloĠthere');
  });

  it('with --chat is the user’s turn of the template, as "messages" are', async () => {
    const prompt = 'What is rain?';
    const args = ['generate', '--model', TINY, '--max-tokens', '6', '--seed', '3'];
    const turn = { role: 'user', content: prompt };
    // The fixture's template, written out.
    const system = '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n';
    const rendered = `${system}<|im_start|>user\n${prompt}<|im_end|>\n<|im_start|>assistant\n`;
    const [chat, fromFlag, raw] = await Promise.all([
      selfedit([...args, '--chat', '--prompt', prompt]),
      selfedit(args, { input: jsonl([{ messages: [turn] }]) }),
      selfedit(args, { input: jsonl([{ prompt: rendered }]) }),
    ]);
    expect(chat.code).toBe(0);
    expect(lines<Generated>(chat.stdout)).toHaveLength(1);
    expect(fromFlag.stdout).toBe(chat.stdout);
    expect(raw.stdout).toBe(chat.stdout);
    const without = await selfedit([...args, '--prompt', prompt]);
    expect(without.stdout).not.toBe(chat.stdout);
  });
});

describe('sampling', () => {
  const args = ['generate', '--model', TINY, '--max-tokens', '12', '--temperature', '1.5'];
  const rows = Array.from({ length: 6 }, (_, index) => ({ id: `r${index}`, tokens: [5 + index, 9] }));
  const run = async (values: unknown[], ...more: string[]) => {
    const { code, stdout, stderr } = await selfedit([...args, ...more], { input: jsonl(values) });
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    return lines<Generated>(stdout);
  };

  it('depends on the seed and the place of a line, not on the other lines', async () => {
    const [all, again, other, changed] = await Promise.all([
      run(rows, '--seed', '11'),
      run(rows, '--seed', '11'),
      run(rows, '--seed', '12'),
      // The same places with other neighbours, and one line more.
      run(
        [...rows.map((row, index) => (index === 2 ? row : { tokens: [300, 301, 302] })), rows[0]],
        '--seed',
        '11',
      ),
    ]);
    expect(again).toEqual(all);
    expect(other.map(({ tokens }) => tokens)).not.toEqual(all.map(({ tokens }) => tokens));
    expect(changed[2]).toEqual(all[2]);
    expect(all.map(({ id }) => id)).toEqual(rows.map(({ id }) => id));
  });

  it('by the seed of a line is the same wherever the line stands', async () => {
    const row = { tokens: [7, 8], seed: 99 };
    const [first, last] = [await run([row, ...rows]), await run([...rows, row])];
    expect(first[0]).toEqual(last.at(-1));
  });

  it('reports log-probs of the tempered distribution, and at most --max-tokens of them', async () => {
    const [{ tokens, logprobs, finish }] = (await run([rows[0]], '--max-tokens', '3')) as [Generated];
    expect(logprobs).toHaveLength(tokens.length);
    expect(tokens.length).toBeLessThanOrEqual(3);
    expect(finish).toBe(tokens.length === 3 ? 'length' : 'stop');
    expect(logprobs.every((value) => value !== null && value <= 0)).toBe(true);
  });
});

describe('files', () => {
  it('give what standard input gives', async () => {
    const folder = temporaryFolder();
    const { writeFileSync } = await import('node:fs');
    const input =
      '\ufeff'.slice(1) + jsonl([{ tokens: [1, 2, 3] }, { tokens: [4, 5] }]).replaceAll('\n', '\r\n');
    writeFileSync(`${folder}/in.jsonl`, input.trimEnd());
    const [file, stream] = await Promise.all([
      selfedit(['score', '--model', TINY, '--input', 'in.jsonl'], { cwd: folder }),
      selfedit(['score', '--model', TINY], { input }),
    ]);
    expect(file).toEqual(stream);
    expect(lines(file.stdout)).toHaveLength(2);
  });
});
