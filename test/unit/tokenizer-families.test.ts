import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { parseTokenizer } from '../../lib/tokenizer/schema.js';
import { Tokenizer } from '../../lib/tokenizer/tokenizer.js';

// Expectations by Hugging Face tokenizers, under the parts of each family's published tokenizer.json:
// scripts/fixtures/tokenizer_families.py.
const path = new URL('../fixtures/tokenizer/families.json', import.meta.url);
interface Family {
  vocabulary: string;
  parts: { added_tokens: { id: number; content: string; special: boolean }[] };
  model: object;
  gguf: Record<string, unknown> | null;
  ids: number[][];
  bare: number[][] | null;
  offsets: number[][] | null;
  decoded: string[] | null;
  decoded_special: string[] | null;
}
const {
  texts,
  vocabularies,
  families,
}: {
  texts: string[];
  vocabularies: Record<string, { tokens: string[]; merges: string[]; scores?: number[] }>;
  families: Record<string, Family>;
} = JSON.parse(readFileSync(fileURLToPath(path), 'utf8'));

function tokenizerOf({ vocabulary, parts, model }: Family): Tokenizer {
  const { tokens, merges } = vocabularies[vocabulary]!;
  const vocab = Object.fromEntries(tokens.map((token, id) => [token, id]));
  const json = parseTokenizer({ ...parts, model: { ...model, vocab, merges } }, 'test');
  return new Tokenizer({ source: 'test', json, specialTokens: {}, eosTokenIds: [] });
}

/** By text, so that a difference shows which. */
const named = <T>(values: readonly T[]) => values.map((value, i) => [texts[i], value]);

describe.each(Object.entries(families))('%s', (_name, family) => {
  const tokenizer = tokenizerOf(family);

  test('ids', () => {
    expect(named(texts.map((text) => [...tokenizer.encode(text)]))).toEqual(named(family.ids));
  });

  test('ids without special tokens', () => {
    const found = texts.map((text) => [...tokenizer.encode(text, { specialTokens: false })]);
    expect(named(found)).toEqual(named(family.bare ?? family.ids));
  });

  if (!family.decoded || !family.decoded_special) return;
  const { decoded, decoded_special } = family;
  test('text', () => {
    expect(named(family.ids.map((ids) => tokenizer.decode(ids)))).toEqual(named(decoded));
    const all = family.ids.map((ids) => tokenizer.decode(ids, { skipSpecialTokens: false }));
    expect(named(all)).toEqual(named(decoded_special));
  });
});

describe('the same tokenizer in GGUF metadata gives the same ids', () => {
  /** As llama.cpp's converter writes it: user-defined runs of spaces spelt as spaces, scores far below all others. */
  function metadata({ vocabulary, parts, gguf }: Family): Record<string, unknown> {
    const { tokens, merges, scores } = vocabularies[vocabulary]!;
    const { architecture = 'llama', ...keys } = gguf!;
    const spelt = [...tokens];
    const types: number[] = tokens.map((token) => (scores && /^<0x..>$/.test(token) ? 6 : 1));
    for (const { id, content, special } of parts.added_tokens) {
      spelt[id] = special ? content : content.replaceAll('\u2581', ' ');
      types[id] = content === '<unk>' ? 2 : special || content === '</s>' ? 3 : 4;
    }
    const own = {
      model: 'gpt2',
      tokens: spelt,
      token_type: types,
      ...(scores ? { scores: types.map((type, id) => (type === 1 ? scores[id] : -1000)) } : { merges }),
      bos_token_id: Math.max(...['<s>', '<bos>', '<|begin_of_text|>'].map((token) => spelt.indexOf(token))),
      ...(scores ? { unknown_token_id: spelt.indexOf('<unk>') } : {}),
      ...keys,
    };
    const named = Object.entries(own).map(([key, value]) => [`tokenizer.ggml.${key}`, value]);
    return { 'general.architecture': architecture, ...Object.fromEntries(named) };
  }

  const stored = Object.entries(families).filter(([, { gguf }]) => gguf);
  test.each(stored)('%s', (name, family) => {
    const tokenizer = Tokenizer.fromGguf(metadata(family));
    // Gemma's folder finds a written mark of spaces as a token; its GGUF, also in transformers, merges it with spaces.
    const same = texts.map((text) => name !== 'gemma-3' || !text.includes('\u2581\u2581'));
    const found = texts.map((text) => [...tokenizer.encode(text)]);
    expect(named(found).filter((_, i) => same[i])).toEqual(named(family.ids).filter((_, i) => same[i]));
    // With special tokens: what a folder calls ordinary may be a control token here.
    const decoded = (by: Tokenizer) => family.ids.map((ids) => by.decode(ids, { skipSpecialTokens: false }));
    expect(named(decoded(tokenizer))).toEqual(named(decoded(tokenizerOf(family))));
  });
  test('there are nine of them', () => expect(stored).toHaveLength(9));
});

describe('offsets', () => {
  const inCodePoints = (text: string, offsets: Int32Array) =>
    Array.from(offsets, (units) => Array.from(text.slice(0, units)).length);
  test.each(Object.entries(families).filter(([, { offsets }]) => offsets))('%s', (_name, family) => {
    const tokenizer = tokenizerOf(family);
    const found = texts.map((text) => inCodePoints(text, tokenizer.encodeWithOffsets(text).offsets));
    expect(named(found)).toEqual(named(family.offsets!));
  });
});
