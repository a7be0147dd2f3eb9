/**
 * A tokenizer from GGUF metadata: the vocabulary, merges and token types that llama.cpp stores, as a
 * tokenizer.json.
 */
import { z } from 'zod';
import type { GgufMetadata } from '../format/gguf.js';
import { check, show } from '../format/json.js';
import { GPT2_PATTERN, sequence, split } from './parts.js';
import { type AddedToken, invalid, type Part, parseTokenizer, type TokenizerJson } from './schema.js';
import { mergesFromScores } from './sentencepiece.js';
import type { TokenizerParts } from './tokenizer.js';

const id = z.int('a token id').nonnegative('a token id').optional();
const flag = z.boolean('true or false').optional();
const list = <T>(what: string) => z.custom<T[]>(Array.isArray, what);
const keysSchema = z.object({
  model: z.string('a name'),
  pre: z.string('a name').optional(),
  tokens: list<string>('a list of tokens'),
  token_type: list<number>('a list of types').optional(),
  scores: list<number>('a list of scores').optional(),
  merges: list<string>('a list of merges').optional(),
  add_bos_token: flag,
  add_eos_token: flag,
  add_space_prefix: flag,
  bos_token_id: id,
  eos_token_id: id,
  eot_token_id: id,
  eom_token_id: id,
  unknown_token_id: id,
  padding_token_id: id,
});
type Keys = z.infer<typeof keysSchema>;

/** llama.cpp's token types. */
const NORMAL = 1;
const UNKNOWN = 2;
const CONTROL = 3;
const USER_DEFINED = 4;
const UNUSED = 5;

const CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const TAIL = '| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+';

interface PreTokenizer {
  /** Patterns that cut the text, one after the other, before it becomes bytes. */
  patterns: string[];
  normalizer: Part | null;
  /** A piece that is a token as a whole is taken without merging. */
  ignoreMerges: boolean;
  /** Whether a beginning-of-text token is added where the file does not say. */
  addsBos: boolean;
}
const plain = { normalizer: null, ignoreMerges: false, addsBos: false };
const cut = (...patterns: string[]): PreTokenizer => ({ ...plain, patterns });
const DIGITS3 = `${CONTRACTIONS}|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}${TAIL}`;
/** Words that are cut where capitals begin. */
const upper = '[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]';
const lower = '[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]';
const cased = (digits: string, suffix = '') =>
  `[^\\r\\n\\p{L}\\p{N}]?${upper}*${lower}+${suffix}|[^\\r\\n\\p{L}\\p{N}]?${upper}+${lower}*${suffix}|` +
  `${digits}${TAIL.replace('[\\r\\n]*', '[\\r\\n/]*')}`;

const LLAMA3: PreTokenizer = { ...cut(DIGITS3), ignoreMerges: true, addsBos: true };
const QWEN2: PreTokenizer = { ...cut(DIGITS3.replace('{1,3}', '')), normalizer: { type: 'NFC' } };
/**
 * `tokenizer.ggml.pre`: how the text is cut, which a GGUF names but does not hold. The patterns are those of the
 * models' own tokenizer.json, where llama.cpp has simpler ones; "default" is llama.cpp's own.
 */
const PRE_TOKENIZERS = new Map<string, PreTokenizer>([
  ['default', cut('[\\p{P}\\$\\+<=>\\^~\\|]+', GPT2_PATTERN, '\\p{N}+', '[0-9][0-9][0-9]')],
  ['gpt-2', cut(GPT2_PATTERN)],
  ['phi-2', cut(GPT2_PATTERN)],
  ['smollm', cut('\\p{N}', GPT2_PATTERN)],
  ['qwen2', QWEN2],
  ['deepseek-r1-qwen', QWEN2],
  ['llama-bpe', LLAMA3],
  ['llama3', LLAMA3],
  ['llama-v3', LLAMA3],
  ['smaug-bpe', cut(DIGITS3)],
  ['dbrx', cut(DIGITS3)],
  ['tekken', { ...cut(cased('\\p{N}')), ignoreMerges: true, addsBos: true }],
  ['gpt-4o', cut(cased('\\p{N}{1,3}', `${CONTRACTIONS}?`))],
]);

const PREFIX = 'tokenizer.ggml.';
const MARK = '\u2581';
/** UTF-16 units of a SentencePiece piece: finding its merges takes their square. */
const LONGEST_PIECE = 256;

