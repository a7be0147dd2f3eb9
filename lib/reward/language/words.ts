/** Text as a list of words that can be compared: folded, stemmed, numbers read, with the clause each stands in. */
import { stemmer } from 'stemmer';
import { digitsValue, romanValue, scaleOf, smallNumber } from './numbers.js';

export interface Word {
  /** Lower case, without accents, dots and apostrophes. */
  readonly text: string;
  /** Porter's stem; for a number `#` and its value, so that "17" and "seventeen" are one. */
  readonly stem: string;
  readonly value?: number;
  /** Written with a capital. */
  readonly capital: boolean;
  /** Written in capitals only, at least two: ECB, U.S. */
  readonly acronym: boolean;
  /** Written in digits, not in letters. */
  readonly digits: boolean;
  /** Clauses are counted from 0; punctuation ends one. */
  readonly clause: number;
  /** Sentences, likewise. */
  readonly sentence: number;
  /** The punctuation right before it, '' for none. */
  readonly before: string;
}

/** Porter's rules are for words; a longer run of letters is data. */
const LONGEST_WORD = 40;

/** A whole text that is no longer may be an acronym itself. */
const LONGEST_ACRONYM = 8;

const PLAIN = { capital: false, acronym: false, digits: false };

const SYMBOLS = new Map([
  ['%', 'percent'],
  ['$', 'dollar'],
  ['€', 'euro'],
  ['£', 'pound'],
  ['¥', 'yen'],
  ['°', 'degree'],
  ['&', 'and'],
]);

/**
 * One token a match: initials with dots (U.S.), digits with separators and ending (9,430; 2.1; 13th), a word with
 * apostrophes, a symbol, or punctuation. No alternative can match in two ways, so the time is linear; repetitions are
 * bounded, so that the matcher's stack stays small.
 */
const TOKEN =
  /(?:\p{L}\.){2,12}|\d{1,99}(?:[.,]\d{1,99}){0,12}\p{L}{0,6}|[\p{L}\p{M}\d]{1,99}(?:['’][\p{L}\p{M}]{1,99}){0,3}|[%$€£¥°&]|[.!?;:,()\n—"“”–-]/gu;

/** Stem of one lower-case word. */
export function stemOf(word: string): string {
  return word.length > LONGEST_WORD ? word : stemmer(word);
}

/** Lower case, accents off, British and typographic variants of apostrophes and dots out. */
function fold(token: string): string {
  return token
    .normalize('NFKD')
    .replace(/\p{M}/gu, '')
    .toLowerCase()
    .replace(/['’]s$/, '')
    .replace(/[.'’]/g, '');
}

export function readWords(text: string): Word[] {
  const words: Word[] = [];
  let clause = 0;
  let sentence = 0;
  let before = '';
  // A text in capitals only says nothing about its words.
  const mixed = /\p{Ll}/u.test(text) || text.length <= LONGEST_ACRONYM;
  for (const { 0: token, index } of text.matchAll(TOKEN)) {
    if (/^[.!?;:,()\n—"“”–-]$/.test(token)) {
      before = token;
      // A hyphen joins: well-known, 1750–1840.
      if (token === '-' || token === '–') continue;
      clause++;
      if (/[.!?\n]/.test(token)) sentence++;
      continue;
    }
    const at = { clause, sentence, before };
    before = '';
    const symbol = SYMBOLS.get(token);
    if (symbol) {
      words.push({ text: symbol, stem: symbol, ...PLAIN, ...at });
      continue;
    }
    const digits = /^\d/.test(token);
    // A minus stands right before its number, and behind nothing: "1750-1840" has none.
    const minus = digits && /(?:^|\s)[-−]$/.test(text.slice(Math.max(0, index - 2), index));
    const size = digits ? digitsValue(token.toLowerCase()) : romanValue(token);
    const value = minus && size !== undefined ? -size : size;
    if (value !== undefined) {
      words.push({ text: token.toLowerCase(), stem: `#${value}`, value, ...PLAIN, digits: true, ...at });
      continue;
    }
    const folded = fold(token);
    if (folded === '') continue;
    const capital = /^\p{Lu}/u.test(token);
    const acronym = mixed && /^(?:\p{Lu}\.?){2,}$/u.test(token);
    words.push({ text: folded, stem: stemOf(folded), capital, acronym, digits, ...at });
  }
  return joinNumbers(words);
}

/** "two hundred thousand" and "45 billion" become one number, "two or three" stay two. */
function joinNumbers(words: readonly Word[]): Word[] {
  const joined: Word[] = [];
  for (let i = 0; i < words.length; ) {
    const { value, length } = numberAt(words, i);
    const word = words[i]!;
    joined.push(length === 0 ? word : { ...word, stem: `#${value}`, value, capital: false });
    i += Math.max(length, 1);
  }
  return joined;
}

/** Whether a word is a number in letters below `step`, as a part of a larger one is. */
function partOf(word: Word | undefined, step: number): boolean {
  const part = word && word.value === undefined ? smallNumber(word.text) : undefined;
  return part !== undefined && part > 0 && part < step && Number.isFinite(step) && step >= 100;
}

/** The number that begins at a word, and how many words it takes (0: none). */
function numberAt(words: readonly Word[], start: number): { value: number; length: number } {
  let total = 0;
  let group: number | undefined;
  let step = Number.POSITIVE_INFINITY; // what a further part must be smaller than
  let i = start;
  for (; i < words.length && words[i]!.clause === words[start]!.clause; i++) {
    const { text, value } = words[i]!;
    const part =
      value ??
      smallNumber(text) ??
      (text === 'a' && i + 1 < words.length ? articleBefore(words[i + 1]!) : undefined);
    const scale = value === undefined ? scaleOf(text) : undefined;
    if (part !== undefined) {
      if (!(part < step) || (group !== undefined && part === 0)) break;
      group = (group ?? 0) + part;
      // Behind "twenty" only a digit may follow, behind "two hundred" anything below it; digits end a group.
      step = value === undefined && part >= 20 && part % 10 === 0 ? 10 : 0;
    } else if (scale !== undefined && group !== undefined && group > 0) {
      if (scale === 100) group *= 100;
      else {
        total += group * scale;
        group = undefined;
      }
      step = scale;
    } else if (text === 'and' && partOf(words[i + 1], step) && (total > 0 || group !== undefined)) {
      // "One hundred and fifty": one number, as what follows is a smaller part of it.
    } else break;
  }
  return { value: total + (group ?? 0), length: i - start };
}

function articleBefore(word: Word): number | undefined {
  return scaleOf(word.text) === undefined ? undefined : 1;
}
