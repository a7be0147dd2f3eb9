/** From token ids back to bytes and text, exactly as the original `tokenizers` library decodes. */
import { show } from '../format/json.js';
import { flatten } from './parts.js';
import { invalid, type Part, type TokenizerJson } from './schema.js';

/** Turns the tokens of ids into text. */
export interface Decoder {
  /** Bytes that a token stands for within a text; the leading space that decoding strips is still there. */
  bytes(token: string): Uint8Array;
  text(tokens: readonly string[]): string;
}

/**
 * GPT-2's spelling of the 256 bytes: printable characters stand for themselves, the rest for U+0100
 * onwards.
 */
export const CHARACTER_OF_BYTE: readonly string[] = (() => {
  const isPrintable = (b: number) => (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(isPrintable(byte) ? byte : next++));
})();
const BYTE_OF_CHARACTER: ReadonlyMap<string, number> = new Map(
  CHARACTER_OF_BYTE.map((character, byte) => [character, byte]),
);

const SPACE = '\u2581';
const encoder = new TextEncoder();

/** Errors: `TOKENIZER_INVALID` for a decoder that is neither byte-level nor SentencePiece's. */
export function makeDecoder(json: TokenizerJson, source: string): Decoder {
  const parts = flatten(json.decoder, 'decoders');
  const types = parts.map((part) => part.type);
  if (types.length === 1 && types[0] === 'ByteLevel') return byteLevel;
  const isSentencePiece =
    types.join() === 'Metaspace' || /^Replace,(ByteFallback,)?Fuse(,Strip)?$/.test(types.join());
  if (!isSentencePiece) {
    const found = show(types.length === 1 ? types[0] : types);
    throw invalid(
      source,
      `decoder ${found} is not supported; supported: ByteLevel, Metaspace, SentencePiece's sequence (Replace, ByteFallback, Fuse, Strip)`,
    );
  }
  const other = parts.find((part) => !isSpacing(part));
  if (other) throw invalid(source, `decoder ${show(other)} is not supported; expected spaces for "${SPACE}"`);
  return sentencePiece(parts);
}

/** Whether a part of SentencePiece's decoder does what it does in all known files. */
function isSpacing({ type, replacement = SPACE, pattern, content, stop = 0 }: Part): boolean {
  if (type === 'Metaspace') return replacement === SPACE;
  if (type === 'Replace')
    return (pattern as { String?: unknown } | null)?.String === SPACE && content === ' ';
  return type !== 'Strip' || (content === ' ' && stop === 0);
}

/** UTF-8 with U+FFFD for what is not, also for a character that the last token cuts off. */
function utf8(bytes: Uint8Array): string {
  return new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes);
}

const byteLevel: Decoder = {
  bytes(token) {
    const bytes: number[] = [];
    for (const character of token) {
      const byte = BYTE_OF_CHARACTER.get(character);
      // An added token is spelt as it is, not in the byte alphabet.
      if (byte === undefined) return encoder.encode(token);
      bytes.push(byte);
    }
    return Uint8Array.from(bytes);
  },
  text(tokens) {
    return utf8(Buffer.concat(tokens.map((token) => byteLevel.bytes(token))));
  },
};

/** The byte of a token such as `<0x0A>`. */
function fallbackByte(token: string): number | undefined {
  return /^<0x[0-9A-Fa-f]{2}>$/.test(token) ? Number.parseInt(token.slice(3, 5), 16) : undefined;
}

function sentencePiece(parts: readonly Part[]): Decoder {
  const fallback = parts.some((part) => part.type === 'ByteFallback');
  const strip = parts.find((part) => part.type === 'Strip');
  const stripped = strip && typeof strip.start === 'number' ? strip.start : 0;
  const own = parts.find((part) => part.type === 'Metaspace');
  // Metaspace drops the marks of the first token; the sequence strips spaces off the whole text.
  const dropsFirst = own !== undefined && own.prepend_scheme !== 'never' && own.add_prefix_space !== false;
  const spaced = (token: string) => token.replaceAll(SPACE, ' ');
  return {
    bytes(token) {
      const byte = fallback ? fallbackByte(token) : undefined;
      return byte === undefined ? encoder.encode(spaced(token)) : Uint8Array.of(byte);
    },
    text(tokens) {
      let text = '';
      let run: number[] = [];
      const flush = () => {
        if (run.length === 0) return;
        const decoded = utf8(Uint8Array.from(run));
        // The original gives one mark for every byte of a run that is not UTF-8.
        const isExact = Buffer.from(decoded, 'utf8').equals(Buffer.from(run));
        text += isExact ? decoded : '\ufffd'.repeat(run.length);
        run = [];
      };
      tokens.forEach((token, i) => {
        const byte = fallback ? fallbackByte(token) : undefined;
        if (byte !== undefined) {
          run.push(byte);
          return;
        }
        flush();
        text += i === 0 && dropsFirst ? token.replaceAll(SPACE, '') : spaced(token);
      });
      flush();
      let start = 0;
      while (start < stripped && text[start] === ' ') start++;
      return text.slice(start);
    },
  };
}
