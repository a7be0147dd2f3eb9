/** tokenizer.json, as far as this package reads it: a BPE model and the parts around it. */
import { z } from 'zod';
import { makeError } from '../errors.js';
import { check, show } from '../format/json.js';
import { eachEntry, eachOf, JsonPart } from '../format/json-parts.js';
import { atOnce, type Work } from '../slices.js';
import { MergeList, PairTable } from './merges.js';
import { Vocabulary } from './vocabulary.js';

const flag = z.boolean('true or false').optional();
/** More tokens than any model has; keeps tables of a hostile file small. */
export const MOST_TOKENS = 1 << 22;
export const TOKEN_ID = `a token id below ${MOST_TOKENS}`;
const tokenId = z
  .int(TOKEN_ID)
  .nonnegative(TOKEN_ID)
  .max(MOST_TOKENS - 1, TOKEN_ID);

/** An entry of `added_tokens`. */
export const addedTokenSchema = z.object(
  {
    id: tokenId,
    content: z.string('a text').min(1, 'a text'),
    single_word: flag,
    lstrip: flag,
    rstrip: flag,
    normalized: flag,
    special: flag,
  },
  'an object',
);
export type AddedToken = z.infer<typeof addedTokenSchema>;

const partSchema = z.looseObject({ type: z.string('a name') }, 'an object or null');
/** A normalizer, pre-tokenizer, post-processor or decoder. */
export type Part = z.infer<typeof partSchema>;

const tokenizerSchema = z.object(
  {
    added_tokens: z.array(addedTokenSchema, 'a list').optional(),
    normalizer: partSchema.nullish(),
    pre_tokenizer: partSchema.nullish(),
    post_processor: partSchema.nullish(),
    decoder: partSchema.nullish(),
    model: z.looseObject(
      {
        // Files of before 2021 leave the type out.
        type: z.literal('BPE', '"BPE", the only supported kind').optional(),
        // Looked through by hand below: a schema would copy a hundred thousand entries.
        vocab: z.custom<Record<string, unknown> | JsonPart | Vocabulary>(
          isObject,
          'an object of tokens and ids',
        ),
        merges: z.custom<unknown[] | JsonPart | PairTable>(isList, 'a list'),
        unk_token: z.string('a token').nullish(),
        fuse_unk: flag,
        byte_fallback: flag,
        ignore_merges: flag,
        continuing_subword_prefix: z.string().nullish(),
        end_of_word_suffix: z.string().nullish(),
      },
      'an object',
    ),
  },
  'an object',
);

export interface TokenizerJson {
  added_tokens: AddedToken[];
  normalizer: Part | null;
  pre_tokenizer: Part | null;
  post_processor: Part | null;
  decoder: Part | null;
  model: {
    type: 'BPE';
    vocab: Vocabulary;
    merges: PairTable;
    unk_token: string | null;
    fuse_unk: boolean;
    byte_fallback: boolean;
    ignore_merges: boolean;
  };
}

/** Errors: `TOKENIZER_INVALID`, naming the key, what was found and what was expected. */
export function parseTokenizer(json: unknown, source: string): TokenizerJson {
  return atOnce(readTokenizer(json, source));
}

/** The same in slices. The vocabulary and the merges may be parts of a text, or ready. */
export function* readTokenizer(json: unknown, source: string): Work<TokenizerJson> {
  const found = check(tokenizerSchema, json, source, 'TOKENIZER_INVALID');
  const { model } = found;
  if (model.continuing_subword_prefix || model.end_of_word_suffix) {
    throw invalid(source, 'model with a subword prefix or suffix is not supported');
  }
  const vocab = model.vocab instanceof Vocabulary ? model.vocab : yield* readVocabulary(model.vocab, source);
  const merges =
    model.merges instanceof PairTable ? model.merges : yield* readMerges(model.merges, vocab, source);
  const added = found.added_tokens ?? [];
  return {
    added_tokens: added,
    normalizer: found.normalizer ?? null,
    pre_tokenizer: found.pre_tokenizer ?? null,
    post_processor: found.post_processor ?? null,
    decoder: found.decoder ?? null,
    model: {
      type: 'BPE',
      vocab,
      merges,
      unk_token: model.unk_token ?? null,
      fuse_unk: model.fuse_unk ?? false,
      byte_fallback: model.byte_fallback ?? false,
      ignore_merges: model.ignore_merges ?? false,
    },
  };
}

function* readVocabulary(vocab: Record<string, unknown> | JsonPart, source: string): Work<Vocabulary> {
  const vocabulary = new Vocabulary();
  yield* eachEntry(vocab, (token, id) => {
    checkId(token, id, source);
    vocabulary.set(token, id as number);
  });
  if (vocabulary.ids < vocabulary.size) {
    const [id, one, other] = vocabulary.shared()!;
    throw invalid(source, `"model.vocab" gives ${show(one)} and ${show(other)} the same id ${id}`);
  }
  return vocabulary;
}

/** Errors: `TOKENIZER_INVALID` for what is no id. */
export function checkId(token: string, id: unknown, source: string): void {
  if (!Number.isInteger(id) || (id as number) < 0 || (id as number) >= MOST_TOKENS) {
    throw invalid(source, `"model.vocab" gives ${show(token)} the id ${show(id)}, expected ${TOKEN_ID}`);
  }
}

/** Errors: `TOKENIZER_INVALID` for what is no pair, and for a merge of what are no tokens. */
export function* readMerges(
  given: readonly unknown[] | JsonPart,
  vocabulary: Vocabulary,
  source: string,
): Work<PairTable> {
  const merges = new MergeList();
  yield* eachOf(given, (merge, rank) => {
    // Pieces may hold spaces in the newer form, never in the older.
    const pair: unknown = typeof merge === 'string' ? merge.split(' ') : merge;
    const [left, right] = Array.isArray(pair) && pair.length === 2 ? (pair as unknown[]) : [];
    if (typeof left !== 'string' || typeof right !== 'string') {
      throw invalid(source, `"model.merges.${rank}" is ${show(merge)}, expected two tokens`);
    }
    const idOf = (token: string): number => {
      const id = vocabulary.get(token);
      if (id !== undefined) return id;
      throw invalid(source, `"model.merges.${rank}" needs ${show(token)}, which is not in the vocabulary`);
    };
    merges.push(idOf(left), idOf(right), idOf(left + right));
  });
  return yield* merges.table();
}

export function invalid(source: string, what: string): Error {
  return makeError('TOKENIZER_INVALID', `${source}: ${what}`);
}

function isObject(value: unknown): boolean {
  if (value instanceof JsonPart) return !value.isList;
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isList(value: unknown): boolean {
  return Array.isArray(value) || value instanceof PairTable || (value instanceof JsonPart && value.isList);
}
