/** Text to token ids and back, as the model's own tokenizer does it. */
import { makeError } from '../errors.js';
import type { GgufMetadata } from '../format/gguf.js';
import { show } from '../format/json.js';
import { atOnce, every, type Work } from '../slices.js';
import { type ChatMessage, renderChat } from './chat.js';
import { type Decoder, makeDecoder } from './decode.js';
import { Encoder } from './encoder.js';
import { readTokenizerFolder } from './folder.js';
import { tokenizerFromGguf } from './gguf.js';
import { alignTokens } from './offsets.js';
import { invalid, type TokenizerJson } from './schema.js';
import type { Vocabulary } from './vocabulary.js';

export type { ChatMessage };

/** What a tokenizer is made of, whichever files it came from. */
export interface TokenizerParts {
  /** Where it came from, for messages. */
  source: string;
  json: TokenizerJson;
  /** `bos_token`, `eos_token`, `unk_token`, `pad_token`, as chat templates name them. */
  specialTokens: Readonly<Record<string, string>>;
  /** Ids that end a text, most important first. */
  eosTokenIds: readonly number[];
  chatTemplate?: string;
}

export interface EncodeOptions {
  /**
   * Add the special tokens that the tokenizer itself adds, for example one at the beginning. True by
   * default.
   */
  specialTokens?: boolean;
}
export interface DecodeOptions {
  /** Leave out special tokens. True by default. */
  skipSpecialTokens?: boolean;
}
export interface ChatOptions {
  /** End with the opening of the assistant's turn. True by default. */
  addGenerationPrompt?: boolean;
  /** Further variables of the template, for example Qwen3's `{ enable_thinking: false }`. JSON values. */
  variables?: Readonly<Record<string, unknown>>;
}

/**
 * Tokens that end a turn in common chat formats; they end a generation when the model's template writes
 * them.
 */
const TURN_ENDS = ['<|im_end|>', '<|eot_id|>', '<|eom_id|>', '<|end_of_turn|>', '<end_of_turn>', '<|end|>'];

/**
 * Ids agree with Hugging Face `tokenizers`; special tokens that stand in the text become their ids.
 * Immutable; safe to share.
 */
export class Tokenizer {
  /**
   * One more than the largest id. A model's embedding may have more rows than this; fewer only where the tokens beyond them
   * are added ones (Gemma 3's `<image_soft_token>`), which the model then refuses.
   */
  readonly vocabSize: number;
  /** @internal One more than the largest id of a token that is no added one. */
  readonly ordinarySize: number;
  /** Ids that end a generation, most important first. */
  readonly eosTokenIds: readonly number[];
  readonly bosTokenId?: number;
  /** What the published SEAL code pads with: the tokenizer's own end token, or else its padding token. */
  readonly paddingTokenId?: number;
  /** Jinja source of the chat template. */
  readonly chatTemplate?: string;
  readonly #encoder: Encoder;
  readonly #decoder: Decoder;
  readonly #vocabulary: Vocabulary;
  /** Added tokens, which take the place of those of the vocabulary. */
  readonly #added = new Map<number, string>();
  readonly #special = new Set<number>();
  readonly #source: string;
  readonly #specialTokens: Readonly<Record<string, string>>;

