/**
 * Rewrites the parts of a tokenizer.json that `@huggingface/tokenizers` reads differently from the original
 * library in Rust, so that the token ids agree. Each rewrite is a comment below; unknown parts are refused,
 * not guessed.
 */
import { show } from '../format/json.js';
import { invalid, type Part, type TokenizerJson } from './schema.js';

/** The pattern of GPT-2, which the ByteLevel pre-tokenizer has built in. */
export const GPT2_PATTERN =
  "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

const NORMALIZERS = new Set(['NFC', 'NFD', 'NFKC', 'NFKD', 'Prepend', 'Replace', 'Lowercase']);
const POST_PROCESSORS = new Set(['ByteLevel', 'TemplateProcessing']);

/** Errors: `TOKENIZER_INVALID` for a part that is not supported. */
export function makeExact(json: TokenizerJson, source: string): TokenizerJson {
  return {
    ...json,
    normalizer: each(json.normalizer, 'normalizers', (part) =>
      known(part, NORMALIZERS, 'normalizer', source),
    ),
    pre_tokenizer: each(json.pre_tokenizer, 'pretokenizers', (part) => preTokenizer(part, source)),
    post_processor: each(json.post_processor, 'processors', (part) =>
      known(part, POST_PROCESSORS, 'post-processor', source),
    ),
  };
}

export function split(pattern: string): Part {
  return { type: 'Split', pattern: { Regex: pattern }, behavior: 'Isolated', invert: false };
}

export function sequence(key: string, parts: readonly Part[]): Part | null {
  if (parts.length <= 1) return parts[0] ?? null;
  return { type: 'Sequence', [key]: parts };
}

/** Applies `change` to a part, or to the members of a sequence, however deep. */
function each(part: Part | null, key: string, change: (part: Part) => Part[]): Part | null {
  return part && sequence(key, flatten(part, key).flatMap(change));
}

/** The members of a (nested) sequence in order; a part that is no sequence is its own only member. */
export function flatten(part: Part, key: string): Part[] {
  const members = part.type === 'Sequence' ? part[key] : undefined;
  return Array.isArray(members) ? members.flatMap((member: Part) => flatten(member, key)) : [part];
}

function known(part: Part, names: ReadonlySet<string>, what: string, source: string): Part[] {
  if (names.has(part.type)) return [part];
  throw invalid(source, `${what} ${show(part.type)} is not supported; supported: ${[...names].join(', ')}`);
}

function preTokenizer(part: Part, source: string): Part[] {
  switch (part.type) {
    case 'ByteLevel': {
      // Its built-in pattern uses JavaScript's \s, which has U+FEFF and lacks U+0085; that of Split is
      // translated.
      const bytes: Part = { type: 'ByteLevel', add_prefix_space: false, use_regex: false };
      const pattern = part.use_regex === false ? [] : [split(GPT2_PATTERN)];
      // The prefix comes before the pattern, so it is a step of its own: a Metaspace of spaces adds just
      // that.
      const prefix: Part = { type: 'Metaspace', replacement: ' ', prepend_scheme: 'always' };
      return [...(part.add_prefix_space === true ? [prefix] : []), ...pattern, bytes];
    }
    case 'Digits':
      // There, a digit is whatever Unicode calls a number; JavaScript's \d is 0 to 9.
      return [split(part.individual_digits === true ? '\\p{N}' : '\\p{N}+')];
    case 'Split':
      return [splitExactly(part, source)];
    case 'Metaspace':
      return metaspace(part);
    default:
      return known(part, new Set(['ByteLevel', 'Digits', 'Split', 'Metaspace']), 'pre-tokenizer', source);
  }
}

function splitExactly(part: Part, source: string): Part {
  if (part.behavior !== 'Isolated' && !(part.behavior === 'Removed' && part.invert === true)) {
    throw invalid(
      source,
      `Split with behavior ${show(part.behavior)} is not supported; supported: "Isolated"`,
    );
  }
  const pattern = part.pattern;
  if (typeof pattern !== 'object' || pattern === null || !('Regex' in pattern)) return { ...part };
  // (?i:'s) also matches 'ſ (U+017F, the long s) in the original's Unicode case folding.
  const text = String(pattern.Regex).replaceAll("(?i:'s|", "(?i:'s|'\u017f|");
  // With isolated pieces, matches and what lies between them come out alike, so inverting changes nothing.
  return { ...part, pattern: { Regex: text }, invert: part.behavior === 'Removed' };
}

/**
 * Splitting before every replacement character, and the older way of stating the prefix, are not known
 * there.
 */
function metaspace(part: Part): Part[] {
  const replacement = typeof part.replacement === 'string' ? part.replacement : '\u2581';
  const scheme = part.prepend_scheme ?? (part.add_prefix_space === false ? 'never' : 'always');
  const space: Part = { type: 'Metaspace', replacement, prepend_scheme: scheme };
  if (part.split === false) return [space];
  return [space, split(`${replacement}[^${replacement}]*|[^${replacement}]+`)];
}
