import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { native } from '../../lib/binding.js';
import { resolveModel } from '../../lib/format/folder.js';
import { pull } from '../../lib/pull.js';
import { loadTokenizer } from '../../lib/tokenizer/load.js';

// Expectations by transformers on the same file: scripts/fixtures/gemma3.py.
const read = (name: string) =>
  JSON.parse(readFileSync(new URL(`../fixtures/tokenizer/${name}`, import.meta.url), 'utf8'));

describe('Gemma 3 270M from its GGUF', () => {
  test('262,144 tokens give the ids of transformers', { timeout: 600_000 }, async () => {
    const path = await pull('gemma3-270m');
    const source = await resolveModel(path, { inspect: (file) => native().inspect(file).promise });
    const tokenizer = (await loadTokenizer(source))!;
    expect(tokenizer).toMatchObject({ vocabSize: 262144, bosTokenId: 2 });
    const texts: string[] = read('families.json').texts;
    expect(texts.map((text) => [text, [...tokenizer.encode(text)]])).toEqual(
      read('gemma3.json').ids.map((ids: number[], i: number) => [texts[i], ids]),
    );
  });
});
