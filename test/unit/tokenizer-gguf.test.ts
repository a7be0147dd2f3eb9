import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import type { ModelSource } from '../../lib/format/folder.js';
import { tokenizerFromGguf } from '../../lib/tokenizer/gguf.js';
import { loadTokenizer } from '../../lib/tokenizer/load.js';
import { flatten } from '../../lib/tokenizer/parts.js';
import { parseTokenizer } from '../../lib/tokenizer/schema.js';
import { Tokenizer } from '../../lib/tokenizer/tokenizer.js';
import { mergesOf } from './helpers/merges.js';

// Expectations by Hugging Face tokenizers and by sentencepiece: scripts/fixtures/tokenizer.py.
const FIXTURES = fileURLToPath(new URL('../fixtures/tokenizer', import.meta.url));
const read = (name: string) => JSON.parse(readFileSync(`${FIXTURES}/${name}`, 'utf8'));
const corpus: string[] = read('corpus.json');
const tiny = read('tiny/tokenizer.json');
const byId = Object.entries<number>(tiny.model.vocab).sort((a, b) => a[1] - b[1]);

/** The tiny tokenizer as a GGUF holds it, under some `tokenizer.ggml.*` keys. */
function metadata(change: Record<string, unknown> = {}): Record<string, unknown> {
  const keys: Record<string, unknown> = {
    model: 'gpt2',
    pre: 'smollm',
    tokens: byId.map(([token]) => token),
    token_type: byId.map((_, id) => (id < 4 ? 3 : 1)),
    merges: tiny.model.merges.map((merge: string | string[]) =>
      Array.isArray(merge) ? merge.join(' ') : merge,
    ),
    bos_token_id: 1,
    eos_token_id: 2,
    padding_token_id: 3,
    ...change,
  };
  return Object.fromEntries(Object.entries(keys).map(([key, value]) => [`tokenizer.ggml.${key}`, value]));
}

