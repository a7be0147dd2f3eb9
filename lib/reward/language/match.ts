/** Which words of a text say the same as which words of an answer. Time is linear in both. */
import { isYear, yearInCentury } from './amounts.js';
import { isFunctionWord } from './function-words.js';
import type { Word } from './words.js';

/** Endings that derive one word from another and that Porter's rules leave on: vend(or), Egypt(ian), Japan(es[e]). */
const ENDINGS = new Set(
  'er or ist ism ian an n es ish ic al i ary ari ment ness ship hood ful less iv ou ion ant ent anc enc age ag'.split(
    ' ',
  ),
);
const LONGEST_ENDING = 4;
/** What is left of a word without its ending must be a word still: "or" is no ending of "for". */
const SHORTEST_PREFIX = 4;
/** Words this long are recognised with one letter wrong; among shorter ones that would be another word. */
const SHORTEST_MISSPELT = 6;
/** Longer words are data, for which no spelling is tried. */
const LONGEST_MISSPELT = 30;
/** A key that stands for more words of an answer than this tells none of them; it keeps the time linear. */
const MOST_OF_A_KEY = 64;
const SHORTEST_ACRONYM = 2;
const LONGEST_ACRONYM = 6;
/** A rounded number may differ from the exact one by this share: 9,400 for 9,430, about 2 % for 2.1 %. */
const ROUNDING = 0.05;

/**
 * For every word of the answer, the positions in the text that say it, in order. Of equal words of the answer only the
 * first is looked for.
 */
export function findWords(answer: readonly Word[], text: readonly Word[]): number[][] {
  const found = answer.map((): number[] => []);
  const index = new AnswerIndex(answer);
  for (let i = 0; i < text.length; i++) {
    for (const k of index.at(text, i)) {
      const positions = found[k]!;
      if (positions[positions.length - 1] !== i) positions.push(i);
    }
  }
  return found;
}

class AnswerIndex {
  readonly #byStem = new Map<string, number[]>();
  readonly #byText = new Map<string, number[]>();
  readonly #byPrefix = new Map<string, number[]>();
  readonly #byMisspelling = new Map<string, number[]>();
  readonly #byInitials = new Map<string, number[]>();
  readonly #numbers: number[] = [];
  readonly #known = new Map<string, readonly number[]>();
  #acronyms = false;

