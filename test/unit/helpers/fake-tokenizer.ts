/**
 * A tokenizer without files: one token a character (its code point), 0 ends a text. With `chat`, a template in the
 * manner of ChatML whose marks are plain characters.
 */
import type { Tokenizer } from '../../../lib/tokenizer/tokenizer.js';

export function fakeTokenizer(options: { chat?: boolean } = {}): Tokenizer {
  const fake = {
    isChat: options.chat ?? false,
    eosTokenIds: [0],
    vocabSize: 0x110000,
    encode: (text: string) => Int32Array.from(text, (character) => character.codePointAt(0)!),
    encodeWithOffsets: (text: string) => {
      const characters = [...text.matchAll(/./gsu)];
      const offsets = characters.flatMap(({ 0: character, index }) => [index, index + character.length]);
      return { tokens: fake.encode(text), offsets: Int32Array.from(offsets) };
    },
    decode: (tokens: ArrayLike<number>) =>
      Array.from(tokens, (token) => (token === 0 ? '' : String.fromCodePoint(token))).join(''),
    chat: (messages: { role: string; content: string }[], { addGenerationPrompt = true } = {}) =>
      messages.map(({ role, content }) => `<${role}>${content}</${role}>`).join('') +
      (addGenerationPrompt ? '<assistant>' : ''),
  };
  return fake as unknown as Tokenizer;
}
