// tokenizer.json: a token a character, of printable ASCII and line ends; token 0 ends a text.
import { characterTokenizer } from '../lib/characters.mjs';

export function tokenizerJson() {
  const printable = Array.from({ length: 95 }, (_, code) => String.fromCharCode(32 + code));
  return characterTokenizer('<|end|>', ['\n', ...printable]);
}

export const VOCABULARY = 97;
