/** The local grader: rule by rule on examples made for it, and as a whole against recorded verdicts. */
import { describe, expect, it } from 'vitest';
import { readWords } from '../../lib/reward/language/words.js';
import { LOCAL_RIGHT, local, localGrader } from '../../lib/reward/local.js';
import { MEASURES } from '../../lib/reward/measure.js';
import { sharedData, sharedJson } from './helpers/shared-data.js';

const right = (prediction: string, gold: string, question = '') =>
  local(prediction, [gold], question) >= LOCAL_RIGHT;

describe('numbers', () => {
  it.each([
    ['seventeen', 17],
    ['twenty-one', 21],
    ['two hundred thousand', 200_000],
    ['two million three hundred thousand', 2_300_000],
    ['one hundred twenty three', 123],
    ['one hundred and fifty', 150],
    ['two thousand and five', 2005],
    ['-5', -5],
    ['a million', 1e6],
    ['45 billion', 45e9],
    ['45bn', 45e9],
    ['9,430', 9430],
    ['2.1', 2.1],
    ['13th', 13],
    ['thirteenth', 13],
    ['1950s', 1950],
    ['XIV', 14],
  ])('%s is %d', (text, value) => {
    expect(readWords(text).map((word) => word.value)).toEqual([value]);
  });

  it.each([
    ['one or two', [1, 2]],
    ['in 1995 2000', [1995, 2000]],
    ['nineteen ninety', [19, 90]],
    ['twenty twenty', [20, 20]],
    ['three, four', [3, 4]],
    ['hundreds of men', []],
    ['1080p and 3G', []],
  ])('%s holds %j', (text, values) => {
    expect(readWords(text).flatMap(({ value }) => value ?? [])).toEqual(values);
  });
});

// Prediction, gold answer, question.
const SAME: Record<string, [string, string, string?][]> = {
  'content alone counts': [
    ['The ship sailed from the old harbour of Bergen.', 'from Bergen'],
    ['They weaved baskets.', 'weaving baskets', 'What did they do?'],
  ],
  'what the question says carries nothing': [
    ['It was the copper mine.', 'the copper mine of Falun', 'What closed in Falun?'],
  ],
  'numbers by value': [
    ['17 states signed', 'seventeen', 'How many states signed?'],
    ['It cost £2.5 million.', '2,500,000 pounds', 'How much did it cost?'],
    ['a sum of 45 billion euros', '€45 billion in emergency loans', 'How much was lent?'],
    ['in the Second World War', 'World War II'],
  ],
  'rounding and centuries': [
    ['about 9,400 tonnes', '9,430', 'How many tonnes?'],
    ['roughly 2% of it', '2.1%', 'What percentage?'],
    ['in 1566', 'the 16th century', 'When was it printed?'],
  ],
  'spelling and inflection': [
    ['It was Gothenberg harbour', 'Gothenburg harbour'],
    ['the Egyptian army', 'the army of Egypt'],
    ['a data base', 'database'],
    ['Café Müller', 'cafe Muller'],
    ['vending cloth', 'vendors of cloth'],
  ],
  initials: [
    ['the ECB', 'the European Central Bank'],
    ['the Bank of Northern England', 'BNE'],
    ['in the U.S.', 'the US'],
  ],
  'surnames, with titles': [
    ['Nordin', 'Greta Nordin', 'Who led it?'],
    ['Mayor Nordin led it', 'Greta Nordin', 'Who led it?'],
    ['G. Nordin', 'Greta Nordin', 'Who led it?'],
  ],
  'yes and no': [
    ['Yes, they do.', 'yes', 'Do whales sing?'],
    ['Whales sing every winter.', 'Yes', 'Do whales sing?'],
    ['Whales do not sing.', 'No', 'Do whales sing?'],
  ],
  'negative answers': [
    ['They do not have any roots or vessels.', 'lack of roots and vessels'],
    ['Not only Oslo but also Bergen', 'Oslo and Bergen'],
  ],
  'lists of the right ones': [
    ['Swedes, Danes and Finns', 'Swedes and Danes'],
    ['Oslo, Norway', 'Oslo'],
    ['Norway was first, followed by Chile and Peru.', 'Norway'],
  ],
};

