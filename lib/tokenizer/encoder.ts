/**
 * Text to ids, step by step as the original `tokenizers` library takes it: added tokens are cut out, what is between
 * them is normalized, cut into pieces and merged, and the tokens that the tokenizer itself adds come last.
 */
import { show } from '../format/json.js';
import { AddedTokens } from './added-tokens.js';
import { Bpe } from './bpe.js';
import { makeNormalizer, type Normalizer } from './normalize.js';
import { flatten } from './parts.js';
import { makePreTokenizer, type PreTokenizer } from './pre-tokenize.js';
import { type AddedToken, invalid, type Part, type TokenizerJson } from './schema.js';

/** UTF-16 units `start` to `end` of a text. */
export interface EncodedSection {
  start: number;
  end: number;
  ids: readonly number[];
  /** An added token and the white space that it took. */
  isToken: boolean;
}

export class Encoder {
  readonly #added = new Map<string, number>();
  /** Found in the text as it is, and in the normalized text. */
  readonly #verbatim: AddedTokens;
  readonly #normalized: AddedTokens;
  readonly #normalize: Normalizer;
  readonly #cut: PreTokenizer;
  readonly #model: Bpe;
  /** What the tokenizer itself adds before the text, and after it. */
  readonly before: readonly number[];
  readonly after: readonly number[];

  /** Errors: `TOKENIZER_INVALID` for a part that is not supported or broken. */
  constructor(json: TokenizerJson, source: string) {
    this.#normalize = makeNormalizer(json.normalizer, source);
    this.#cut = makePreTokenizer(json.pre_tokenizer, source);
    this.#model = new Bpe(json.model);
    for (const { content, id } of json.added_tokens) this.#added.set(content, id);
    this.#verbatim = new AddedTokens(json.added_tokens.filter((token) => !isNormalized(token)));
    this.#normalized = new AddedTokens(json.added_tokens.filter(isNormalized), this.#normalize);
    const templates = flatten(json.post_processor, 'processors').flatMap((part) =>
      this.#template(part, source),
    );
    this.before = templates.toReversed().flatMap(({ before }) => before);
    this.after = templates.flatMap(({ after }) => after);
  }

  /** `text` is well-formed. */
  encode(text: string, specialTokens: boolean): number[] {
    const ids = this.sections(text).flatMap((section) => section.ids);
    return specialTokens ? [...this.before, ...ids, ...this.after] : ids;
  }

  /** The text in order, cut where added tokens were found, and the ids of each stretch. */
  sections(text: string): EncodedSection[] {
    return this.#verbatim.split(text).map(({ text: part, start, id }) => {
      const end = start + part.length;
      if (id !== undefined) return { start, end, ids: [id], isToken: true };
      return { start, end, ids: this.#between(part, start), isToken: false };
    });
  }

  #between(text: string, start: number): number[] {
    const ids: number[] = [];
    for (const section of this.#normalized.split(this.#normalize(text))) {
      if (section.id !== undefined) {
        ids.push(section.id);
        continue;
      }
      for (const piece of this.#cut(section.text, start + section.start === 0)) {
        for (const token of this.#model.encode(piece)) ids.push(token);
      }
    }
    return ids;
  }

  /** What an added token decodes to: the text that it is found as. */
  spelling(token: AddedToken): string {
    return isNormalized(token) ? this.#normalize(token.content) : token.content;
  }

  idOf(token: string): number | undefined {
    return this.#added.get(token) ?? this.#model.idOf(token);
  }

  /** Tokens before and after the text. */
  #template(part: Part, source: string): { before: number[]; after: number[] }[] {
    if (part.type === 'ByteLevel') return [];
    if (part.type !== 'TemplateProcessing') {
      throw invalid(
        source,
        `post-processor ${show(part.type)} is not supported; supported: ByteLevel, TemplateProcessing`,
      );
    }
    const single = Array.isArray(part.single)
      ? (part.single as Record<string, { id?: unknown } | undefined>[])
      : [];
    const at = single.findIndex((item) => item?.Sequence !== undefined);
    if (at < 0)
      throw invalid(source, 'TemplateProcessing has no place for the text, expected "single" with one');
    const idsOf = (item: (typeof single)[number]): number[] => {
      const name = String(item?.SpecialToken?.id);
      const known = part.special_tokens as Record<string, { ids?: unknown } | undefined> | undefined;
      const ids = known?.[name]?.ids ?? [this.idOf(name)];
      if (Array.isArray(ids) && ids.every((id) => Number.isInteger(id))) return ids as number[];
      throw invalid(source, `its post-processor adds ${show(name)}, which is not a token`);
    };
    return [{ before: single.slice(0, at).flatMap(idsOf), after: single.slice(at + 1).flatMap(idsOf) }];
  }
}

function isNormalized({ normalized, special }: AddedToken): boolean {
  return normalized ?? !special;
}
