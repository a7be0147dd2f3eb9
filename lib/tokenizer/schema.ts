/** tokenizer.json, as far as this package reads it: a BPE model and the parts around it. */
import { z } from 'zod';
import { makeError } from '../errors.js';
import { check, show } from '../format/json.js';

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
        vocab: z.custom<Record<string, number>>(isObject, 'an object of tokens and ids'),
        merges: z.custom<(string | [string, string])[]>(Array.isArray, 'a list'),
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
    vocab: Record<string, number>;
    merges: [string, string][];
    unk_token: string | null;
    fuse_unk: boolean;
    byte_fallback: boolean;
    ignore_merges: boolean;
  };
}

/** Errors: `TOKENIZER_INVALID`, naming the key, what was found and what was expected. */
export function parseTokenizer(json: unknown, source: string): TokenizerJson {
  const found = check(tokenizerSchema, json, source, 'TOKENIZER_INVALID');
  const { model } = found;
  if (model.continuing_subword_prefix || model.end_of_word_suffix) {
    throw invalid(source, 'model with a subword prefix or suffix is not supported');
  }
  const seen: (string | undefined)[] = [];
  for (const token of Object.keys(model.vocab)) {
    const id = model.vocab[token]!;
    if (!Number.isInteger(id) || id < 0 || id >= MOST_TOKENS) {
      throw invalid(source, `"model.vocab" gives ${show(token)} the id ${show(id)}, expected ${TOKEN_ID}`);
    }
    const other = seen[id];
    if (other !== undefined) {
      throw invalid(source, `"model.vocab" gives ${show(other)} and ${show(token)} the same id ${id}`);
    }
    seen[id] = token;
  }
  const merges = model.merges.map((merge, i) => {
    // Pieces may hold spaces in the newer form, never in the older.
    const pair: unknown = typeof merge === 'string' ? merge.split(' ') : merge;
    const [left, right] = Array.isArray(pair) && pair.length === 2 ? (pair as unknown[]) : [];
    if (typeof left !== 'string' || typeof right !== 'string') {
      throw invalid(source, `"model.merges.${i}" is ${show(merge)}, expected two tokens`);
    }
    return pair as [string, string];
  });
  const added = found.added_tokens ?? [];
  return {
    added_tokens: added,
    normalizer: found.normalizer ?? null,
    pre_tokenizer: found.pre_tokenizer ?? null,
    post_processor: found.post_processor ?? null,
    decoder: found.decoder ?? null,
    model: {
      type: 'BPE',
      vocab: model.vocab,
      merges,
      unk_token: model.unk_token ?? null,
      fuse_unk: model.fuse_unk ?? false,
      byte_fallback: model.byte_fallback ?? false,
      ignore_merges: model.ignore_merges ?? false,
    },
  };
}

export function invalid(source: string, what: string): Error {
  return makeError('TOKENIZER_INVALID', `${source}: ${what}`);
}

function isObject(value: unknown): boolean {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
