/** A tokenizer's files in a Hugging Face folder. */
import { access } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { makeError } from '../errors.js';
import { check, readJsonIfPresent, readTextIfPresent, VOCABULARY_LIMIT } from '../format/json.js';
import { type AddedToken, parseTokenizer } from './schema.js';
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
const configSchema = z.looseObject({ ...named, chat_template: template.nullish() }, 'an object');
const ids = z
  .union([z.int(), z.array(z.int())], 'a token id or a list of them')
  .transform((value) => (typeof value === 'number' ? [value] : value));
const eosSchema = z.looseObject({ eos_token_id: ids.nullish() }, 'an object');

/** Errors: `FILE_NOT_FOUND` without a tokenizer.json, `FILE_FORMAT`, `TOKENIZER_INVALID`. */
export async function readTokenizerFolder(path: string): Promise<TokenizerParts> {
  const source = join(path, 'tokenizer.json');
  const read = (name: string) => readJsonIfPresent(join(path, name), undefined, 'TOKENIZER_INVALID');
  const settings = async <T extends z.ZodType>(name: string, schema: T) =>
    check(schema, (await read(name)) ?? {}, join(path, name), 'TOKENIZER_INVALID');

  const raw = await readJsonIfPresent(source, VOCABULARY_LIMIT, 'TOKENIZER_INVALID');
  if (raw === undefined) throw await missing(path);
  const json = parseTokenizer(raw, source);
  const config = await settings('tokenizer_config.json', configSchema);
  const older = await settings('special_tokens_map.json', z.looseObject(named, 'an object'));
  const specialTokens: Record<string, string> = {};
  for (const name of NAMED) {
    const text = config[name] ?? older[name];
    if (text != null) specialTokens[name] = text;
  }

  // transformers makes every named token special, also where tokenizer.json has it as an ordinary one.
  const idOf = (text: string | undefined): number | undefined => {
    if (text === undefined) return undefined;
    const own = Object.hasOwn(json.model.vocab, text) ? json.model.vocab[text] : undefined;
    return json.added_tokens.find(({ content }) => content === text)?.id ?? own;
  };
  const added: AddedToken[] = [];
  for (const content of new Set(Object.values(specialTokens))) {
    const id = idOf(content);
    const present = json.added_tokens.some((known) => known.content === content);
    if (id !== undefined && !present) added.push({ id, content, special: true, normalized: false });
  }

  // What transformers' generate stops at: generation_config.json, or else config.json.
  const generation = (await settings('generation_config.json', eosSchema)).eos_token_id;
  const eos = generation ?? (await settings('config.json', eosSchema)).eos_token_id ?? [];
  const own = idOf(specialTokens.eos_token);
  return {
    source,
    json: { ...json, added_tokens: [...json.added_tokens, ...added] },
    specialTokens,
    eosTokenIds: [...eos, ...(own === undefined ? [] : [own])].filter((id) => id >= 0),
    chatTemplate: await readTemplate(path, config.chat_template),
  };
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
