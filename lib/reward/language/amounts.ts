/** Numbers in their places: years, centuries, amounts with a unit. */
import type { Word } from './words.js';

/** What a currency or percent sign is read as. */
const UNITS = new Set(['percent', 'euro', 'dollar', 'pound', 'yen']);
const CENTURY = 'centuri';

/** Whether a number is written as a year is: three or four digits without separators. */
export function isYear(word: Word): boolean {
  return word.value !== undefined && /^\d{3,4}s?$/.test(word.text) && word.value >= 100 && word.value <= 2100;
}

/** Whether a year lies in the century that a number names: 1566 in the 16th. */
export function yearInCentury(words: readonly Word[], k: number, year: Word): boolean {
  if (words[k + 1]?.stem !== CENTURY || !isYear(year)) return false;
  return Math.floor((year.value! - 1) / 100) + 1 === words[k]!.value;
}

/** The currency or percent sign beside a number. */
export function unitOf(words: readonly Word[], k: number): string | undefined {
  if (words[k]!.value === undefined || isYear(words[k]!)) return undefined;
  return [words[k - 1], words[k + 1]].find((word) => word && UNITS.has(word.stem))?.stem;
}

/** Whether a word only says what the number beside it counts: a sign, or "century". */
export function isUnit(words: readonly Word[], k: number): boolean {
  const word = words[k]!;
  if (word.stem === CENTURY) return words[k - 1]?.value !== undefined;
  const beside = words[k - 1]?.value !== undefined || words[k + 1]?.value !== undefined;
  return beside && UNITS.has(word.stem);
}

/** Whether a question asks for a number or a date, so that these alone decide. */
export function asksForNumber(question: readonly Word[]): boolean {
  return question.some(({ text, stem }, k) => {
    const before = question[k - 1]?.text;
    if (text === 'when' || stem === 'percentag') return true;
    if (before === 'how')
      return ['many', 'much', 'long', 'old', 'far', 'high', 'tall', 'large', 'big'].includes(text);
    return (
      (before === 'what' || before === 'which') &&
      ['year', 'date', 'amount', 'number', 'century', 'decade'].includes(text)
    );
  });
}
