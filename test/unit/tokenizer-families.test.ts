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
  parts: object;
  model: object;
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
  vocabularies: Record<string, { tokens: string[]; merges: string[] }>;
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
