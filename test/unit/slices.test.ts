/** Work in slices, JSON in parts, and the flat tables: the same results as all at once, and the event loop goes on. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { eachEntry, eachOf, JsonPart, parseInParts } from '../../lib/format/json-parts.js';
import { atOnce, every, inSlices, sortInSlices, type Work } from '../../lib/slices.js';
import { mergesFromScores } from '../../lib/tokenizer/sentencepiece.js';
import { Vocabulary } from '../../lib/tokenizer/vocabulary.js';
import { mergesOf } from './helpers/merges.js';

const RUNS = { numRuns: 200 };

describe('slices', () => {
  /** Counts as fast as it can, for about so many milliseconds. */
  function* busy(milliseconds: number): Work<number> {
    const end = performance.now() + milliseconds;
    let count = 0;
    const due = every(100);
    while (performance.now() < end) {
      count++;
      if (due()) yield;
    }
    return count;
  }
  /** How often a timer fires while the work goes on. */
  async function ticks(work: () => unknown): Promise<number> {
    let fired = 0;
    const timer = setInterval(() => fired++, 1);
    await work();
    clearInterval(timer);
    return fired;
  }

  it('let timers fire; all at once lets none', async () => {
    expect(await ticks(() => inSlices(busy(200)))).toBeGreaterThan(3);
    expect(await ticks(() => atOnce(busy(200)))).toBe(0);
  });

  it('stop at a signal, and between two slices only', async () => {
    const controller = new AbortController();
    setTimeout(() => controller.abort('enough'), 10);
    await expect(inSlices(busy(60_000), controller.signal)).rejects.toMatchObject({
      code: 'ABORTED',
      cause: 'enough',
    });
  });

  it('sort as sort does, stable', () => {
    fc.assert(
      fc.property(fc.array(fc.nat({ max: 50 }), { maxLength: 9000 }), (keys) => {
        const order = Int32Array.from(keys, (_, i) => i);
        atOnce(sortInSlices(order, (a, b) => keys[a]! > keys[b]!));
        const expected = keys.map((_, i) => i).sort((a, b) => keys[a]! - keys[b]!);
        expect([...order]).toEqual(expected);
      }),
      { numRuns: 20 },
    );
  });
});

describe('JSON in parts', () => {
  const fail = (error: unknown) => new Error(`not JSON: ${(error as Error).message}`);
  const paths = [
    ['model', 'vocab'],
    ['model', 'merges'],
  ];
  const parse = (text: string) => atOnce(parseInParts(Buffer.from(text), paths, fail));
  /** With parts read again. */
  function whole(value: unknown): unknown {
    if (value instanceof JsonPart && value.isList) {
      const all: unknown[] = [];
      atOnce(eachOf(value, (entry) => all.push(entry)));
      return all;
    }
    if (value instanceof JsonPart) {
      const all: [string, unknown][] = [];
      atOnce(eachEntry(value, (...entry) => all.push(entry)));
      return Object.fromEntries(all);
    }
    if (typeof value !== 'object' || value === null || Array.isArray(value)) return value;
    return Object.fromEntries(Object.entries(value).map(([key, entry]) => [key, whole(entry)]));
  }
  const key = fc.oneof(
    fc.string({ unit: 'binary' }),
    fc.constantFrom('"', '\\', '\\"', '}', '],', '{', ':', '\u{1f600}'),
  );
  /** A large vocabulary around whatever. */
  const large = fc.record({
    before: fc.jsonValue(),
    model: fc.record({
      vocab: fc.dictionary(key, fc.jsonValue({ maxDepth: 2 })),
      merges: fc.array(fc.tuple(key, key)),
      other: fc.jsonValue(),
    }),
    after: fc.array(fc.record({ model: fc.jsonValue(), vocab: fc.constant({ a: 1 }) })),
  });
  type Large = { model: { vocab: Record<string, unknown>; merges: unknown[] } };
  function grow(value: Large): Large {
    for (let i = 0; i < 6000; i++) value.model.vocab[`t"${i}\u00e9`] = i;
    for (let i = 0; i < 6000; i++) value.model.merges.push([`t${i}`, '\\u']);
    return value;
  }

  it('reads what JSON.parse reads, whatever stands around and within', () => {
    fc.assert(
      fc.property(large, fc.constantFrom(undefined, 1, '\t'), (given, indent) => {
        const text = JSON.stringify(grow(given as Large), null, indent);
        const found = parse(text) as Large;
        expect(found.model.vocab).toBeInstanceOf(JsonPart);
        expect(found.model.merges).toBeInstanceOf(JsonPart);
        expect(whole(found)).toEqual(JSON.parse(text));
      }),
      { numRuns: 20 },
    );
  });

  it('of a key that is there twice takes the later', () => {
    const { model } = grow({ model: { vocab: {}, merges: [] } });
    const text = JSON.stringify(model.vocab);
    for (const json of [
      `{"model": {"vocab": ${text}, "vocab": 1}}`,
      `{"model": {"vocab": 1, "vocab": ${text}}}`,
      `{"model": {"vocab": ${text}}, "model": 1}`,
      `{"model": 1, "model": {"vocab": ${text}}}`,
    ])
      expect(whole(parse(json))).toEqual(JSON.parse(json));
  });

  it('refuses what JSON.parse refuses, in its words', () => {
    const text = JSON.stringify(grow({ model: { vocab: {}, merges: [] } }));
    const messageOf = (action: () => unknown) => {
      try {
        action();
      } catch (error) {
        return (error as Error).message;
      }
      throw new Error('it was read');
    };
    const cut = fc.tuple(fc.nat({ max: text.length - 1 }), fc.constantFrom('', ',', '}', ']', '"', '{'));
    fc.assert(
      fc.property(cut, ([at, instead]) => {
        const damaged = text.slice(0, at) + instead + text.slice(at + 1);
        let expected: unknown;
        try {
          expected = JSON.parse(damaged);
        } catch (error) {
          expect(messageOf(() => whole(parse(damaged)))).toBe(fail(error).message);
          return;
        }
        expect(whole(parse(damaged))).toEqual(expected);
      }),
      { numRuns: 60, examples: [[[0, '}']], [[0, ']']], [[text.length - 1, '']]] },
    );
    const { vocab, merges } = grow({ model: { vocab: {}, merges: [] } }).model;
    for (const [key, value] of Object.entries({ vocab, merges })) {
      const good = JSON.stringify(value);
      const end = good.at(-1);
      for (const bad of [
        `${good.slice(0, -1)},${end}`,
        `${good[0]},${good.slice(1)}`,
        `${good.slice(0, -1)},,${end}`,
      ])
        expect(() => whole(parse(`{"model": {"${key}": ${bad}}}`))).toThrow(/^not JSON: /);
    }
  });
});

