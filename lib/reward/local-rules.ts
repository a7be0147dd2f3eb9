/** What makes an answer that holds the right words a wrong one. Each rule is a matter of language, and tested alone. */

import { unitOf } from './language/amounts.js';
import { ABSENCES, BOUNDS, isFunctionWord, NEGATIONS, TITLES } from './language/function-words.js';
import type { Word } from './language/words.js';

/** A prediction beside the answer it is compared with. */
export interface Examined {
  readonly answer: readonly Word[];
  readonly asked: readonly Word[];
  readonly text: readonly Word[];
  readonly prediction: string;
  /** Positions of the answer's words that count. */
  readonly content: readonly number[];
  /** For every word of the answer, where the text says it. */
  readonly found: readonly (readonly number[])[];
}

const RULES = { refused, denied, unbounded, amongOthers, otherAmount, namesake };
export type LocalRule = keyof typeof RULES;

/** The rule by which the prediction takes the answer back, if any. */
export function takenBack(examined: Examined): LocalRule | undefined {
  return (Object.keys(RULES) as LocalRule[]).find((name) => RULES[name](examined));
}

const REFUSAL =
  /\b(?:misunderstanding|no information|(?:do|does) not know|don['’]t know|not sure|unable to (?:answer|find|provide|determine)|cannot (?:answer|determine|provide)|(?:question|premise|assumption)(?: \w+){0,6} (?:error|incorrect|inaccurate|mistaken|misleading|referring))\b/i;

/** "There seems to be a misunderstanding", "I do not know": whatever names follow are not given as the answer. */
function refused({ prediction }: Examined): boolean {
  return REFUSAL.test(prediction);
}

/**
 * "not Paris", "Lyon rather than Paris": every mention of some word of the answer stands behind a negation in its
 * clause. Where question or answer are negative themselves ("which is not…", "a lack of…") a negation may be right.
 */
function denied({ answer, asked, text, content, found }: Examined): boolean {
  const negative = ({ text: word }: Word) => NEGATIONS.has(word) || ABSENCES.has(word);
  if (asked.some(negative) || answer.some(negative)) return false;
  const exclusive = answer.some(({ text: word }) => word === 'only');
  const cue = new Map<number, number>();
  text.forEach(({ clause }, i) => {
    if (!cue.has(clause) && isCue(text, i, exclusive)) cue.set(clause, i);
  });
  const behindCue = (i: number) => i > (cue.get(text[i]!.clause) ?? Number.POSITIVE_INFINITY);
  return content.some((k) => found[k]!.length > 0 && found[k]!.every(behindCue));
}

function isCue(text: readonly Word[], i: number, exclusive: boolean): boolean {
  const next = text[i + 1]?.text;
  const word = text[i]!.text;
  // "not only X" affirms X, unless the answer is "only X".
  if (NEGATIONS.has(word)) return exclusive || !(next === 'only' || next === 'just' || next === 'merely');
  return (
    (next === 'than' && (word === 'rather' || word === 'other')) || (next === 'of' && word === 'instead')
  );
}

/** "after 1587" is not said by "in 1587"; another bound or an estimate will do. */
function unbounded({ answer, text, content, found }: Examined): boolean {
  return content.some((k) => {
    if (answer[k]!.value === undefined || found[k]!.length === 0) return false;
    if (!BOUNDS.has(answer[k - 1]?.text ?? '')) return false;
    return !found[k]!.some((i) => BOUNDS.has(text[i - 1]?.text ?? ''));
  });
}

/**
 * "Swedes, Danes, Germans and Russians" for "Danes and Germans": of the names that are listed together with a right
 * one, fewer than two thirds are right, the same share that must be found. Names of the question do not count.
 */
function amongOthers({ answer, asked, text, content, found }: Examined): boolean {
  const known = new Set(asked.map(({ stem }) => stem));
  const right = new Set(content.filter((k) => isName(answer[k]!)).flatMap((k) => found[k]!));
  if (right.size === 0) return false;
  let best = 0;
  let listed = false;
  for (const items of nameLists(text)) {
    const hits = items.filter((item) => item.some((i) => right.has(i))).length;
    if (hits === 0) continue;
    listed = true;
    const others = items.filter(
      (item) => !item.some((i) => right.has(i)) && item.some((i) => !known.has(text[i]!.stem)),
    ).length;
    best = Math.max(best, hits / (hits + others));
  }
  return listed && best < 2 / 3;
}

function isName(word: Word): boolean {
  return word.capital || (word.digits && word.value === undefined);
}

/** Lists of names joined by commas and "and" or "or"; each item is the positions of its words. */
function* nameLists(text: readonly Word[]): Generator<number[][]> {
  for (let i = 0; i < text.length; ) {
    const items: number[][] = [];
    let item: number[] = [];
    let joined = false;
    let j = i;
    for (; j < text.length; j++) {
      const word = text[j]!;
      if (j > i && !/^[,–-]?$/.test(word.before)) break;
      const joins = word.text === 'and' || word.text === 'or';
      if ((joins || word.before === ',') && item.length > 0) {
        items.push(item);
        item = [];
      }
      if (joins && items.length > 0) joined = true;
      else if (isName(word)) item.push(j);
      else if (!isFunctionWord(word.text) || item.length > 0) break;
    }
    if (item.length > 0) items.push(item);
    if (joined && items.length > 1) yield items;
    i = Math.max(j, i + 1);
  }
}

/** "240 billion euros (130 in loans and 110 …)" for 110: the first amount of the answer's unit is what it asserts. */
function otherAmount({ answer, asked, text, content, found }: Examined): boolean {
  const known = new Set(asked.map(({ stem }) => stem));
  const first = new Map<string, number>();
  text.forEach((word, i) => {
    const unit = unitOf(text, i);
    if (unit !== undefined && !first.has(unit) && !known.has(word.stem)) first.set(unit, i);
  });
  return content.some((k) => {
    const asserted = first.get(unitOf(answer, k) ?? '');
    return asserted !== undefined && found[k]!.length > 0 && !found[k]!.includes(asserted);
  });
}

/** "Hillary Clinton" for "Bill Clinton", where the surname alone would do: each mention has another first name. */
function namesake({ answer, text, content, found }: Examined): boolean {
  const k = content[0]!;
  if (content.length !== 1 || !answer[k]!.capital || !answer[k - 1]?.capital) return false;
  const given = new Set(answer.slice(0, k).map(({ text: word }) => word));
  return found[k]!.every((i) => {
    const before = text[i - 1];
    if (!before?.capital || text[i]!.before !== '' || isFunctionWord(before.text)) return false;
    return !given.has(before.text) && !TITLES.has(before.text) && before.text.length > 1;
  });
}
