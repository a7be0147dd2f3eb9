/** The parts of a tokenizer.json around its model: how they nest, and the patterns that several files use. */
import type { Part } from './schema.js';

/** What GPT-2 cuts a text into, which the ByteLevel pre-tokenizer has built in. */
export const GPT2_PATTERN =
  "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

export function split(pattern: string): Part {
  return { type: 'Split', pattern: { Regex: pattern }, behavior: 'Isolated', invert: false };
}

export function sequence(key: string, parts: readonly Part[]): Part | null {
  if (parts.length <= 1) return parts[0] ?? null;
  return { type: 'Sequence', [key]: parts };
}

/** The members of a (nested) sequence in order; a part that is no sequence is its own only member, none is nothing. */
export function flatten(part: Part | null, key: string): Part[] {
  const members: Part[] = [];
  // A stack of its own: a file may nest deeper than calls can.
  const left: (Part | null)[] = [part];
  while (left.length > 0) {
    const next = left.pop() ?? null;
    if (next === null) continue;
    const inner = next.type === 'Sequence' ? next[key] : undefined;
    if (Array.isArray(inner)) for (const member of inner.toReversed()) left.push(member as Part | null);
    else members.push(next);
  }
  return members;
}