describe('a vocabulary', () => {
  const token = fc.string({ unit: 'binary', maxLength: 6 });

  it('knows ids and tokens as a map does', () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(token, fc.nat({ max: 3000 })), { maxLength: 1200 }),
        token,
        (entries, other) => {
          const vocabulary = new Vocabulary();
          const ids = new Map<string, number>();
          for (const [text, id] of entries) {
            vocabulary.set(text, id);
            ids.set(text, id);
          }
          expect(vocabulary.size).toBe(ids.size);
          expect([...vocabulary]).toEqual([...ids]);
          for (const [text, id] of ids) expect(vocabulary.get(text)).toBe(id);
          expect(vocabulary.get(other)).toBe(ids.get(other));
          const isShared = new Set(ids.values()).size < ids.size;
          expect(vocabulary.ids < vocabulary.size).toBe(isShared);
          expect(vocabulary.shared() !== undefined).toBe(isShared);
          if (!isShared) for (const [text, id] of ids) expect(vocabulary.token(id)).toBe(text);
          expect(vocabulary.token(3001)).toBeUndefined();
          expect(vocabulary.length).toBe(Math.max(-1, ...ids.values()) + 1);
        },
      ),
      {
        ...RUNS,
        examples: [
          // One of two that share an id gets another; and the one with the largest a smaller.
          [[...'ab'].map((text): [string, number] => [text, 1]).concat([['b', 2]]), ''],
          [[...'ab'].map((text): [string, number] => [text, 1]).concat([['a', 2]]), ''],
          [
            [
              ['a', 9],
              ['a', 3],
            ],
            'a',
          ],
        ],
      },
    );
  });

  it('keeps halves of surrogate pairs apart, and long tokens whole', () => {
    const tokens = ['\ud83d', '\ude00', '\ud83d\ude00', '\ufffd', '', 'x'.repeat(10_000)];
    const vocabulary = Vocabulary.from(Object.fromEntries(tokens.map((text, id) => [text, id])));
    expect(tokens.map((text) => vocabulary.get(text))).toEqual(tokens.map((_, id) => id));
    expect(tokens.map((_, id) => vocabulary.token(id))).toEqual(tokens);
  });
});

describe('merges from scores', () => {
  it('are those of the simple way, for equal scores too', () => {
    const piece = fc.string({
      unit: fc.constantFrom('a', 'b', '\u{1f600}', '\u2581'),
      minLength: 1,
      maxLength: 5,
    });
    fc.assert(
      fc.property(
        fc.uniqueArray(piece, { minLength: 2, maxLength: 120 }),
        fc.nat({ max: 40 }),
        (pieces, levels) => {
          const scores = Float64Array.from(pieces, (_, i) => -((i * 7) % (levels + 1)));
          const vocabulary = Vocabulary.from(Object.fromEntries(pieces.map((text, id) => [text, id])));
          const found = atOnce(mergesFromScores(vocabulary, scores));
          const expected = mergesOf(pieces, (text) => scores[pieces.indexOf(text)]!);
          const texts = Array.from({ length: found.length }, (_, i) => found.at(i));
          expect(texts.map(([left, right]) => [pieces[left], pieces[right]])).toEqual(expected);
          for (const [left, right, merged] of texts)
            expect(pieces[left]! + pieces[right]!).toBe(pieces[merged]);
        },
      ),
      RUNS,
    );
  });
});