describe('byte-level BPE', () => {
  test("smollm gives the ids of SmolLM2's kind of tokenizer.json", () => {
    const tokenizer = Tokenizer.fromGguf(metadata());
    expect(corpus.map((text) => [...tokenizer.encode(text)])).toEqual(read('tiny.json').ids);
    expect(tokenizer).toMatchObject({ vocabSize: 512, bosTokenId: 1, eosTokenIds: [2], isChat: false });
  });

  // A vocabulary whose merges run across every boundary, so that each cut shows.
  const {
    model,
    variants,
  }: {
    model: { tokens: string[]; merges: string[] };
    variants: Record<string, { gguf: Record<string, unknown> | null; ids: number[][] }>;
  } = read('variants.json');
  const boundless = (change: Record<string, unknown>) =>
    Tokenizer.fromGguf(
      metadata({ ...model, token_type: model.tokens.map((_, id) => (id < 4 ? 3 : 1)), ...change }),
    );
  const named = Object.keys(variants).filter((name) => variants[name]!.gguf);
  test.each(named)('the pre-tokenizer of %s', (name) => {
    const { gguf, ids } = variants[name]!;
    const tokenizer = boundless(gguf!);
    expect(corpus.map((text) => [...tokenizer.encode(text)])).toEqual(ids);
  });
  test('there are four of them', () => expect(named).toEqual(['smollm', 'gpt2', 'qwen2', 'llama3']));

  test("without a name it is llama.cpp's default", () => {
    const [unnamed, byName] = [undefined, 'default'].map((pre) => boundless({ pre }));
    const found = corpus.map((text) => [...unnamed!.encode(text)]);
    expect(found).toEqual(corpus.map((text) => [...byName!.encode(text)]));
    expect(found).not.toEqual(variants.gpt2!.ids);
  });

  test('a beginning and an end are added as the file says', () => {
    const bare = [...Tokenizer.fromGguf(metadata()).encode('a')];
    const ids = (change: object) => [...Tokenizer.fromGguf(metadata({ ...change })).encode('a')];
    expect(ids({ add_bos_token: true })).toEqual([1, ...bare]);
    expect(ids({ add_bos_token: true, add_eos_token: true })).toEqual([1, ...bare, 2]);
    expect(ids({ pre: 'llama-bpe', add_bos_token: false })).toEqual(bare);
    expect(ids({ add_bos_token: false })).toEqual(bare);
  });

  test('user-defined tokens match in text and are not special; unused ones never match', () => {
    const types: number[] = byId.map((_, id) => (id < 4 ? 3 : 1));
    types[511] = 5;
    types[510] = 4;
    const tokens = byId.map(([token]) => token);
    tokens[511] = '[PAD511]';
    tokens[510] = '<tool_call>';
    const used = new Set(tokens);
    const merges = (metadata()['tokenizer.ggml.merges'] as string[]).filter((merge) =>
      used.has(merge.replace(' ', '')),
    );
    const tokenizer = Tokenizer.fromGguf(metadata({ tokens, token_type: types, merges }));
    expect(tokenizer.vocabSize).toBe(511);
    expect([...tokenizer.encode('<tool_call>')]).toEqual([510]);
    expect(tokenizer.decode([510, 511])).toBe('<tool_call>');
    expect([...tokenizer.encode('[PAD511]')]).not.toContain(511);
  });

  test('a chat template, and the ends of a turn', () => {
    const template = '{{ messages[0].content }}{{ bos_token }}{{ eos_token }}{{ pad_token }}<|im_end|>';
    const keys = metadata({ eos_token_id: 0, eot_token_id: 3 });
    const tokenizer = Tokenizer.fromGguf({ ...keys, 'tokenizer.chat_template': template });
    expect(tokenizer.eosTokenIds).toEqual([0, 3, 2]);
    const text = tokenizer.chat([{ role: 'user', content: 'Hi' }]);
    expect(text).toBe('Hi<|im_start|><|endoftext|><|pad|><|im_end|>');
  });

  test.each<[string, Record<string, unknown>, RegExp]>([
    ['another model', { model: 'bert' }, /"tokenizer.ggml.model" is "bert".*gpt2, llama/],
    ['no model', { model: undefined }, /"tokenizer.ggml.model" is missing/],
    [
      'another pre-tokenizer',
      { pre: 'mystery' },
      /"tokenizer.ggml.pre" is "mystery".*smollm.*qwen2.*llama-bpe/,
    ],
    ['no tokens', { tokens: undefined }, /"tokenizer.ggml.tokens" is missing/],
    ['a token that is no text', { tokens: ['a', 3] }, /tokens.1" is 3/],
    ['no merges', { merges: undefined }, /merges" is missing/],
    ['a merge of one', { merges: ['ab'] }, /merges.0" is "ab"/],
    ['too few types', { token_type: [1] }, /token_type" has 1 entries, expected 512/],
    ['an id beyond the tokens', { eos_token_id: 512 }, /eos_token_id" is 512, expected less than 512/],
    ['a negative id', { bos_token_id: -1 }, /bos_token_id" is -1/],
  ])('refuses %s', (_name, change, message) => {
    const action = () => Tokenizer.fromGguf(metadata(change), 'm.gguf');
    expect(action).toThrow(
      expect.objectContaining({ code: 'TOKENIZER_INVALID', message: expect.stringMatching(message) }),
    );
    expect(action).toThrow('m.gguf');
  });

  test('becomes a tokenizer.json with every field that the original library asks for', () => {
    const keys = metadata({ add_bos_token: true, add_eos_token: true });
    const { json } = tokenizerFromGguf(keys, 'm.gguf');
    for (const token of json.added_tokens) {
      expect(Object.keys(token).sort()).toEqual(Object.keys(tiny.added_tokens[0]).sort());
    }
    const bytes = flatten(json.pre_tokenizer, 'pretokenizers').at(-1)!;
    for (const part of [bytes, json.decoder]) {
      expect(Object.keys(part!).sort()).toEqual(['add_prefix_space', 'trim_offsets', 'type', 'use_regex']);
    }
    const [bos, eos] = [byId[1]![0], byId[2]![0]];
    expect(json.post_processor).toEqual({
      type: 'TemplateProcessing',
      single: [
        { SpecialToken: { id: bos, type_id: 0 } },
        { Sequence: { id: 'A', type_id: 0 } },
        { SpecialToken: { id: eos, type_id: 0 } },
      ],
      pair: [
        { SpecialToken: { id: bos, type_id: 0 } },
        { Sequence: { id: 'A', type_id: 0 } },
        { Sequence: { id: 'B', type_id: 1 } },
        { SpecialToken: { id: eos, type_id: 0 } },
      ],
      special_tokens: {
        [bos]: { id: bos, ids: [1], tokens: [bos] },
        [eos]: { id: eos, ids: [2], tokens: [eos] },
      },
    });
  });

  test('a file without a tokenizer has none', async () => {
    const source = {
      kind: 'gguf',
      header: { metadata: {} },
      config: { vocabSize: 512 },
    } as unknown as ModelSource;
    expect(await loadTokenizer(source)).toBeUndefined();
  });
});

describe('SentencePiece', () => {
  const fixture: {
    metadata: Record<string, unknown>;
    texts: string[];
    ids: number[][];
    decoded: string[];
    cut: { ids: number[] };
    folders: Record<string, { parts: object; ids: number[][]; decoded: string[] }>;
  } = read('sentencepiece.json');
  const tokenizer = Tokenizer.fromGguf(fixture.metadata);

  test('ids are those of sentencepiece', () => {
    const found = fixture.texts.map((text) => [...tokenizer.encode(text, { specialTokens: false })]);
    expect(found).toEqual(fixture.ids);
  });

  test('text comes back', () => {
    expect(fixture.ids.map((ids) => tokenizer.decode(ids))).toEqual(fixture.decoded);
  });

  test('a beginning is added where the file does not say otherwise', () => {
    const bare = [...tokenizer.encode('a', { specialTokens: false })];
    expect([...tokenizer.encode('a')]).toEqual([1, ...bare]);
    const without = Tokenizer.fromGguf({ ...fixture.metadata, 'tokenizer.ggml.add_bos_token': false });
    expect([...without.encode('a')]).toEqual(bare);
  });

  test('bytes that are no character decode to one U+FFFD each, as the original does', () => {
    expect(tokenizer.decode(fixture.cut.ids)).toBe('\ufffd\ufffd\ufffd');
  });

  test('byte strings spell the text, with the space before it', () => {
    const { bytes, offsets } = tokenizer.tokenBytes();
    const spell = (ids: number[]) =>
      Buffer.concat(ids.map((id) => bytes.subarray(offsets[id], offsets[id + 1]))).toString('utf8');
    const i = fixture.texts.indexOf('The lighthouse of Marrow Point was built in 1874 by Ada Thorne.');
    expect(spell(fixture.ids[i]!)).toBe(` ${fixture.texts[i]}`);
  });

  test.each(Object.keys(fixture.folders))('a tokenizer.json around the same vocabulary: %s', (name) => {
    const { parts, ids, decoded } = fixture.folders[name]!;
    const tokens = fixture.metadata['tokenizer.ggml.tokens'] as string[];
    const types = fixture.metadata['tokenizer.ggml.token_type'] as number[];
    const scores = fixture.metadata['tokenizer.ggml.scores'] as number[];
    const model = {
      type: 'BPE',
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges: mergesOf(
        tokens.filter((_, id) => types[id] === 1),
        (token) => scores[tokens.indexOf(token)]!,
      ),
      unk_token: '<unk>',
      fuse_unk: true,
      byte_fallback: true,
    };
    const json = parseTokenizer({ ...parts, model }, 'test');
    const found = new Tokenizer({ source: 'test', json, specialTokens: {}, eosTokenIds: [] });
    expect(corpus.map((text) => [...found.encode(text)])).toEqual(ids);
    expect(ids.map((row) => found.decode(row))).toEqual(decoded);
  });

  test('refuses one without scores', () => {
    const action = () => Tokenizer.fromGguf({ ...fixture.metadata, 'tokenizer.ggml.scores': undefined });
    expect(action).toThrow(expect.objectContaining({ code: 'TOKENIZER_INVALID' }));
  });
});
