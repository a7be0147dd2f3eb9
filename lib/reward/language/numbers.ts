/** Numbers as English writes them: digits, words, ordinals, scales, decades, Roman numerals. */

const SMALL =
  'zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen';
const TENS = 'twenty thirty forty fifty sixty seventy eighty ninety';
const SMALL_ORDINALS =
  'zeroth first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth';
const TEN_ORDINALS = 'twentieth thirtieth fortieth fiftieth sixtieth seventieth eightieth ninetieth';

const UNITS = new Map<string, number>([
  ...SMALL.split(' ').map((word, value) => [word, value] as const),
  ...TENS.split(' ').map((word, index) => [word, 20 + 10 * index] as const),
  ...SMALL_ORDINALS.split(' ').map((word, value) => [word, value] as const),
  ...TEN_ORDINALS.split(' ').map((word, index) => [word, 20 + 10 * index] as const),
]);

const SCALES = new Map<string, number>([
  ['hundred', 1e2],
  ['hundredth', 1e2],
  ['thousand', 1e3],
  ['thousandth', 1e3],
  ['million', 1e6],
  ['millionth', 1e6],
  ['billion', 1e9],
  ['billionth', 1e9],
  ['trillion', 1e12],
]);

/** Scales written right behind the digits: `45bn`, `3m`. */
const SUFFIXES = new Map<string, number>([
  ['k', 1e3],
  ['m', 1e6],
  ['mn', 1e6],
  ['bn', 1e9],
  ['tn', 1e12],
]);

/** Two letters or more: a lone I, V or X is as often a word or an initial. */
const ROMAN = new Map<string, number>(
  'II III IV VI VII VIII IX XI XII XIII XIV XV XVI XVII XVIII XIX XX XXI'
    .split(' ')
    .map((text, index) => [text, [2, 3, 4, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21][index]!]),
);

/** Value of a number word without its scale ("seventeen", "third"). */
export function smallNumber(word: string): number | undefined {
  return UNITS.get(word);
}

/** Value of a scale word ("million"). */
export function scaleOf(word: string): number | undefined {
  return SCALES.get(word);
}

/** Value of a token of digits, with ordinal ending, decade's s or scale; undefined where it is another kind of word. */
export function digitsValue(token: string): number | undefined {
  const parts = /^(\d{1,3}(?:,\d{3})+|\d{1,15})(\.\d{1,15})?(st|nd|rd|th|s|k|m|mn|bn|tn)?$/.exec(token);
  if (!parts) return undefined;
  const value = Number(parts[1]!.replaceAll(',', '') + (parts[2] ?? ''));
  return value * (SUFFIXES.get(parts[3] ?? '') ?? 1);
}

/** Value of a Roman numeral in capitals. */
export function romanValue(token: string): number | undefined {
  return ROMAN.get(token);
}