  constructor(readonly answer: readonly Word[]) {
    answer.forEach((word, k) => {
      // A word that comes again is found where it came first.
      if (this.#byStem.has(word.stem)) return;
      add(this.#byStem, word.stem, k);
      if (word.value !== undefined) {
        if (this.#numbers.length < MOST_OF_A_KEY) this.#numbers.push(k);
        return;
      }
      this.#acronyms ||= word.acronym;
      add(this.#byText, word.text, k);
      for (const prefix of prefixes(word.stem)) add(this.#byPrefix, prefix, k);
      for (const spelling of spellings(word.text)) add(this.#byMisspelling, spelling, k);
      // "data base" for "database".
      const next = answer[k + 1];
      if (next && next.value === undefined) add(this.#byText, word.text + next.text, k, k + 1);
      for (const { letters, end } of initialsFrom(answer, k)) {
        for (let inside = k; inside < end; inside++) add(this.#byInitials, letters, inside);
      }
    });
  }

  /** Words of the answer that the text says at a position; some may come twice. */
  *at(text: readonly Word[], i: number): Generator<number> {
    const word = text[i]!;
    if (word.value !== undefined) {
      yield* this.#byStem.get(word.stem) ?? [];
      for (const k of this.#numbers) if (sameNumber(this.answer, k, text, i)) yield k;
      return;
    }
    yield* this.#alone(word);
    const next = text[i + 1];
    if (next && next.value === undefined) yield* this.#byText.get(word.text + next.text) ?? [];
    if (word.acronym) yield* this.#byInitials.get(word.text) ?? [];
    if (!this.#acronyms) return;
    for (const { letters } of initialsFrom(text, i)) {
      for (const k of this.#byText.get(letters) ?? []) if (this.answer[k]!.acronym) yield k;
    }
  }

  /** Words of the answer that a word says by itself; found once for each word. */
  #alone(word: Word): readonly number[] {
    const known = this.#known.get(word.text);
    if (known) return known;
    // Of two stems one must begin the other; two that merely begin alike are two words.
    const all = [
      ...(this.#byStem.get(word.stem) ?? []),
      ...(this.#byText.get(word.text) ?? []),
      ...(this.#byPrefix.get(word.stem) ?? []),
      ...prefixes(word.stem).flatMap((prefix) => this.#byStem.get(prefix) ?? []),
      ...spellings(word.text)
        .flatMap((spelling) => this.#byMisspelling.get(spelling) ?? [])
        .filter((k) => nearlySame(this.answer[k]!.text, word.text)),
    ];
    this.#known.set(word.text, all);
    return all;
  }
}

function add(index: Map<string, number[]>, key: string, ...values: number[]): void {
  const list = index.get(key);
  if (list === undefined) index.set(key, values);
  else if (list.length < MOST_OF_A_KEY) list.push(...values);
}

/** What is left of a stem without an ending. */
function prefixes(stem: string): string[] {
  const shortest = Math.max(SHORTEST_PREFIX, stem.length - LONGEST_ENDING);
  const all: string[] = [];
  for (let length = stem.length - 1; length >= shortest; length--) {
    if (ENDINGS.has(stem.slice(length))) all.push(stem.slice(0, length));
  }
  return all;
}

/** The word and all that is left of it without one letter: two words one typing error apart share one of these. */
function spellings(word: string): string[] {
  if (word.length < SHORTEST_MISSPELT || word.length > LONGEST_MISSPELT) return [];
  const all = [word];
  // The first letter is seldom wrong, and tells many words apart.
  for (let i = 1; i < word.length; i++) all.push(word.slice(0, i) + word.slice(i + 1));
  return all;
}

/** One letter more, less or other, or two neighbours swapped. */
function nearlySame(left: string, right: string): boolean {
  let start = 0;
  while (start < left.length && left[start] === right[start]) start++;
  let a = left.length;
  let b = right.length;
  while (a > start && b > start && left[a - 1] === right[b - 1]) {
    a--;
    b--;
  }
  if (a - start <= 1 && b - start <= 1) return true;
  const swapped = left[start] === right[start + 1] && left[start + 1] === right[start];
  return a - start === 2 && b - start === 2 && swapped;
}

/** Initials of the names that begin at a word: "European Central Bank" gives ec and ecb; "Bank of England" be. */
function* initialsFrom(words: readonly Word[], start: number): Generator<{ letters: string; end: number }> {
  const first = words[start]!;
  if (!first.capital || first.acronym) return;
  let letters = first.text[0]!;
  for (let i = start + 1; i < words.length && letters.length < LONGEST_ACRONYM; i++) {
    const word = words[i]!;
    if (word.before !== '' && word.before !== '-') return;
    if (isFunctionWord(word.text) && !word.capital) continue;
    if (!word.capital) return;
    letters += word.text[0]!;
    if (letters.length >= SHORTEST_ACRONYM) yield { letters, end: i + 1 };
  }
}

/** Equal is found by stem; here: the year in the century, and rounding to the digits that are written. */
function sameNumber(answer: readonly Word[], k: number, text: readonly Word[], i: number): boolean {
  const expected = answer[k]!.value!;
  const given = text[i]!.value!;
  if (yearInCentury(answer, k, text[i]!)) return true;
  if (isYear(answer[k]!) || Math.abs(expected - given) > ROUNDING * Math.abs(expected)) return false;
  // One end of "1–2 %" is not a rounded 2.1 %.
  if (isHyphen(text[i]!) || (text[i + 1] && isHyphen(text[i + 1]!))) return false;
  const digits = given.toExponential().replace(/e.*|\D/g, '').length;
  return Number(expected.toPrecision(digits)) === given;
}

function isHyphen({ before }: Word): boolean {
  return before === '-' || before === '–';
}
