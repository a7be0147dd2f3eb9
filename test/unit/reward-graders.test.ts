import { describe, expect, it } from 'vitest';
import { exact } from '../../lib/reward/exact.js';
import { f1 } from '../../lib/reward/f1.js';
import { normalizeAnswer } from '../../lib/reward/normalize.js';
import { recall } from '../../lib/reward/recall.js';

// Prediction, gold, and what a Python program with SQuAD's own normalisation gives: normalised prediction, F1, recall.
const CASES: [string, string, string, number, number][] = [
  ['The Age of Enlightenment.', 'Age of Enlightenment', 'age of enlightenment', 1, 1],
  [
    'It was the Age of Enlightenment, I think',
    'Age of Enlightenment',
    'it was age of enlightenment i think',
    0.6,
    1,
  ],
  ['', '', '', 1, 1],
  ['the', 'a', '', 1, 1],
  ['', 'Otrar', '', 0, 0],
  ['Otrar', '', 'otrar', 0, 0],
  ['1,024', '1024', '1024', 1, 1],
  ['well-known', 'well known', 'wellknown', 0, 0],
  ['Café an der Ría', 'café an der ria', 'café der ría', 2 / 3, 2 / 3],
  ['Theatre of the absurd', 'theatre absurd', 'theatre of absurd', 0.8, 1],
  ['a a a b', 'a b b', 'b', 2 / 3, 0.5],
  ['to be or not to be', 'to be to be to be', 'to be or not to be', 2 / 3, 2 / 3],
  ['naïve_approach x', 'naive approach x', 'naïveapproach x', 0.4, 1 / 3],
  ['An «answer»', '«answer»', '«answer»', 1, 1],
  ['U.S.A.', 'USA', 'usa', 1, 1],
  ['theanthem', 'anthem', 'theanthem', 0, 0],
  ['anthéan the', 'anthéan', 'anthéan', 1, 1],
  ['  spaced\t out\nanswer ', 'spaced out answer', 'spaced out answer', 1, 1],
  ['10–12', '10-12', '10–12', 0, 0],
  ['Straße', 'STRASSE', 'straße', 0, 0],
  ['数 の the 大', '数 大', '数 の 大', 0.8, 1],
  ["d'Artagnan", 'dArtagnan', 'dartagnan', 1, 1],
];

describe('graders', () => {
  it.each(CASES)('%j against %j', (prediction, gold, normalized, expectedF1, expectedRecall) => {
    expect(normalizeAnswer(prediction)).toBe(normalized);
    expect(f1(prediction, [gold])).toBeCloseTo(expectedF1, 12);
    expect(recall(prediction, [gold])).toBeCloseTo(expectedRecall, 12);
    expect(exact(prediction, [gold])).toBe(expectedF1 === 1 ? 1 : 0);
  });

  it('take the best of several gold answers', () => {
    expect(exact('Subutai', ['Jebe', 'Subutai'])).toBe(1);
    expect(f1('Subutai and Jebe', ['Subutai', 'Subutai and Jebe'])).toBe(1);
    expect(recall('they sent Jebe', ['Subutai', 'Jebe'])).toBe(1);
    expect(exact('Otrar', ['Jebe', 'Subutai'])).toBe(0);
  });

  it('is exact only for equal strings of words, in order', () => {
    expect(exact('b c', ['c b'])).toBe(0);
    expect(f1('b c', ['c b'])).toBe(1);
  });
});
