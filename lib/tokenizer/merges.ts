/** The two tables of byte-pair encoding, flat: a vocabulary of 262,144 tokens has half a million merges. */

import { every, type Work } from '../slices.js';
import { grown } from './vocabulary.js';

/** Merges in their order. */
export class MergeList {
  /** Left id, right id, merged id. */
  #ids = new Int32Array(3 << 8);
  #length = 0;

  get length(): number {
    return this.#length;
  }

  push(left: number, right: number, merged: number): void {
    const at = 3 * this.#length++;
    this.#ids = grown(this.#ids, at + 3);
    this.#ids[at] = left;
    this.#ids[at + 1] = right;
    this.#ids[at + 2] = merged;
  }

  at(rank: number): [left: number, right: number, merged: number] {
    const at = 3 * rank;
    return [this.#ids[at]!, this.#ids[at + 1]!, this.#ids[at + 2]!];
  }

  /** Rank r is the merge at r; of a pair that is there twice the later counts. */
  *table(): Work<PairTable> {
    const table = new PairTable(this.#ids.slice(0, 3 * this.#length));
    const due = every(2048);
    for (let rank = 0; rank < this.#length; rank++) {
      table.add(rank);
      if (due()) yield;
    }
    return table;
  }
}

/** Pairs of ids, by open addressing. */
export class PairTable {
  readonly #mask: number;
  /** Left id, right id and merged id of every rank. */
  readonly #ids: Int32Array;
  /** One more than a rank; 0 is free. */
  readonly #slots: Int32Array;

  /** Of merges that are still to be added. */
  constructor(ids: Int32Array) {
    const size = 2 ** Math.ceil(Math.log2((2 * ids.length) / 3 + 2));
    this.#mask = size - 1;
    this.#ids = ids;
    this.#slots = new Int32Array(size);
  }

  /** Of a pair that is added twice the later counts. */
  add(rank: number): void {
    this.#slots[this.#place(this.#ids[3 * rank]!, this.#ids[3 * rank + 1]!)] = rank + 1;
  }

  /** The rank of a pair, or -1. */
  find(left: number, right: number): number {
    return this.#slots[this.#place(left, right)]! - 1;
  }
  merged(rank: number): number {
    return this.#ids[3 * rank + 2]!;
  }

  /** Left and right ids of all pairs, by rank. */
  list(): [left: number, right: number][] {
    const ranks = this.#slots.filter((slot) => slot > 0).sort();
    return Array.from(ranks, (slot) => [this.#ids[3 * slot - 3]!, this.#ids[3 * slot - 2]!]);
  }

  /** Where a pair is or would go. */
  #place(left: number, right: number): number {
    let hash = Math.imul(left, 0x9e3779b1) ^ Math.imul(right + 1, 0x85ebca6b);
    hash = Math.imul(hash ^ (hash >>> 15), 0x2c1b3c6d);
    for (let slot = (hash ^ (hash >>> 13)) & this.#mask; ; slot = (slot + 1) & this.#mask) {
      const rank = this.#slots[slot]! - 1;
      if (rank < 0 || (this.#ids[3 * rank] === left && this.#ids[3 * rank + 1] === right)) return slot;
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
