/** The two tables of byte-pair encoding, flat: a vocabulary of 262,144 tokens has half a million merges. */

/** Pairs of ids, by open addressing. */
export class PairTable {
  readonly #mask: number;
  /** Left id, right id, rank, merged id; a left id of -1 is a free slot. */
  readonly #slots: Int32Array;

  constructor(count: number) {
    const size = 2 ** Math.ceil(Math.log2(2 * count + 2));
    this.#mask = size - 1;
    this.#slots = new Int32Array(4 * size).fill(-1);
  }

  /** Of a pair that is given twice the later counts. */
  set(left: number, right: number, rank: number, merged: number): void {
    const at = 4 * this.#place(left, right);
    this.#slots[at] = left;
    this.#slots[at + 1] = right;
    this.#slots[at + 2] = rank;
    this.#slots[at + 3] = merged;
  }

  /** The slot of a pair, or -1. */
  find(left: number, right: number): number {
    const slot = this.#place(left, right);
    return this.#slots[4 * slot]! < 0 ? -1 : slot;
  }
  rank(slot: number): number {
    return this.#slots[4 * slot + 2]!;
  }
  merged(slot: number): number {
    return this.#slots[4 * slot + 3]!;
  }

  /** Where a pair is or would go. */
  #place(left: number, right: number): number {
    let hash = Math.imul(left, 0x9e3779b1) ^ Math.imul(right + 1, 0x85ebca6b);
    hash = Math.imul(hash ^ (hash >>> 15), 0x2c1b3c6d);
    let slot = (hash ^ (hash >>> 13)) & this.#mask;
    for (;;) {
      const found = this.#slots[4 * slot]!;
      if (found < 0 || (found === left && this.#slots[4 * slot + 1] === right)) return slot;
      slot = (slot + 1) & this.#mask;
    }
  }
}

/** Possible merges; the lowest rank comes first, and of equal ones the leftmost. */
export class MergeHeap {
  readonly #ranks: number[] = [];
  readonly #lefts: number[] = [];

  get size(): number {
    return this.#ranks.length;
  }

  push(rank: number, left: number): void {
    let at = this.size;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!this.#isBefore(rank, left, parent)) break;
      this.#move(parent, at);
      at = parent;
    }
    this.#ranks[at] = rank;
    this.#lefts[at] = left;
  }

  pop(): { rank: number; left: number } {
    const first = { rank: this.#ranks[0]!, left: this.#lefts[0]! };
    const rank = this.#ranks.pop()!;
    const left = this.#lefts.pop()!;
    if (this.size === 0) return first;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= this.size) break;
      if (child + 1 < this.size && this.#isBefore(this.#ranks[child + 1]!, this.#lefts[child + 1]!, child))
        child++;
      if (this.#isBefore(rank, left, child)) break;
      this.#move(child, at);
      at = child;
    }
    this.#ranks[at] = rank;
    this.#lefts[at] = left;
    return first;
  }

  #isBefore(rank: number, left: number, at: number): boolean {
    return rank < this.#ranks[at]! || (rank === this.#ranks[at] && left < this.#lefts[at]!);
  }

  #move(from: number, to: number): void {
    this.#ranks[to] = this.#ranks[from]!;
    this.#lefts[to] = this.#lefts[from]!;
  }
}
