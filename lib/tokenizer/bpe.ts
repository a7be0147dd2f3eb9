/** Byte-pair encoding as the original library does it: of all pairs the one of the lowest rank merges first. */
import { MergeHeap, type PairTable } from './merges.js';
import type { TokenizerJson } from './schema.js';
import type { Vocabulary } from './vocabulary.js';

/** Pieces (characters) whose ids are kept, and how long a piece may be to be kept. */
const CACHED = 10_000;
const CACHED_LENGTH = 64;

export class Bpe {
  readonly #ids: Vocabulary;
  readonly #pairs: PairTable;
  readonly #ignoresMerges: boolean;
  readonly #fusesUnknown: boolean;
  readonly #unknown: number | undefined;
  /** Tokens `<0x00>` to `<0xFF>`, where unknown characters are spelt in bytes. */
  readonly #bytes: (number | undefined)[];
  readonly #cache = new Map<string, readonly number[]>();
  readonly #characterIds = new Map<string, number | undefined>();

  constructor(model: TokenizerJson['model']) {
    this.#ids = model.vocab;
    this.#pairs = model.merges;
    this.#ignoresMerges = model.ignore_merges;
    this.#fusesUnknown = model.fuse_unk;
    this.#unknown = model.unk_token === null ? undefined : this.#ids.get(model.unk_token);
    this.#bytes = model.byte_fallback
      ? Array.from({ length: 256 }, (_, byte) => this.#ids.get(nameOf(byte)))
      : [];
  }

  idOf(token: string): number | undefined {
    return this.#ids.get(token);
  }

  /** Ids of a piece. */
  encode(piece: string): readonly number[] {
    const cached = this.#cache.get(piece);
    if (cached) return cached;
    const whole = this.#ignoresMerges ? this.#ids.get(piece) : undefined;
    const ids = whole === undefined ? this.#merge(this.#characters(piece)) : [whole];
    if (piece.length <= CACHED_LENGTH) {
      if (this.#cache.size === CACHED) this.#cache.clear();
      this.#cache.set(piece, ids);
    }
    return ids;
  }

  /** Ids of the single characters, or of their bytes; what has neither is unknown or, without such a token, nothing. */
  #characters(piece: string): number[] {
    const ids: number[] = [];
    let isUnknown = false;
    const flush = () => {
      if (isUnknown) ids.push(this.#unknown!);
      isUnknown = false;
    };
    for (const character of piece) {
      const id = this.#idOfCharacter(character);
      if (id !== undefined) {
        flush();
        ids.push(id);
        continue;
      }
      const bytes = Array.from(Buffer.from(character, 'utf8'), (byte) => this.#bytes[byte]);
      // As in the original, an unknown character before them is written behind them.
      if (bytes.every((byte) => byte !== undefined)) ids.push(...bytes);
      else if (this.#unknown !== undefined) {
        if (!this.#fusesUnknown) flush();
        isUnknown = true;
      }
    }
    flush();
    return ids;
  }

  #idOfCharacter(character: string): number | undefined {
    if (this.#characterIds.has(character)) return this.#characterIds.get(character);
    const id = this.#ids.get(character);
    if (this.#characterIds.size === CACHED) this.#characterIds.clear();
    this.#characterIds.set(character, id);
    return id;
  }

  #merge(ids: number[]): number[] {
    if (ids.length < 2) return ids;
    const { length } = ids;
    // A list of those that are left: -1 ends it, and an id of -1 is one that was merged away.
    const previous = Int32Array.from(ids, (_, i) => i - 1);
    const next = Int32Array.from(ids, (_, i) => (i + 1 < length ? i + 1 : -1));
    const heap = new MergeHeap();
    const offer = (left: number): void => {
      const right = left < 0 ? -1 : next[left]!;
      if (right < 0) return;
      const rank = this.#pairs.find(ids[left]!, ids[right]!);
      if (rank >= 0) heap.push(rank, left);
    };
    for (let i = 0; i + 1 < length; i++) offer(i);
    while (heap.size > 0) {
      const { rank, left } = heap.pop();
      const right = ids[left]! < 0 ? -1 : next[left]!;
      if (right < 0) continue;
      // Something else has merged here since.
      if (this.#pairs.find(ids[left]!, ids[right]!) !== rank) continue;
      ids[left] = this.#pairs.merged(rank);
      ids[right] = -1;
      next[left] = next[right]!;
      if (next[left] >= 0) previous[next[left]] = left;
      offer(previous[left]!);
      offer(left);
    }
    return ids.filter((id) => id >= 0);
  }
}

/** `<0x0A>` */
function nameOf(byte: number): string {
  return `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`;
}
