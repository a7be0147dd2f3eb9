/** The contexts of rounds, cut from one endless stream. */
import { deriveKey, permutation } from '../random.js';

/**
 * @internal Items of a round: every pass over them is in a fresh order, drawn by (seed, purpose, pass). A round has `count` of them, or
 * all where there are fewer; one that spans two passes may have an item twice.
 */
export function passesOver<T>(
  items: readonly T[],
  seed: number | bigint,
  purpose: string,
): (round: number, count: number) => T[] {
  return (round, count) => {
    const each = Math.min(count, items.length);
    const orders = new Map<number, Int32Array>();
    return Array.from({ length: each }, (_, index) => {
      const position = round * each + index;
      const pass = Math.floor(position / items.length);
      const order = orders.get(pass) ?? permutation(deriveKey(seed, purpose, [pass]), items.length);
      orders.set(pass, order);
      return items[order[position % items.length]!]!;
    });
  };
}
