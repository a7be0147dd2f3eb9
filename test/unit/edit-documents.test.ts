import { describe, expect, it } from 'vitest';
import { bearsLoss, maskOfSpans, type Span, toTrainingRow } from '../../lib/edit/documents.js';
import { parseEdit } from '../../lib/edit/parse.js';
import { Tokenizer } from '../../lib/tokenizer/tokenizer.js';
import { fixture } from '../support/fixtures.js';

const tokenizer = await Tokenizer.fromFolder(fixture('tokenizer', 'tiny'));
/** The tokens that bear loss, each as text. */
function borne(text: string, spans: readonly Span[]): string[] {
  const { tokens, mask } = toTrainingRow(tokenizer, { text, spans });
  return Array.from(tokens, (token) => tokenizer.decode([token])).filter((_, index) => mask![index] === 1);
}

describe('tokens of a span', () => {
  const text = 'Question: Who built it?\nAnswer: Ada Thorne.';

  it('are those that share a character with it', () => {
    const start = text.indexOf('Ada');
    expect(borne(text, [[start, text.length]]).join('')).toBe(' Ada Thorne.');
    // From the middle of a word: the whole token that the character lies in.
    const middle = borne(text, [[start + 1, start + 2]]);
    expect(middle).toHaveLength(1);
    expect(middle[0]).toContain('d');
    expect(borne(text, [])).toEqual([]);
    expect(borne(text, [[4, 4]])).toEqual([]);
    expect(borne(text, [[0, text.length]]).join('')).toBe(text);
    // A token without a character shares none.
    expect(Array.from(maskOfSpans(Int32Array.of(0, 2, 2, 2, 2, 4), [[0, 4]]))).toEqual([1, 0, 1]);
  });

  it('of a character of several tokens are all of them', () => {
    const smile = 'a 😀 b';
    const { tokens, mask } = toTrainingRow(tokenizer, { text: smile, spans: [[2, 4]] });
    const own = Array.from(tokens).filter((_, index) => mask![index]);
    expect(own.length).toBeGreaterThan(1);
    expect(tokenizer.decode(own).trim()).toBe('😀');
  });

  it('agree with the plain definition on overlapping and unordered spans', () => {
    const { offsets } = tokenizer.encodeWithOffsets(text);
    const spans: Span[] = [
      [30, 34],
      [2, 20],
      [5, 7],
      [5, 7],
      [19, 19],
      [33, 40],
      [43, 43],
    ];
    const expected = Array.from({ length: offsets.length / 2 }, (_, token) => {
      const characters = Array.from(
        { length: offsets[2 * token + 1]! - offsets[2 * token]! },
        (_, i) => offsets[2 * token]! + i,
      );
      return characters.some((at) => spans.some(([from, to]) => at >= from && at < to)) ? 1 : 0;
    });
    expect([...maskOfSpans(offsets, spans)]).toEqual(expected);
    expect(expected).toContain(0);
  });

  it.each([[[[0, 99]]], [[[-1, 2]]], [[[3, 2]]], [[[0.5, 2]]], [[[Number.NaN, 2]]]])(
    '%j is refused',
    (spans) => {
      expect(() => toTrainingRow(tokenizer, { text, spans: spans as unknown as Span[] })).toThrow(
        expect.objectContaining({
          code: 'INPUT_INVALID',
          message: expect.stringMatching(/loss span .* 0 to 43/),
        }),
      );
    },
  );
});

describe('a mask by token', () => {
  it('is taken as it is, if it has an entry for every token', () => {
    const text = 'one two';
    const { length } = tokenizer.encode(text);
    const mask = Array.from({ length }, (_, index) => index % 2);
    expect([...toTrainingRow(tokenizer, { text, mask }).mask!]).toEqual(mask);
    expect(() => toTrainingRow(tokenizer, { text, mask: [1] })).toThrow(
      /has 1 entries; expected one for each/,
    );
    expect(() => toTrainingRow(tokenizer, { text, mask, spans: [] })).toThrow(/spans and a mask/);
  });

  it('tells a row in which nothing is learned', () => {
    const tokens = Int32Array.of(5, 6, 7);
    expect(bearsLoss({ tokens })).toBe(true);
    expect(bearsLoss({ tokens: tokens.subarray(0, 1) })).toBe(false);
    // The first token is never predicted.
    expect(bearsLoss({ tokens, mask: Uint8Array.of(1, 0, 0) })).toBe(false);
    expect(bearsLoss({ tokens, mask: Uint8Array.of(0, 0, 1) })).toBe(true);
  });
});

describe('the loss rule', () => {
  const passage = { title: 'Otrar', context: 'Otrar fell.' };
  const spansOf = (text: string, loss: 'output' | { after: string }, more = {}) =>
    parseEdit(text, passage, { loss, ...more }).documents.map((document) => {
      if (typeof document === 'string') return document;
      return document.spans!.map(([start, end]) => document.text.slice(start, end));
    });

  it('output: answers of questions, elsewhere all behind the title', () => {
    const text = 'Question 1: What fell?\nAnswer: Otrar,\nthe town.\nQuestion 2: When? Answer : 1220';
    expect(spansOf(text, 'output')).toEqual([['Otrar,\nthe town.'], ['1220'], ['Otrar fell.']]);
    expect(spansOf(text, 'output', { splitQuestions: false, splitLines: false, titlePrefix: false })).toEqual(
      [['Otrar,\nthe town.', '1220'], ['Otrar fell.']],
    );
    expect(spansOf('It was a town.', 'output')).toEqual([['It was a town.'], ['Otrar fell.']]);
    expect(spansOf('Question 1: Q?\nAnswer 1: A\nQuestion 2: R?\nAnswer 2: B', 'output')).toEqual([
      ['A'],
      ['B'],
      ['Otrar fell.'],
    ]);
    // A question that was cut off before its answer teaches nothing.
    expect(spansOf('Question 1: Q?\nAnswer: A\nQuestion 2: W', 'output')).toEqual([
      ['A'],
      [],
      ['Otrar fell.'],
    ]);
    expect(spansOf('Question 1: Q?\nAnswer: ', 'output')).toEqual([[], ['Otrar fell.']]);
  });

  it('after: what comes behind the first occurrence, or all', () => {
    expect(spansOf('It fell. It fell again.', { after: 'fell.' })).toEqual([[' It fell again.'], ['']]);
    expect(spansOf('It stood.', { after: 'fell.' })[0]).toBe('Otrar\nIt stood.');
  });

  it('gives self-qa documents whose answers alone are trained', () => {
    const { documents } = parseEdit('Question 1: Who built it?\nAnswer: Ada Thorne.', passage, {
      loss: 'output',
    });
    const { tokens, mask } = toTrainingRow(tokenizer, documents[0]!);
    const trained = Array.from(tokens).filter((_, index) => mask![index]);
    expect(tokenizer.decode(trained)).toBe(' Ada Thorne.');
  });
});
