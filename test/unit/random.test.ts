/** Keyed randomness against an independent Philox4x32-10 that gives the published answers. */
import { describe, expect, it } from 'vitest';
import { deriveKey, permutation, uniform } from '../../lib/index.js';
import { failureOf } from '../support/tiny.js';

const WORD = 0xffffffffn;

/** Philox4x32-10 (Salmon et al., SC'11) on words, low word first. */
function philox(counter: readonly bigint[], key: readonly bigint[]): bigint[] {
  let [c0, c1, c2, c3] = counter as [bigint, bigint, bigint, bigint];
  let [k0, k1] = key as [bigint, bigint];
  for (let round = 0; round < 10; round++) {
    const p0 = 0xd2511f53n * c0;
    const p1 = 0xcd9e8d57n * c2;
    [c0, c1, c2, c3] = [(p1 >> 32n) ^ c1 ^ k0, p1 & WORD, (p0 >> 32n) ^ c3 ^ k1, p0 & WORD];
    k0 = (k0 + 0x9e3779b9n) & WORD;
    k1 = (k1 + 0xbb67ae85n) & WORD;
  }
  return [c0, c1, c2, c3];
}

/** The draw of (key, position, lane) as a double in [0, 1) with 53 bits. */
function drawOf(key: bigint, position: number, lane: bigint): number {
  const [high, low] = philox([BigInt(position), 0n, lane, 0n], [key & WORD, key >> 32n]);
  return Number(((high! << 32n) | low!) >> 11n) / 2 ** 53;
}

const KEYS = [0n, 1n, 0x0123456789abcdefn, 2n ** 64n - 1n];

it('the reference gives the known answers of Random123', () => {
  const hex = (words: bigint[]) => words.map((word) => word.toString(16).padStart(8, '0')).join(' ');
  const all = (word: bigint, count: number) => Array.from({ length: count }, () => word);
  expect(hex(philox(all(0n, 4), all(0n, 2)))).toBe('6627e8d5 e169c58d bc57ac4c 9b00dbd8');
  expect(hex(philox(all(WORD, 4), all(WORD, 2)))).toBe('408f276d 41c83b0e a20bc7c6 6d5451fd');
  const pi = [0x243f6a88n, 0x85a308d3n, 0x13198a2en, 0x03707344n];
  expect(hex(philox(pi, [0xa4093822n, 0x299f31d0n]))).toBe('d16cfe09 94fdcceb 5001e420 24126ea1');
});

describe('uniform', () => {
  it.each(KEYS)('draws of key %i are those of Philox', (key) => {
    expect(Array.from(uniform(key, 50))).toEqual(Array.from({ length: 50 }, (_, i) => drawOf(key, i, 1n)));
  });

  it('is a pure function of key and position', () => {
    expect(Array.from(uniform(7n, 100).subarray(0, 10))).toEqual(Array.from(uniform(7n, 10)));
    expect(uniform(7n, 0).length).toBe(0);
  });
});

describe('permutation', () => {
  it.each(KEYS)('of key %i is the Fisher-Yates shuffle of its draws', (key) => {
    for (const n of [0, 1, 2, 17, 200]) {
      const expected = Array.from({ length: n }, (_, i) => i);
      for (let i = n - 1; i > 0; i--) {
        const j = Math.floor(drawOf(key, i, 0n) * (i + 1));
        [expected[i], expected[j]] = [expected[j]!, expected[i]!];
      }
      expect(Array.from(permutation(key, n))).toEqual(expected);
    }
  });
});

describe('deriveKey', () => {
  /** splitmix64's mixing of a running hash with the next word. */
  function mix(hash: bigint, word: bigint): bigint {
    const wrap = (value: bigint) => BigInt.asUintN(64, value);
    let z = hash ^ wrap(word + 0x9e3779b97f4a7c15n + wrap(hash << 6n) + (hash >> 2n));
    z = wrap((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n);
    z = wrap((z ^ (z >> 27n)) * 0x94d049bb133111ebn);
    return z ^ (z >> 31n);
  }
  function reference(seed: bigint, purpose: string, indices: number[]): bigint {
    const bytes = [...Buffer.from(purpose)];
    let hash = mix(0x5e1fed17n, seed);
    for (const byte of bytes) hash = mix(hash, BigInt(byte));
    hash = mix(hash, 0x100n + BigInt(bytes.length));
    for (const index of indices) hash = mix(hash, BigInt.asUintN(32, BigInt(index)));
    return mix(hash, BigInt(indices.length));
  }

  it('is the documented hash: a change of it would change every run', () => {
    for (const seed of [0n, 1n, 2n ** 63n]) {
      for (const purpose of ['', 'row', 'edit', 'größe']) {
        for (const indices of [[], [0], [1, 2, 3], [-1, 2 ** 31 - 1]]) {
          expect(deriveKey(seed, purpose, indices)).toBe(reference(seed, purpose, indices));
        }
      }
    }
  });

  it('gives different keys to different things', () => {
    const keys = new Set<bigint>();
    let made = 0;
    for (const seed of [0, 1, 2]) {
      for (const purpose of ['a', 'b', 'ab', '']) {
        for (const indices of [[], [0], [0, 0], [1], [0, 1], [1, 0], [-1]]) {
          keys.add(deriveKey(seed, purpose, indices));
          made++;
        }
      }
    }
    expect(keys.size).toBe(made);
  });

  it('takes numbers and bigints for the same seed, modulo 2^64', () => {
    expect(deriveKey(5, 'x')).toBe(deriveKey(5n, 'x'));
    expect(deriveKey(-1, 'x')).toBe(deriveKey(2n ** 64n - 1n, 'x'));
    expect(deriveKey(2n ** 64n + 5n, 'x')).toBe(deriveKey(5, 'x'));
  });
});

describe('refuses', () => {
  it.each<[string, () => unknown, string, RegExp]>([
    ['half a seed', () => deriveKey(0.5, 'x'), 'OPTION_INVALID', /seed is 0\.5; expected an integer/],
    ['a seed that is NaN', () => deriveKey(Number.NaN, 'x'), 'OPTION_INVALID', /seed is NaN/],
    ['half an index', () => deriveKey(0, 'x', [1.5]), 'OPTION_INVALID', /index 1\.5/],
    [
      'an index of more than 32 bits',
      () => deriveKey(0, 'x', [2 ** 31]),
      'OPTION_INVALID',
      /index 2147483648/,
    ],
    [
      'a purpose that is no text',
      () => deriveKey(0, 3 as never),
      'INPUT_INVALID',
      /"purpose" must be a string/,
    ],
    ['a number as key', () => permutation(3 as never, 4), 'INPUT_INVALID', /"key" must be a bigint/],
    ['a negative count', () => permutation(3n, -1), 'INPUT_INVALID', /"n" must be an integer from 0/],
    ['half a count', () => uniform(3n, 1.5), 'INPUT_INVALID', /"n" must be an integer from 0/],
    ['a count beyond memory', () => uniform(3n, 2e9), 'INPUT_INVALID', /to 1e9/],
  ])('%s', async (_, use, code, words) => {
    const error = await failureOf(use);
    expect(error).toMatchObject({ name: 'InputError', code });
    expect(error.message).toMatch(words);
    expect(uniform(3n, 2).length).toBe(2);
  });
});