/** `json` has every field that the original library needs to read it (an export writes it). Errors: `TOKENIZER_INVALID`. */
export function tokenizerFromGguf(metadata: GgufMetadata, source: string): TokenizerParts {
  const own = Object.fromEntries(
    Object.entries(metadata)
      .filter(([key]) => key.startsWith(PREFIX))
      .map(([key, value]) => [key.slice(PREFIX.length), value]),
  );
  const keys = check(keysSchema, own, source, 'TOKENIZER_INVALID', PREFIX);
  checkLists(keys, source);
  // Phi-3's tokens take the white space behind them, which a GGUF does not say.
  const strips = metadata['general.architecture'] === 'phi3' && keys.model === 'llama';
  const build = buildersOf(keys, source)(keys, source);
  const json = strips ? { ...build, added_tokens: build.added_tokens.map(strippingRight) } : build;
  const specialTokens: Record<string, string> = {};
  for (const [name, key] of NAMES) {
    const token = tokenOf(keys, key, source);
    if (token !== undefined) specialTokens[name] = token;
  }
  const template = metadata['tokenizer.chat_template'];
  return {
    source,
    json: parseTokenizer(json, source),
    specialTokens,
    eosTokenIds: [keys.eos_token_id, keys.eot_token_id, keys.eom_token_id].filter(
      (value) => value !== undefined,
    ),
    chatTemplate: typeof template === 'string' ? template : undefined,
  };
}

const STRIPS_NOT = ['<unk>', '<s>', '<|endoftext|>'];
function strippingRight(token: AddedToken): AddedToken {
  return { ...token, rstrip: !STRIPS_NOT.includes(token.content) };
}

const NAMES = [
  ['bos_token', 'bos_token_id'],
  ['eos_token', 'eos_token_id'],
  ['unk_token', 'unknown_token_id'],
  ['pad_token', 'padding_token_id'],
] as const;

function checkLists(keys: Keys, source: string): void {
  const { tokens } = keys;
  const wrong = tokens.findIndex((token) => typeof token !== 'string');
  if (wrong >= 0) {
    throw invalid(source, `"${PREFIX}tokens.${wrong}" is ${show(tokens[wrong])}, expected a text`);
  }
  for (const key of ['token_type', 'scores'] as const) {
    const values = keys[key];
    if (!values) continue;
    if (values.length !== tokens.length) {
      throw invalid(
        source,
        `"${PREFIX}${key}" has ${values.length} entries, expected ${tokens.length}, one a token`,
      );
    }
    const bad = values.findIndex((value) => typeof value !== 'number');
    if (bad >= 0)
      throw invalid(source, `"${PREFIX}${key}.${bad}" is ${show(values[bad])}, expected a number`);
  }
}

function buildersOf(keys: Keys, source: string): (keys: Keys, source: string) => TokenizerJson {
  if (keys.model === 'gpt2') return byteLevelBpe;
  if (keys.model === 'llama') return sentencePiece;
  throw invalid(
    source,
    `"${PREFIX}model" is ${show(keys.model)}, which is not supported; supported: gpt2, llama`,
  );
}

/** The token of an id that a key names. */
function tokenOf(keys: Keys, key: (typeof NAMES)[number][1], source: string): string | undefined {
  const value = keys[key];
  if (value === undefined) return undefined;
  const token = keys.tokens[value];
  if (token === undefined) {
    throw invalid(source, `"${PREFIX}${key}" is ${value}, expected less than ${keys.tokens.length}`);
  }
  return token;
}

const typeOf = (keys: Keys, index: number) => keys.token_type?.[index] ?? NORMAL;

/** Unused entries fill the list up to the rows of the embedding; no text ever becomes one. */
function vocabulary(keys: Keys): Record<string, number> {
  const vocab = Object.create(null) as Record<string, number>;
  keys.tokens.forEach((token, index) => {
    if (typeOf(keys, index) !== UNUSED && !(token in vocab)) vocab[token] = index;
  });
  return vocab;
}

function addedTokens(keys: Keys, special: readonly number[]): AddedToken[] {
  return keys.tokens.flatMap((content, index) => {
    const type = typeOf(keys, index);
    if (content === '' || !(type === USER_DEFINED || special.includes(type))) return [];
    const matching = { single_word: false, lstrip: false, rstrip: false, normalized: false };
    return [{ id: index, content, ...matching, special: type !== USER_DEFINED }];
  });
}

