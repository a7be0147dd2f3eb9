/**
 * A grader of free answers that needs no model: rules of English, none of them fitted to verdicts. docs/grading.md
 * says how far it agrees with GPT-4.1's.
 *
 *   score = share of the gold answer's content that the prediction says; 0 where the prediction takes it back
 *
 * Content is what the question has not said already: function words and the question's own words carry nothing. Words
 * are compared by stem, by value, by spelling and by initials (language/match.ts). What takes an answer back is in
 * local-rules.ts. Time is linear in the lengths.
 */

import type { Grader } from './grader.js';
import { asksForNumber, isUnit } from './language/amounts.js';
import { isAuxiliary, isFunctionWord, MONTHS, NEGATIONS } from './language/function-words.js';
import { findWords } from './language/match.js';
import { readWords, type Word } from './language/words.js';
import { takenBack } from './local-rules.js';
import { bestOf } from './normalize.js';

/**
 * From this score on an answer counts as right. Two thirds: of two words both must be there (a name without its
 * other half is another name), of three one may be missing (a title, a first name, an epithet).
 */
export const LOCAL_RIGHT = 2 / 3;

/** The grader of this name: `local` over rows. */
export const localGrader: Grader = {
  name: 'local',
  grade: (rows) => rows.map(({ prediction, answers, question }) => local(prediction, answers, question)),
};

/** Score of a prediction, best over the gold answers, in [0, 1]. The question is '' where it is not known. */
export function local(prediction: string, golds: readonly string[], question = ''): number {
  const asked = readWords(question);
  const text = readWords(prediction);
  return bestOf(golds, (gold) => scoreOf(gold, asked, prediction, text));
}

function scoreOf(gold: string, asked: readonly Word[], prediction: string, text: readonly Word[]): number {
  const answer = readWords(gold);
  if (answer.length === 0) return text.length === 0 ? 1 : 0;
  const verdict = isYesOrNo(answer, asked);
  if (verdict && polarity(text, asked) !== answer[0]!.text) return 0;
  const content = contentOf(verdict ? answer.slice(1) : answer, asked).map((k) => (verdict ? k + 1 : k));
  if (content.length === 0) return 1;
  const found = findWords(answer, text);
  const said = content.filter((k) => found[k]!.length > 0);
  if (said.length === 0 || takenBack({ answer, asked, text, prediction, content, found })) return 0;
  return said.length / content.length;
}

/** Positions of the words that make the answer. */
function contentOf(answer: readonly Word[], asked: readonly Word[]): number[] {
  const known = new Set(asked.map(({ stem }) => stem));
  const stems = new Set<string>();
  const all = [...answer.keys()].filter((k) => stems.size < stems.add(answer[k]!.stem).size);
  // "€45 billion in loans" where an amount is asked for: the amount is the answer, what stands beside it explains it.
  const numbers = all.filter((k) => answer[k]!.value !== undefined || MONTHS.has(answer[k]!.text));
  if (numbers.some((k) => answer[k]!.digits) && asksForNumber(asked)) return numbers;
  const lexical = all.filter((k) => answer[k]!.acronym || !isFunctionWord(answer[k]!.text));
  const plain = lexical.filter((k) => !isUnit(answer, k));
  const fresh = plain.filter((k) => !known.has(answer[k]!.stem));
  const content = [fresh, plain, lexical, all].find((list) => list.length > 0) ?? [];
  return isPerson(answer, content, asked) ? content.slice(-1) : content;
}

/** A surname is longer: what is left are numerals (George V) and initials. */
const SHORTEST_SURNAME = 3;

/**
 * Whether the answer to "who" is one full name: a person goes by the surname alone. A plural is a people ("Baltic
 * Germans"), and needs all its words.
 */
function isPerson(answer: readonly Word[], content: readonly number[], asked: readonly Word[]): boolean {
  if (content.length < 2 || !asked.some(({ text }) => WHO.has(text))) return false;
  const isName = (k: number, index: number) => {
    const { capital, acronym, before } = answer[k]!;
    return capital && !acronym && (index === 0 || (k === content[index - 1]! + 1 && before === ''));
  };
  const surname = answer[content.at(-1)!]!.text;
  return content.every(isName) && surname.length >= SHORTEST_SURNAME && !surname.endsWith('s');
}

const WHO = new Set(['who', 'whom', 'whose']);
const YES_OR_NO = new Set(['yes', 'no']);

/** Whether the question can be answered by yes or no, and the answer begins so. */
function isYesOrNo(answer: readonly Word[], asked: readonly Word[]): boolean {
  return YES_OR_NO.has(answer[0]!.text) && (asked.length === 0 || isAuxiliary(asked[0]!.text));
}

/**
 * What a text says to such a question: its first word; else no where its first sentence denies, yes where it states
 * most of the question's content as a fact.
 */
function polarity(text: readonly Word[], asked: readonly Word[]): string | undefined {
  const first = text[0];
  if (!first || YES_OR_NO.has(first.text)) return first?.text;
  const sentence = text.filter((word) => word.sentence === first.sentence);
  const content = asked.filter(({ text: word }) => !isFunctionWord(word));
  const stated = findWords(content, sentence).filter((places) => places.length > 0).length;
  if (stated < LOCAL_RIGHT * content.length || content.length === 0) return undefined;
  return sentence.some(({ text: word }) => NEGATIONS.has(word)) ? 'no' : 'yes';
}
