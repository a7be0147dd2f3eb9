import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { alignTokens } from '../../lib/tokenizer/offsets.js';
import { parseTokenizer } from '../../lib/tokenizer/schema.js';
import { Tokenizer } from '../../lib/tokenizer/tokenizer.js';

// Expectations by Hugging Face tokenizers: scripts/fixtures/offsets.py.
const FIXTURES = fileURLToPath(new URL('../fixtures/tokenizer', import.meta.url));
const read = (name: string) => JSON.parse(readFileSync(join(FIXTURES, name), 'utf8'));
const corpus: string[] = read('corpus.json');
const { offsets: expected }: { offsets: Record<string, [number, number][][]> } = read('offsets.json');
const tiny = read('tiny/tokenizer.json');
const { model, variants } = read('variants.json');
const vocab = Object.fromEntries(model.tokens.map((token: string, id: number) => [token, id]));

function tokenizerOf(name: string): Tokenizer {
  const { parts = {}, ignore_merges = false } = variants[name] ?? {};
  const own = name === 'tiny' ? {} : { vocab, merges: model.merges, ignore_merges };
  const json = parseTokenizer({ ...tiny, ...parts, model: { ...tiny.model, ...own } }, 'test');
  return new Tokenizer({ source: 'test', json, specialTokens: {}, eosTokenIds: [] });
}

/** Pairs in code points, as Python counts. */
function inCodePoints(text: string, offsets: Int32Array): [number, number][] {
  const points = (units: number) => Array.from(text.slice(0, units)).length;
  return Array.from({ length: offsets.length / 2 }, (_, token) => [
    points(offsets[2 * token]!),
    points(offsets[2 * token + 1]!),
  ]);
}

describe('characters of a token', () => {
  describe.each(Object.keys(expected))('%s', (name) => {
    const tokenizer = tokenizerOf(name);
    it.each(corpus.map((text, index) => [JSON.stringify(text), index] as const))('%s', (_, index) => {
      const text = corpus[index]!;
      const { tokens, offsets } = tokenizer.encodeWithOffsets(text);
      expect([...tokens]).toEqual([...tokenizer.encode(text)]);
      const found = inCodePoints(text, offsets);
      const reference = expected[name]![index]!;
      if (name !== 'qwen2' || text === text.normalize('NFC')) return expect(found).toEqual(reference);
      // Where NFC joins a letter and its marks, the original counts the letter alone; here the marks belong to it.
      for (const [token, [start, end]] of reference.entries()) {
        expect(found[token]![0]).toBeLessThanOrEqual(start);
        expect(found[token]![1]).toBeGreaterThanOrEqual(end);
        const letters = ([from, to]: readonly [number, number]) =>
          Array.from(text).slice(from, to).join('').replace(/\p{M}/gu, '').length;
        expect(letters(found[token]!) - letters([start, end])).toBeLessThanOrEqual(1);
      }
    });
  });

  it('of a space that only the tokenizer put there are those of the character behind it', () => {
    const pieces = [' Hi', ' ', 'yo'].map((text) => new TextEncoder().encode(text));
    expect([...alignTokens('Hi yo', pieces)]).toEqual([0, 2, 2, 3, 3, 5]);
    const bare = [' ', 'Hi'].map((text) => new TextEncoder().encode(text));
    expect([...alignTokens('Hi', bare)]).toEqual([0, 1, 0, 2]);
  });

  it('of what cannot be laid along the text are all that is left', () => {
    const pieces = ['a', '<unk>', 'c'].map((text) => new TextEncoder().encode(text));
    expect([...alignTokens('abc', pieces)]).toEqual([0, 1, 1, 3, 1, 3]);
  });

  it('follow one another over the whole text under SentencePiece', () => {
    const { metadata, texts } = read('sentencepiece.json') as {
      metadata: Record<string, unknown>;
      texts: string[];
    };
    const tokenizer = Tokenizer.fromGguf(metadata);
    for (const text of texts) {
      const { tokens, offsets } = tokenizer.encodeWithOffsets(text, { specialTokens: false });
      let reached = 0;
      for (const index of tokens.keys()) {
        const [start, end] = [offsets[2 * index]!, offsets[2 * index + 1]!];
        // A byte of a character may share it with the token before.
        expect(start, JSON.stringify(text)).toBeLessThanOrEqual(reached);
        expect(end).toBeGreaterThanOrEqual(reached);
        reached = end;
        const own = tokenizer.decode([tokens[index]!]).trim();
        if (own === '' || own.includes('\ufffd')) continue;
        // It reads its own mark of a space as a space.
        expect(text.slice(start, end).replaceAll('\u2581', ' ').trim()).toBe(own);
      }
      expect(reached).toBe(text.length);
    }
  });

  it('are none for the tokens that the tokenizer adds', () => {
    const { tokens, offsets } = tokenizerOf('llama3').encodeWithOffsets('ab');
    expect(tokens[0]).toBe(0);
    expect([...offsets.subarray(0, 2)]).toEqual([0, 0]);
    expect(offsets.at(-1)).toBe(2);
  });
});
