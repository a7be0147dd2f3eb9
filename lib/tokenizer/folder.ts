/** A tokenizer's files in a Hugging Face folder. */
import { access } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { makeError } from '../errors.js';
import {
  check,
  messageOf,
  readBytesIfPresent,
  readJsonIfPresent,
  readTextIfPresent,
  show,
  VOCABULARY_LIMIT,
} from '../format/json.js';
import { parseInParts } from '../format/json-parts.js';
import { inSlices, type Work } from '../slices.js';
import {
  type AddedToken,
  addedTokenSchema,
  invalid,
  MOST_TOKENS,
  readTokenizer,
  TOKEN_ID,
  type TokenizerJson,
} from './schema.js';
import type { TokenizerParts } from './tokenizer.js';

const NAMED = [
  'bos_token',
  'eos_token',
  'unk_token',
  'pad_token',
  'sep_token',
  'cls_token',
  'mask_token',
] as const;

/** A special token is its text, or an object with the text and how it matches. */
const token = z
  .union([z.string(), z.looseObject({ content: z.string() })], 'a token')
  .transform((value) => (typeof value === 'string' ? value : value.content))
  .nullish();
const named = Object.fromEntries(NAMED.map((name) => [name, token])) as Record<
  (typeof NAMED)[number],
  typeof token
>;
const template = z.union(
  [z.string(), z.array(z.looseObject({ name: z.string(), template: z.string() }))],
  'a template, or a list of named templates',
);
const templateFile = z.looseObject({ chat_template: template.nullish() }, 'an object');
const configSchema = z.looseObject(
  {
    ...named,
    chat_template: template.nullish(),
    added_tokens_decoder: z
      .record(z.string(), addedTokenSchema.omit({ id: true }), 'an object of ids and tokens')
      .nullish(),
  },
  'an object',
);
const ids = z
  .union([z.int(), z.array(z.int())], 'a token id or a list of them')
  .transform((value) => (typeof value === 'number' ? [value] : value));
const eosSchema = z.looseObject({ eos_token_id: ids.nullish() }, 'an object');

/** Errors: `FILE_NOT_FOUND` without a tokenizer.json, `FILE_FORMAT`, `TOKENIZER_INVALID`. */
export async function readTokenizerFolder(path: string, signal?: AbortSignal): Promise<TokenizerParts> {
  const source = join(path, 'tokenizer.json');
  const read = (name: string) => readJsonIfPresent(join(path, name), undefined, 'TOKENIZER_INVALID');
  const settings = async <T extends z.ZodType>(name: string, schema: T) =>
    check(schema, (await read(name)) ?? {}, join(path, name), 'TOKENIZER_INVALID');

  const text = await readBytesIfPresent(source, VOCABULARY_LIMIT);
  if (text === undefined) throw await missing(path);
  const json = await inSlices(parse(text, source), signal);
  const config = await settings('tokenizer_config.json', configSchema);
  const older = await settings('special_tokens_map.json', z.looseObject(named, 'an object'));
  const specialTokens: Record<string, string> = {};
  for (const name of NAMED) {
    const text = config[name] ?? older[name];
    if (text != null) specialTokens[name] = text;
  }

  const described = config.added_tokens_decoder ?? {};
  const added = addedTokens(json, join(path, 'tokenizer_config.json'), described, specialTokens);
  const idOf = (text: string | undefined) => (text === undefined ? undefined : tokenId(json, added, text));

  // What transformers' generate stops at: generation_config.json, or else config.json.
  const generation = (await settings('generation_config.json', eosSchema)).eos_token_id;
  const eos = generation ?? (await settings('config.json', eosSchema)).eos_token_id ?? [];
  const own = idOf(specialTokens.eos_token);
  return {
    source,
    json: { ...json, added_tokens: [...added.values()] },
    specialTokens,
    eosTokenIds: [...eos, ...(own === undefined ? [] : [own])].filter((id) => id >= 0),
    chatTemplate: await readTemplate(path, config.chat_template),
  };
}

const LARGE = [
  ['model', 'vocab'],
  ['model', 'merges'],
];
function* parse(text: Buffer, source: string): Work<TokenizerJson> {
  const fail = (error: unknown) =>
    makeError('TOKENIZER_INVALID', `${source} is not valid JSON: ${messageOf(error)}`, error);
  return yield* readTokenizer(yield* parseInParts(text, LARGE, fail), source);
}

/**
 * By their text, as transformers changes what tokenizer.json has: `described` in tokenizer_config.json says how a token matches,
 * and every named token is special, also where tokenizer.json has it as an ordinary one.
 */
function addedTokens(
  json: TokenizerJson,
  source: string,
  described: Readonly<Record<string, Omit<AddedToken, 'id'>>>,
  named: Readonly<Record<string, string>>,
): Map<string, AddedToken> {
  const added = new Map(json.added_tokens.map((token) => [token.content, token]));
  for (const [key, token] of Object.entries(described)) {
    const id = tokenId(json, added, token.content) ?? Number(key);
    if (!Number.isInteger(id) || id < 0 || id >= MOST_TOKENS) {
      throw invalid(source, `"added_tokens_decoder" has the key ${show(key)}, expected ${TOKEN_ID}`);
    }
    const special = added.get(token.content)?.special || token.special;
    added.set(token.content, { ...token, id, special });
  }
  for (const content of Object.values(named)) {
    const id = tokenId(json, added, content);
    if (id !== undefined && !added.has(content))
      added.set(content, { id, content, special: true, normalized: false });
  }
  return added;
}

function tokenId(
  { model }: TokenizerJson,
  added: ReadonlyMap<string, AddedToken>,
  text: string,
): number | undefined {
  return added.get(text)?.id ?? model.vocab.get(text);
}

/**
 * The default template of the places that transformers looks at, the newest first. Named ones beside it
 * (additional_chat_templates/) are for tools and documents, which this package has not.
 */
async function readTemplate(path: string, config: z.infer<typeof template> | null | undefined) {
  const file = await readTextIfPresent(join(path, 'chat_template.jinja'));
  if (file !== undefined) return file;
  const source = join(path, 'chat_template.json');
  const json = await readJsonIfPresent(source, undefined, 'TOKENIZER_INVALID');
  const older = json === undefined ? undefined : check(templateFile, json, source, 'TOKENIZER_INVALID');
  return defaultTemplate(older?.chat_template ?? config);
}

function defaultTemplate(found: z.infer<typeof template> | null | undefined): string | undefined {
  if (found == null || typeof found === 'string') return found ?? undefined;
  return (found.find(({ name }) => name === 'default') ?? found[0])?.template;
}

/** A folder without tokenizer.json: one of older files is no use alone, but can be turned into it. */
async function missing(path: string): Promise<Error> {
  if (!(await hasSentencePieceOnly(path)))
    return makeError('FILE_NOT_FOUND', `${path} has no tokenizer.json`);
  return makeError(
    'FILE_NOT_FOUND',
    `${path} has tokenizer.model but no tokenizer.json, which is what is read; write one with transformers: ` +
      'AutoTokenizer.from_pretrained(folder).save_pretrained(folder)',
  );
}

/** @internal Whether the folder has SentencePiece's own file and no tokenizer.json. */
export async function hasSentencePieceOnly(path: string): Promise<boolean> {
  const has = (name: string) =>
    access(join(path, name)).then(
      () => true,
      () => false,
    );
  return !(await has('tokenizer.json')) && (await has('tokenizer.model'));
}