const DIFFERENT: Record<string, [string, string, string?][]> = {
  'too little of it': [
    ['the harbour', 'Gothenburg harbour'],
    ['in the city', 'from Bergen'],
    ['', 'Bergen'],
  ],
  'only the question again': [
    ['The mine in Falun closed.', 'the copper mine of Falun', 'What closed in Falun?'],
  ],
  'another number': [
    ['18 states signed', 'seventeen', 'How many states signed?'],
    ['in 1567', '1566', 'When?'],
    ['in 1466', 'the 16th century', 'When was it printed?'],
    ['1–2% of it', '2.1%', 'What percentage?'],
    ['9,500 tonnes', '9,430', 'How many tonnes?'],
    ['May 2008', 'March 2008', 'When?'],
  ],
  'another word that begins alike': [
    ['on the internet', 'interest'],
    ['in Iran', 'Iraq'],
    ['in Austria', 'Australia'],
  ],
  'taken back': [
    ['It was not Bergen.', 'Bergen'],
    ['Oslo rather than Bergen was chosen.', 'Bergen'],
    ['Not just the first word, but all', 'only the first'],
  ],
  refused: [
    ['There seems to be a misunderstanding: Bergen is a city.', 'Bergen'],
    ["I don't know whether it was Bergen.", 'Bergen'],
    ['The question contains an error about Bergen.', 'Bergen'],
  ],
  'a bound that is gone': [['in 1587', 'after 1587', 'When?']],
  'one candidate among many': [
    ['Swedes, Danes, Germans and Russians', 'Danes'],
    ['Oslo or Bergen', 'Bergen'],
  ],
  'another amount first': [
    ['It got €240 billion (€130 billion in loans and €110 billion in aid).', '€110 billion', 'How much?'],
  ],
  'a namesake': [['Erik Nordin', 'Greta Nordin', 'Who led it?']],
  'yes for no': [
    ['No, they do not.', 'yes', 'Do whales sing?'],
    ['Whales do not sing.', 'yes', 'Do whales sing?'],
    ['Dolphins jump.', 'yes', 'Do whales sing?'],
  ],
};

describe('the same in other words', () => {
  for (const [rule, cases] of Object.entries(SAME)) {
    it.each(cases)(`${rule}: %j for %j`, (...[prediction, gold, question]) => {
      expect(right(prediction, gold, question)).toBe(true);
    });
  }
});

describe('something else', () => {
  for (const [rule, cases] of Object.entries(DIFFERENT)) {
    it.each(cases)(`${rule}: %j for %j`, (...[prediction, gold, question]) => {
      expect(right(prediction, gold, question)).toBe(false);
    });
  }

  // The rules above must be what decides: without the words that trip them the same answers are right.
  it.each([
    ['after 1587', 'after 1587', 'When?'],
    ['around 1587', 'after 1587', 'When?'],
    ['It was Bergen.', 'Bergen'],
    ['Danes', 'Danes'],
    ['€110 billion in aid', '€110 billion', 'How much?'],
  ] as [string, string, string?][])('but %j is right for %j', (...[prediction, gold, question]) => {
    expect(right(prediction, gold, question)).toBe(true);
  });
});

