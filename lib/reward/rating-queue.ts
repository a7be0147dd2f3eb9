/** Which edits people are asked about next: those that least is known of, in a keyed order. */
import { deriveKey, permutation, uniform } from '../random.js';
import type { Preference } from './preference-file.js';

/** An edit that can be judged: its context's id and its text. */
export interface RatableEdit {
  readonly context: string;
  readonly text: string;
}

/** Two edits of one context, in the order in which they are shown. */
export interface RatablePair<E extends RatableEdit> {
  readonly a: E;
  readonly b: E;
}

interface Entry<E> {
  readonly edit: E;
  readonly index: number;
  readonly rank: number;
  comparisons: number;
  ratings: number;
  /** Edits that it was compared with, or that were passed over. */
  readonly met: Set<number>;
}

/**
 * What is left to ask about `edits` after `records`. Edits of one context with one text are one. Order and places are a function of
 * seed and edits alone, so that a session that was broken off goes on as it would have.
 */
export class RatingQueue<E extends RatableEdit> {
  readonly #seed: number | bigint;
  readonly #contexts = new Map<string, Entry<E>[]>();

  constructor(edits: readonly E[], records: readonly Preference[], seed: number | bigint) {
    this.#seed = seed;
    const order = permutation(deriveKey(seed, 'rating order'), edits.length);
    for (const [index, edit] of edits.entries()) {
      const own = this.#contexts.get(edit.context) ?? [];
      this.#contexts.set(edit.context, own);
      if (own.some((entry) => entry.edit.text === edit.text)) continue;
      own.push({ edit, index, rank: order[index]!, comparisons: 0, ratings: 0, met: new Set() });
    }
    for (const record of records) this.add(record);
  }

  /** Pairs of edits that have not met, and edits without a rating. */
  get left(): { readonly pairs: number; readonly edits: number } {
    let pairs = 0;
    let edits = 0;
    for (const own of this.#contexts.values()) {
      pairs += own.reduce((sum, { met }) => sum + own.length - 1 - met.size, 0) / 2;
      edits += own.filter(({ ratings }) => ratings === 0).length;
    }
    return { pairs, edits };
  }

  /** The edit with fewest comparisons that has an edit to meet, and the one with fewest of those. */
  nextPair(): RatablePair<E> | undefined {
    let best: Entry<E> | undefined;
    for (const own of this.#contexts.values()) {
      for (const entry of own) {
        if (entry.met.size < own.length - 1 && (!best || before(entry, best))) best = entry;
      }
    }
    if (!best) return undefined;
    const first = best;
    const partner = this.#contexts
      .get(first.edit.context)!
      .filter((entry) => entry !== first && !first.met.has(entry.index))
      .reduce((least, entry) => (before(entry, least) ? entry : least));
    const [low, high] = first.index < partner.index ? [first, partner] : [partner, first];
    const [draw] = uniform(deriveKey(this.#seed, 'rating place', [low.index, high.index]), 1);
    return draw! < 0.5 ? { a: low.edit, b: high.edit } : { a: high.edit, b: low.edit };
  }

  /** An edit without a rating. */
  nextEdit(): E | undefined {
    let best: Entry<E> | undefined;
    for (const own of this.#contexts.values()) {
      for (const entry of own) if (entry.ratings === 0 && (!best || entry.rank < best.rank)) best = entry;
    }
    return best?.edit;
  }

  /** Takes note of an answer. One about edits that are not there changes nothing. */
  add(record: Preference): void {
    if (record.kind === 'rating') {
      const entry = this.#find(record.context, record.edit);
      if (entry) entry.ratings++;
      return;
    }
    for (const entry of this.#meet(record.context, record.a, record.b)) entry.comparisons++;
  }

  /** Does not ask about a pair again. */
  skipPair({ a, b }: RatablePair<E>): void {
    this.#meet(a.context, a.text, b.text);
  }

  /** Does not ask about an edit again. */
  skipEdit({ context, text }: E): void {
    const entry = this.#find(context, text);
    if (entry) entry.ratings++;
  }

  #meet(context: string, a: string, b: string): Entry<E>[] {
    const left = this.#find(context, a);
    const right = this.#find(context, b);
    if (!left || !right) return [];
    left.met.add(right.index);
    right.met.add(left.index);
    return [left, right];
  }

  #find(context: string, text: string): Entry<E> | undefined {
    return this.#contexts.get(context)?.find((entry) => entry.edit.text === text);
  }
}

function before(
  left: { readonly comparisons: number; readonly rank: number },
  right: { readonly comparisons: number; readonly rank: number },
): boolean {
  return (
    left.comparisons < right.comparisons || (left.comparisons === right.comparisons && left.rank < right.rank)
  );
}
