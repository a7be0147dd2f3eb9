/** Patterns of a tokenizer.json, which are Oniguruma's, as JavaScript's. */
import * as library from '@huggingface/tokenizers';
import { messageOf, show } from '../format/json.js';
import { invalid, type Part } from './schema.js';

/** What of the library translates them; its declarations do not resolve. */
const { SplitPreTokenizer } = library as unknown as {
  SplitPreTokenizer: new (part: object) => { pattern: RegExp };
};

/** Global and Unicode-aware. Errors: `TOKENIZER_INVALID` for what is no pattern or not readable. */
export function compilePattern({ type, pattern }: Part, source: string): RegExp {
  const { String: text, Regex: regex } = (pattern ?? {}) as { String?: unknown; Regex?: unknown };
  if (typeof text === 'string' && text !== '') {
    return new RegExp(text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'), 'gu');
  }
  if (typeof regex !== 'string') {
    throw invalid(source, `the pattern of ${type} is ${show(pattern)}, expected { "String" } or { "Regex" }`);
  }
  // (?i:'s) also matches 'ſ (U+017F, the long s) in the original's Unicode case folding.
  const folded = regex.replaceAll("(?i:'s|", "(?i:'s|'\u017f|");
  try {
    const part = { pattern: { Regex: folded }, behavior: 'Isolated', invert: false };
    return new SplitPreTokenizer(part).pattern;
  } catch (error) {
    throw invalid(source, `the pattern of ${type} is not supported: ${messageOf(error)}`);
  }
}