describe('local', () => {
  it('scores the share of the content, best over the answers', () => {
    expect(local('red and green', ['red, green, blue and black'], 'Which paints?')).toBe(0.5);
    expect(local('the red one', ['blue', 'red and green'], 'Which paints?')).toBe(0.5);
    expect(local('', [''])).toBe(1);
    expect(local('red', [''])).toBe(0);
    expect(local('red', [])).toBe(0);
  });

  it('grades rows as a grader', () => {
    const row = { title: '', question: 'How many?', answers: ['seventeen'] };
    const rows = ['17', '18'].map((prediction) => ({ ...row, prediction }));
    expect(localGrader.grade(rows)).toEqual([1, 0]);
    expect(MEASURES).toContain(localGrader.name);
  });

  // Work must grow with the length: measured in docs/grading.md. Here each only has to end; a pattern that backtracks
  // or a loop in a loop would not, and a pattern that recurs overflows the stack.
  it.each([
    ...['a', "a'", 'A.', '日本'].map((unit) => [unit, 1e6] as const),
    ...['1,', 'Ab and ', 'not ', 'two hundred ', 'asked ', '45% ', 'AB C '].map(
      (unit) => [unit, 1e5] as const,
    ),
  ])('ends for %j repeated', (unit, length) => {
    const long = unit.repeat(length / unit.length);
    expect(local(long, ['Danes and Germans of the ECB', '45%'], 'How many?')).toBeGreaterThanOrEqual(0);
    expect(local('Danes', [long], long)).toBe(0);
  });
});

it('reads numbers with millions of separators', () => {
  expect(readWords('1,'.repeat(4e6)).length).toBeGreaterThan(1e5);
});

interface Recording {
  articles: {
    title: string;
    completions: {
      questions: {
        question: string;
        answer: string;
        baseline_answer: string;
        adapter_answer: string;
        baseline_correct: boolean;
        adapter_correct: boolean;
      }[];
    }[];
  }[];
}

/** Cohen's κ from pairs of judgements, by the book: (observed − expected) / (1 − expected). */
function cohensKappa(pairs: readonly (readonly [boolean, boolean])[]): number {
  const n = pairs.length;
  const observed = pairs.filter(([left, right_]) => left === right_).length / n;
  const yes = [0, 1].map((side) => pairs.filter((pair) => pair[side]).length / n) as [number, number];
  const expected = yes[0] * yes[1] + (1 - yes[0]) * (1 - yes[1]);
  return (observed - expected) / (1 - expected);
}

describe("agreement with GPT-4.1's recorded verdicts", () => {
  const path = sharedData('seal/recorded_rewards.json');

  it('has the κ of a worked example: 20, 5, 10, 15 give 0.4', () => {
    const table: [boolean, boolean, number][] = [
      [true, true, 20],
      [true, false, 5],
      [false, true, 10],
      [false, false, 15],
    ];
    const pairs = table.flatMap(([left, right_, times]) =>
      Array.from({ length: times }, () => [left, right_] as const),
    );
    expect(cohensKappa(pairs)).toBeCloseTo(0.4, 12);
  });

  it('κ ≥ 0.70 over all answers, over the distinct ones, and on the passages not looked at', ({ skip }) => {
    if (!path) return skip('no ../shared/data/seal/recorded_rewards.json beside the repository');
    const all: (readonly [boolean, boolean])[] = [];
    const unseen: (readonly [boolean, boolean])[] = [];
    const distinct = new Map<string, readonly [boolean, boolean]>();
    for (const [index, article] of sharedJson<Recording>(path).articles.entries()) {
      for (const row of article.completions.flatMap(({ questions }) => questions)) {
        for (const [answer, verdict] of [
          [row.baseline_answer, row.baseline_correct],
          [row.adapter_answer, row.adapter_correct],
        ] as const) {
          const pair = [local(answer, [row.answer], row.question) >= LOCAL_RIGHT, verdict] as const;
          all.push(pair);
          if (index % 2 === 1) unseen.push(pair);
          distinct.set(JSON.stringify([index, row.question, answer]), pair);
        }
      }
    }
    expect([all.length, distinct.size]).toEqual([5460, 2638]);
    expect(cohensKappa(all)).toBeGreaterThanOrEqual(0.7);
    expect(cohensKappa([...distinct.values()])).toBeGreaterThanOrEqual(0.7);
    expect(cohensKappa(unseen)).toBeGreaterThanOrEqual(0.7);
  });
});
