/**
 * Tokens and their ids, flat: two hundred thousand strings would be as many objects for the garbage collector to carry
 * about while they are made. Texts are UTF-16, exactly as in JavaScript.
 */

/** Texts by number. */
export class Texts {
  #units = new Uint16Array(1 << 12);
  #view = Buffer.from(this.#units.buffer);
  /** Text i is `units[starts[i] .. starts[i + 1])`. */
  #starts = new Int32Array(1 << 8);
  #length = 0;

  get length(): number {
    return this.#length;
  }

  push(text: string): void {
    let at = this.#starts[this.#length]!;
    this.#units = grown(this.#units, at + text.length);
    this.#starts = grown(this.#starts, this.#length + 2);
    for (let i = 0; i < text.length; i++) this.#units[at++] = text.charCodeAt(i);
    this.#starts[++this.#length] = at;
  }

  at(index: number): string {
    const { buffer } = this.#units;
    if (this.#view.buffer !== buffer) this.#view = Buffer.from(buffer);
    return this.#view.toString('utf16le', 2 * this.#starts[index]!, 2 * this.#starts[index + 1]!);
  }

  /** UTF-16 units of a text. */
  size(index: number): number {
    return this.#starts[index + 1]! - this.#starts[index]!;
  }

  /** Characters among the first `size` units of a text. */
  characters(index: number, size: number): number {
    const start = this.#starts[index]!;
    let pairs = 0;
    for (let i = start; i < start + size; i++) if ((this.#units[i]! & 0xfc00) === 0xd800) pairs++;
    return size - pairs;
  }

  equals(index: number, text: string): boolean {
    if (this.size(index) !== text.length) return false;
    const start = this.#starts[index]!;
    for (let i = 0; i < text.length; i++) if (this.#units[start + i] !== text.charCodeAt(i)) return false;
    return true;
  }

  /** Whether a text is the units `from` to `to` of another one. */
  equalsPart(index: number, other: number, from: number, to: number): boolean {
    if (this.size(index) !== to - from) return false;
    const start = this.#starts[index]!;
    const start2 = this.#starts[other]! + from;
    for (let i = 0; i < to - from; i++) if (this.#units[start + i] !== this.#units[start2 + i]) return false;
    return true;
  }

  hashOfPart(index: number, from: number, to: number): number {
    const start = this.#starts[index]!;
    let hash = SEED;
    for (let i = start + from; i < start + to; i++) hash = mix(hash, this.#units[i]!);
    return finish(hash);
  }
}

/** Ids by token, and tokens by id. */
export class Vocabulary {
  readonly #texts = new Texts();
  #ids = new Int32Array(1 << 8);
  #hashes = new Int32Array(1 << 8);
  /** Open addressing over the texts; -1 is free. */
  #slots = new Int32Array(1 << 9).fill(-1);
  #textOf = new Int32Array(1 << 8).fill(-1);
  #length = 0;
  /** Ids that tokens have. */
  #used = 0;
  /** A token has been given another id: what is known by id is made anew before it is read. */
  #stale = false;

  static from(tokens: Readonly<Record<string, number>>): Vocabulary {
    const vocabulary = new Vocabulary();
    for (const [token, id] of Object.entries(tokens)) vocabulary.set(token, id);
    return vocabulary;
  }

  /** Tokens. */
  get size(): number {
    return this.#texts.length;
  }
  /** One more than the largest id. */
  get length(): number {
    this.#settle();
    return this.#length;
  }

  /** Different ids; fewer than tokens where two have the same. */
  get ids(): number {
    this.#settle();
    return this.#used;
  }

  /** An id of two tokens, and the first two that have it. */
  shared(): [id: number, one: string, other: string] | undefined {
    const seen = new Map<number, number>();
    for (let text = 0; text < this.size; text++) {
      const id = this.#ids[text]!;
      const other = seen.get(id);
      if (other !== undefined) return [id, this.#texts.at(other), this.#texts.at(text)];
      seen.set(id, text);
    }
    return undefined;
  }

  /** Of a token that is given twice the later id counts. */
  set(token: string, id: number): void {
    const hash = hashOf(token);
    let slot = this.#place(hash, (text) => this.#texts.equals(text, token));
    let text = this.#slots[slot]!;
    if (text >= 0) {
      this.#stale ||= this.#ids[text] !== id;
    } else {
      text = this.#texts.length;
      this.#texts.push(token);
      this.#hashes = grown(this.#hashes, text + 1);
      this.#ids = grown(this.#ids, text + 1);
      this.#hashes[text] = hash;
      if (2 * this.size > this.#slots.length) {
        this.#widen();
        slot = this.#place(hash, () => false);
      }
      this.#slots[slot] = text;
    }
    this.#ids[text] = id;
    const known = this.#textOf.length;
    this.#textOf = grown(this.#textOf, id + 1);
    this.#textOf.fill(-1, known);
    this.#enter(text, id);
  }

  #enter(text: number, id: number): void {
    if (this.#textOf[id]! < 0) this.#used++;
    this.#textOf[id] = text;
    this.#length = Math.max(this.#length, id + 1);
  }

  #settle(): void {
    if (!this.#stale) return;
    this.#stale = false;
    this.#textOf.fill(-1);
    this.#used = 0;
    this.#length = 0;
    for (let text = 0; text < this.size; text++) this.#enter(text, this.#ids[text]!);
  }

  get(token: string): number | undefined {
    const text = this.#slots[this.#place(hashOf(token), (other) => this.#texts.equals(other, token))]!;
    return text < 0 ? undefined : this.#ids[text];
  }

  has(id: number): boolean {
    return this.#text(id) >= 0;
  }

  /** The token of an id. */
  token(id: number): string | undefined {
    const text = this.#text(id);
    return text < 0 ? undefined : this.#texts.at(text);
  }

  /** UTF-16 units of the token of an id, and characters among its first `size`. */
  units(id: number): number {
    return this.#texts.size(this.#text(id));
  }
  characters(id: number, size: number): number {
    return this.#texts.characters(this.#text(id), size);
  }

  /** The id of units `from` to `to` of the token of an id, or -1. */
  part(id: number, from: number, to: number): number {
    const whole = this.#text(id);
    const hash = this.#texts.hashOfPart(whole, from, to);
    const text = this.#slots[this.#place(hash, (other) => this.#texts.equalsPart(other, whole, from, to))]!;
    return text < 0 ? -1 : this.#ids[text]!;
  }

  /** Tokens and ids, in the order in which the tokens first came. */
  *[Symbol.iterator](): Generator<[string, number], void, void> {
    for (let text = 0; text < this.size; text++) yield [this.#texts.at(text), this.#ids[text]!];
  }

  /** As tokenizer.json has it. */
  toJSON(): Record<string, number> {
    const tokens = Object.create(null) as Record<string, number>;
    for (const [token, id] of this) tokens[token] = id;
    return tokens;
  }

  #text(id: number): number {
    this.#settle();
    return id >= 0 && id < this.#length ? this.#textOf[id]! : -1;
  }

  /** The slot of a text with this hash that `isSame`, or where it would go. */
  #place(hash: number, isSame: (text: number) => boolean): number {
    const mask = this.#slots.length - 1;
    for (let slot = hash & mask; ; slot = (slot + 1) & mask) {
      const text = this.#slots[slot]!;
      if (text < 0 || (this.#hashes[text] === hash && isSame(text))) return slot;
    }
  }

  #widen(): void {
    this.#slots = new Int32Array(2 * this.#slots.length).fill(-1);
    for (let text = 0; text < this.size - 1; text++) {
      this.#slots[this.#place(this.#hashes[text]!, () => false)] = text;
    }
  }
}

const SEED = 0x811c9dc5 | 0;
function mix(hash: number, unit: number): number {
  return Math.imul(hash ^ unit, 0x01000193);
}
function finish(hash: number): number {
  const mixed = Math.imul(hash ^ (hash >>> 15), 0x2c1b3c6d);
  return mixed ^ (mixed >>> 13);
}
function hashOf(text: string): number {
  let hash = SEED;
  for (let i = 0; i < text.length; i++) hash = mix(hash, text.charCodeAt(i));
  return finish(hash);
}

/** `array`, or a copy of at least twice its length, that has room for `length` entries. */
export function grown<T extends Uint16Array | Int32Array>(array: T, length: number): T {
  if (length <= array.length) return array;
  const wider = new (array.constructor as new (size: number) => T)(Math.max(2 * array.length, length));
  wider.set(array);
  return wider;
}
