/**
 * A tokenizer from GGUF metadata: the vocabulary, merges and token types that llama.cpp stores, as a
 * tokenizer.json.
 */
import { z } from 'zod';
import type { GgufMetadata } from '../format/gguf.js';
import { check, show } from '../format/json.js';
import { eachOf, JsonPart } from '../format/json-parts.js';
import { atOnce, every, type Work } from '../slices.js';
import { GPT2_PATTERN, sequence, split } from './parts.js';
import { type AddedToken, checkId, invalid, type Part, readMerges, readTokenizer } from './schema.js';
import { mergesFromScores } from './sentencepiece.js';
import type { TokenizerParts } from './tokenizer.js';
import { Texts, Vocabulary } from './vocabulary.js';

const id = z.int('a token id').nonnegative('a token id').optional();
const flag = z.boolean('true or false').optional();
const list = (what: string) =>
  z.custom<unknown[] | JsonPart>(
    (value) => Array.isArray(value) || (value instanceof JsonPart && value.isList),
    what,
  );
const keysSchema = z.object({
  model: z.string('a name'),
  pre: z.string('a name').optional(),
  tokens: list('a list of tokens'),
  token_type: list('a list of types').optional(),
  scores: list('a list of scores').optional(),
  merges: list('a list of merges').optional(),
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
/** The lists read. */
type Keys = Omit<z.infer<typeof keysSchema>, 'tokens' | 'token_type' | 'scores'> & {
  tokens: Texts;
  token_type: Float64Array | undefined;
  scores: Float64Array | undefined;
};
/** What stands in a tokenizer.json. */
type Built = Record<string, unknown> & { added_tokens: AddedToken[] };

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
  return atOnce(readGgufTokenizer(metadata, source));
}

/** The same in slices; lists may be parts of a text. */
export function* readGgufTokenizer(metadata: GgufMetadata, source: string): Work<TokenizerParts> {
  const own = Object.fromEntries(
    Object.entries(metadata)
      .filter(([key]) => key.startsWith(PREFIX))
      .map(([key, value]) => [key.slice(PREFIX.length), value]),
  );
  const keys = yield* readLists(check(keysSchema, own, source, 'TOKENIZER_INVALID', PREFIX), source);
  // Phi-3's tokens take the white space behind them, which a GGUF does not say.
  const strips = metadata['general.architecture'] === 'phi3' && keys.model === 'llama';
  const build = yield* builderOf(keys, source)(keys, source);
  const json = strips ? { ...build, added_tokens: build.added_tokens.map(strippingRight) } : build;
  const specialTokens: Record<string, string> = {};
  for (const [name, key] of NAMES) {
    const token = tokenOf(keys, key, source);
    if (token !== undefined) specialTokens[name] = token;
  }
  const template = metadata['tokenizer.chat_template'];
  return {
    source,
    json: yield* readTokenizer(json, source),
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

function* readLists(given: z.infer<typeof keysSchema>, source: string): Work<Keys> {
  const tokens = new Texts();
  yield* eachOf(given.tokens, (token, index) => {
    if (typeof token !== 'string') {
      throw invalid(source, `"${PREFIX}tokens.${index}" is ${show(token)}, expected a text`);
    }
    tokens.push(token);
  });
  const numbers = { token_type: undefined, scores: undefined } as Pick<Keys, 'token_type' | 'scores'>;
  for (const key of ['token_type', 'scores'] as const) {
    const values = given[key];
    if (values) numbers[key] = yield* readNumbers(values, key, tokens.length, source);
  }
  return { ...given, tokens, ...numbers };
}

/** One number a token. */
function* readNumbers(
  values: readonly unknown[] | JsonPart,
  key: string,
  expected: number,
  source: string,
): Work<Float64Array> {
  const numbers = new Float64Array(expected);
  let count = 0;
  let bad: string | undefined;
  yield* eachOf(values, (value, index) => {
    count++;
    if (typeof value === 'number') numbers[index] = value;
    else bad ??= `"${PREFIX}${key}.${index}" is ${show(value)}, expected a number`;
  });
  if (count !== expected) {
    throw invalid(source, `"${PREFIX}${key}" has ${count} entries, expected ${expected}, one a token`);
  }
  if (bad !== undefined) throw invalid(source, bad);
  return numbers;
}

function builderOf(keys: Keys, source: string): (keys: Keys, source: string) => Work<Built> {
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
  if (value >= keys.tokens.length) {
    throw invalid(source, `"${PREFIX}${key}" is ${value}, expected less than ${keys.tokens.length}`);
  }
  return keys.tokens.at(value);
}

const typeOf = (keys: Keys, index: number) => keys.token_type?.[index] ?? NORMAL;

/** Of a text that is there twice the first counts. Unused entries fill the list up to the rows of the embedding; no text
 * ever becomes one. */
function* vocabulary(keys: Keys, source: string): Work<Vocabulary> {
  const vocab = new Vocabulary();
  const due = every(512);
  for (let index = 0; index < keys.tokens.length; index++) {
    if (due()) yield;
    if (typeOf(keys, index) === UNUSED) continue;
    const token = keys.tokens.at(index);
    checkId(token, index, source);
    if (vocab.get(token) === undefined) vocab.set(token, index);
  }
  return vocab;
}

function* addedTokens(keys: Keys, special: readonly number[]): Work<AddedToken[]> {
  const added: AddedToken[] = [];
  const due = every(4096);
  for (let index = 0; index < keys.tokens.length; index++) {
    if (due()) yield;
    const type = typeOf(keys, index);
    if (!(type === USER_DEFINED || special.includes(type)) || keys.tokens.size(index) === 0) continue;
    const matching = { single_word: false, lstrip: false, rstrip: false, normalized: false };
    added.push({ id: index, content: keys.tokens.at(index), ...matching, special: type !== USER_DEFINED });
  }
  return added;
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

function* byteLevelBpe(keys: Keys, source: string): Work<Built> {
  const name = keys.pre ?? 'default';
  const pre = PRE_TOKENIZERS.get(name);
  if (!pre) {
    const known = [...PRE_TOKENIZERS.keys()].join(', ');
    throw invalid(source, `"${PREFIX}pre" is ${show(name)}, which is not supported; supported: ${known}`);
  }
  if (!keys.merges) throw invalid(source, `"${PREFIX}merges" is missing, expected a list of merges`);
  const bytes: Part = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false };
  const vocab = yield* vocabulary(keys, source);
  return {
    added_tokens: yield* addedTokens(keys, [CONTROL]),
    normalizer: pre.normalizer,
    pre_tokenizer: sequence('pretokenizers', [...pre.patterns.map(split), bytes]),
    post_processor: postProcessor(keys, pre.addsBos, source),
    decoder: { ...bytes, use_regex: true },
    model: {
      type: 'BPE',
      vocab,
      merges: yield* readMerges(keys.merges, vocab, source),
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
function* sentencePiece(keys: Keys, source: string): Work<Built> {
  const { scores, tokens } = keys;
  if (!scores) throw invalid(source, `"${PREFIX}scores" is missing, expected one score a token`);
  const respelt = new Texts();
  const pieces = new Vocabulary();
  const runs = new Set<number>();
  const due = every(512);
  for (let index = 0; index < tokens.length; index++) {
    if (due()) yield;
    const type = typeOf(keys, index);
    const token = tokens.at(index);
    const isRun = type === USER_DEFINED && /^ +$/.test(token);
    if (isRun) runs.add(index);
    const text = isRun ? token.replaceAll(' ', MARK) : token;
    respelt.push(text);
    if (type !== NORMAL && !isRun) continue;
    if (text.length > LONGEST_PIECE) {
      throw invalid(
        source,
        `"${PREFIX}tokens.${index}" has ${text.length} characters, expected at most ${LONGEST_PIECE}`,
      );
    }
    if (pieces.get(text) === undefined) pieces.set(text, index);
  }
  for (const run of runs) scores[run] = Number.MAX_SAFE_INTEGER - run;
  const vocab = yield* vocabulary({ ...keys, tokens: respelt }, source);
  const merges = yield* mergesFromScores(pieces, scores);
  const prefix = keys.add_space_prefix ?? true;
  const space: Part = { type: 'Replace', pattern: { String: ' ' }, content: MARK };
  const strip: Part = { type: 'Strip', content: ' ', start: 1, stop: 0 };
  const added = yield* addedTokens(keys, [CONTROL, UNKNOWN]);
  return {
    added_tokens: added.filter(({ id }) => !runs.has(id)),
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
      merges: yield* merges.table(),
      unk_token: tokenOf(keys, 'unknown_token_id', source) ?? null,
      fuse_unk: true,
      byte_fallback: vocab.get('<0x00>') !== undefined,
      ignore_merges: false,
    },
  };
}