/** A template that adds the beginning and end tokens, or nothing. */
function postProcessor(keys: Keys, addsBos: boolean, source: string): Part | null {
  const used = Object.create(null) as Record<string, { id: string; ids: number[]; tokens: string[] }>;
  const token = (key: 'bos_token_id' | 'eos_token_id', wanted: boolean) => {
    const text = wanted ? tokenOf(keys, key, source) : undefined;
    if (text === undefined) return [];
    used[text] = { id: text, ids: [keys[key]!], tokens: [text] };
    return [{ SpecialToken: { id: text, type_id: 0 } }];
  };
  const before = token('bos_token_id', keys.add_bos_token ?? addsBos);
  const after = token('eos_token_id', keys.add_eos_token ?? false);
  if (before.length + after.length === 0) return null;
  const single = [...before, { Sequence: { id: 'A', type_id: 0 } }, ...after];
  const second = { Sequence: { id: 'B', type_id: 1 } };
  const pair = [...single.slice(0, single.length - after.length), second, ...after];
  return { type: 'TemplateProcessing', single, pair, special_tokens: used };
}

function byteLevelBpe(keys: Keys, source: string): TokenizerJson {
  const name = keys.pre ?? 'default';
  const pre = PRE_TOKENIZERS.get(name);
  if (!pre) {
    const known = [...PRE_TOKENIZERS.keys()].join(', ');
    throw invalid(source, `"${PREFIX}pre" is ${show(name)}, which is not supported; supported: ${known}`);
  }
  if (!keys.merges) throw invalid(source, `"${PREFIX}merges" is missing, expected a list of merges`);
  const bytes: Part = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false };
  return {
    added_tokens: addedTokens(keys, [CONTROL]),
    normalizer: pre.normalizer,
    pre_tokenizer: sequence('pretokenizers', [...pre.patterns.map(split), bytes]),
    post_processor: postProcessor(keys, pre.addsBos, source),
    decoder: { ...bytes, use_regex: true },
    model: {
      type: 'BPE',
      vocab: vocabulary(keys),
      // Still "a b"; the parser that every tokenizer goes through splits and checks them.
      merges: keys.merges as unknown as [string, string][],
      unk_token: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: pre.ignoreMerges,
    },
  };
}

/**
 * SentencePiece's BPE: pieces with scores; the pair whose piece scores highest merges first. Runs of spaces, which are
 * user-defined in Gemma's files and spelt as spaces, merge before all other pieces, as in transformers.
 */
function sentencePiece(keys: Keys, source: string): TokenizerJson {
  const { scores } = keys;
  if (!scores) throw invalid(source, `"${PREFIX}scores" is missing, expected one score a token`);
  const isRun = (index: number) => typeOf(keys, index) === USER_DEFINED && /^ +$/.test(keys.tokens[index]!);
  const isPiece = (index: number) => typeOf(keys, index) === NORMAL || isRun(index);
  const tokens = keys.tokens.map((token, index) => (isRun(index) ? token.replaceAll(' ', MARK) : token));
  const long = tokens.findIndex((token, index) => token.length > LONGEST_PIECE && isPiece(index));
  if (long >= 0) {
    const { length } = tokens[long]!;
    throw invalid(
      source,
      `"${PREFIX}tokens.${long}" has ${length} characters, expected at most ${LONGEST_PIECE}`,
    );
  }
  const vocab = vocabulary({ ...keys, tokens });
  const prefix = keys.add_space_prefix ?? true;
  const space: Part = { type: 'Replace', pattern: { String: ' ' }, content: MARK };
  const strip: Part = { type: 'Strip', content: ' ', start: 1, stop: 0 };
  return {
    added_tokens: addedTokens(keys, [CONTROL, UNKNOWN]).filter(({ id }) => !isRun(id)),
    normalizer: sequence('normalizers', [...(prefix ? [{ type: 'Prepend', prepend: MARK }] : []), space]),
    pre_tokenizer: null,
    post_processor: postProcessor(keys, true, source),
    decoder: sequence('decoders', [
      { type: 'Replace', pattern: { String: MARK }, content: ' ' },
      { type: 'ByteFallback' },
      { type: 'Fuse' },
      ...(prefix ? [strip] : []),
    ]),
    model: {
      type: 'BPE',
      vocab,
      merges: mergesFromScores(
        tokens,
        scores.map((score, index) => (isRun(index) ? Number.MAX_SAFE_INTEGER - index : score)),
        isPiece,
      ),
      unk_token: tokenOf(keys, 'unknown_token_id', source) ?? null,
      fuse_unk: true,
      byte_fallback: vocab['<0x00>'] !== undefined,
      ignore_merges: false,
    },
  };
}