  /** Errors: `TOKENIZER_INVALID`. */
  constructor(parts: TokenizerParts) {
    const { json, source } = parts;
    this.#source = source;
    this.#specialTokens = parts.specialTokens;
    this.#decoder = makeDecoder(json, source);
    this.#encoder = new Encoder(json, source);
    this.#vocabulary = json.model.vocab;
    const added = new Set(json.added_tokens.map(({ id }) => id));
    let size = this.#vocabulary.length;
    let last = size - 1;
    while (last >= 0 && (added.has(last) || !this.#vocabulary.has(last))) last--;
    this.ordinarySize = last + 1;
    for (const token of json.added_tokens) {
      this.#added.set(token.id, this.#encoder.spelling(token));
      size = Math.max(size, token.id + 1);
      if (token.special) this.#special.add(token.id);
    }
    if (size === 0) throw invalid(source, 'the vocabulary is empty');
    this.vocabSize = size;
    this.chatTemplate = parts.chatTemplate;
    this.bosTokenId = this.#idOf(parts.specialTokens.bos_token);
    const { eos_token: end, pad_token: padding } = parts.specialTokens;
    this.paddingTokenId = this.#idOf(end) ?? this.#idOf(padding) ?? parts.eosTokenIds[0];
    const turnEnds = TURN_ENDS.filter((token) => parts.chatTemplate?.includes(token));
    const ends = [...parts.eosTokenIds, ...turnEnds.map((token) => this.#idOf(token))];
    this.eosTokenIds = [...new Set(ends)].filter(
      (id): id is number => id !== undefined && id < this.vocabSize,
    );
  }

  /**
   * From tokenizer.json and, where present, tokenizer_config.json, special_tokens_map.json,
   * generation_config.json, config.json, chat_template.jinja and chat_template.json. Errors: `FILE_NOT_FOUND`, `FILE_FORMAT`,
   * `TOKENIZER_INVALID`.
   */
  static async fromFolder(path: string, { signal }: { signal?: AbortSignal } = {}): Promise<Tokenizer> {
    return new Tokenizer(await readTokenizerFolder(path, signal));
  }

  /** From the metadata of a GGUF header. Errors: `TOKENIZER_INVALID`. */
  static fromGguf(metadata: GgufMetadata, source = 'GGUF'): Tokenizer {
    return new Tokenizer(tokenizerFromGguf(metadata, source));
  }

  /** True when the model has a chat template. */
  get isChat(): boolean {
    return this.chatTemplate !== undefined;
  }

  /** Halves of surrogate pairs are read as U+FFFD. Errors: `INPUT_INVALID` for what is not text. */
  encode(text: string, { specialTokens = true }: EncodeOptions = {}): Int32Array {
    return Int32Array.from(this.#encoder.encode(wellFormed(text), specialTokens));
  }

  /**
   * Token ids, and the characters that each stands for: token i is `text.slice(offsets[2 * i], offsets[2 * i + 1])`. A
   * token that holds part of a character covers all of it; one that the tokenizer adds by itself covers none.
   * Errors: `INPUT_INVALID`.
   */
  encodeWithOffsets(
    text: string,
    { specialTokens = true }: EncodeOptions = {},
  ): { tokens: Int32Array; offsets: Int32Array } {
    const { before, after } = specialTokens ? this.#encoder : { before: [], after: [] };
    const tokens: number[] = [...before];
    const offsets: number[] = before.flatMap(() => [0, 0]);
    for (const { start, end, ids, isToken } of this.#encoder.sections(wellFormed(text))) {
      const pieces = ids.map((id) => this.#decoder.bytes(this.#token(id) ?? ''));
      const aligned = isToken ? [0, end - start] : alignTokens(text.slice(start, end), pieces);
      for (const id of ids) tokens.push(id);
      for (const at of aligned) offsets.push(start + at);
    }
    tokens.push(...after);
    offsets.push(...after.flatMap(() => [text.length, text.length]));
    return { tokens: Int32Array.from(tokens), offsets: Int32Array.from(offsets) };
  }

  /**
   * Ids without a token (rows that pad an embedding) decode to nothing; bytes that are not UTF-8 decode to
   * U+FFFD.
   * Errors: `TOKEN_RANGE` for what is not an id.
   */
  decode(tokens: ArrayLike<number>, { skipSpecialTokens = true }: DecodeOptions = {}): string {
    const known: string[] = [];
    for (let i = 0; i < tokens.length; i++) {
      const id = tokens[i]!;
      if (!Number.isInteger(id) || id < 0)
        throw makeError('TOKEN_RANGE', `token ${i} is ${show(id)}, expected an id`);
      const token = this.#token(id);
      if (token !== undefined && !(skipSpecialTokens && this.#special.has(id))) known.push(token);
    }
    return this.#decoder.text(known);
  }

  /**
   * Renders a conversation as text; encode it with `specialTokens: false`. The template runs apart, within limits (100
   * ms, 2^20 characters). Errors: `TEMPLATE_INVALID`, `INPUT_INVALID`.
   */
  chat(
    messages: readonly ChatMessage[],
    { addGenerationPrompt = true, variables }: ChatOptions = {},
  ): string {
    if (this.chatTemplate === undefined) {
      throw makeError('TEMPLATE_INVALID', `${this.#source} has no chat template; expected a chat model`);
    }
    const specialTokens = this.#specialTokens;
    return renderChat(this.chatTemplate, messages, { specialTokens, addGenerationPrompt, variables });
  }

  /** Token ids of a rendered conversation. */
  encodeChat(messages: readonly ChatMessage[], options?: ChatOptions): Int32Array {
    return this.encode(this.chat(messages, options), { specialTokens: false });
  }

  /**
   * Byte string of every id, end to end: id i is `bytes[offsets[i] .. offsets[i + 1])`. Special tokens and
   * ids without a token are empty. `size` ids, by default `vocabSize`; a model with a larger embedding
   * passes its own.
   */
  tokenBytes(size = this.vocabSize): { bytes: Uint8Array; offsets: Int32Array } {
    return atOnce(this.tokenBytesWork(size));
  }

  /** @internal The same in slices. */
  *tokenBytesWork(size: number): Work<{ bytes: Uint8Array; offsets: Int32Array }> {
    const offsets = new Int32Array(size + 1);
    let bytes = new Uint8Array(8 * size);
    const due = every(512);
    for (let id = 0; id < size; id++) {
      const token = this.#special.has(id) ? undefined : this.#token(id);
      const own = token === undefined ? [] : this.#decoder.bytes(token);
      const start = offsets[id]!;
      if (start + own.length > bytes.length) {
        const wider = new Uint8Array(2 * bytes.length + own.length);
        wider.set(bytes);
        bytes = wider;
      }
      bytes.set(own, start);
      offsets[id + 1] = start + own.length;
      if (due()) yield;
    }
    return { bytes: bytes.slice(0, offsets[size]), offsets };
  }

  #token(id: number): string | undefined {
    return this.#added.get(id) ?? this.#vocabulary.token(id);
  }

  #idOf(token: string | undefined): number | undefined {
    return token === undefined ? undefined : this.#encoder.idOf(token);
  }
}

/** With U+FFFD for halves of surrogate pairs. */
function wellFormed(text: string): string {
  if (typeof text !== 'string')
    throw makeError('INPUT_INVALID', `the text is ${show(text)}, expected a string`);
  return text.replace(/\p{Surrogate}/gu, '\ufffd');
}
