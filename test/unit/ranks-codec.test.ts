import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { decode, encode } from '../../lib/ranks/codec.js';
import { balanced, block, blocks } from '../../lib/ranks/shares.js';

describe('values between ranks', () => {
  it('what JSON cannot write comes back as it was', () => {
    const value = {
      numbers: [0.1, -0, Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 5e-324],
      list: [undefined, null, 'ü\u0000\ud800', true, 2n ** 64n - 1n],
      arrays: [
        Float32Array.of(1, Number.NaN, -0),
        new Float64Array([Math.PI, -0, 5e-324]),
        Int32Array.of(-1),
        new Uint8Array(0),
        BigUint64Array.of(2n ** 63n),
      ],
      $: 'number',
      nested: { $: { $: 'f32', at: 0, length: 9 } },
      view: Float32Array.of(9, 8, 7).subarray(1),
    };
    const back = decode(encode(value)) as typeof value;
    expect(back).toEqual({ ...value, list: [undefined, null, expect.any(String), true, 2n ** 64n - 1n] });
    expect(Object.is(back.numbers[1], -0)).toBe(true);
    expect(Object.is(back.arrays[0]![2], -0)).toBe(true);
    expect(back.arrays.map((array) => array.constructor)).toEqual(
      value.arrays.map((array) => array.constructor),
    );
    expect(back.list).toHaveLength(5);
  });

  it('the bits of every NaN of an array', () => {
    const array = new Float32Array(Uint32Array.of(0x7fc01234, 0xffc00001).buffer);
    const back = decode(encode({ array })) as { array: Float32Array };
    expect(new Uint32Array(back.array.buffer)).toEqual(new Uint32Array(array.buffer));
  });

  it('any plain value', () => {
    fc.assert(
      fc.property(fc.jsonValue({ maxDepth: 4 }), fc.array(fc.double()), (value, numbers) => {
        const both = { value, numbers };
        expect(decode(encode(both))).toEqual(both);
      }),
    );
  });

  it.each([
    [{ a: [() => 1] }, /value\.a\[0\] cannot be sent to other ranks/],
    [{ map: new Map() }, /value\.map cannot be sent/],
    [[new Date()], /value\[0\] cannot be sent/],
  ])('refuses what is no plain value, %#', (value, message) => {
    expect(() => encode(value)).toThrow(
      expect.objectContaining({ code: 'INPUT_INVALID', message: expect.stringMatching(message) }),
    );
  });
});

describe('shares of the work', () => {
  it('blocks are in order, whole, and differ by one at most', () => {
    expect(blocks(7, 3)).toEqual([0, 0, 1, 1, 2, 2, 2]);
    expect(blocks(2, 4)).toEqual([1, 3]);
    fc.assert(
      fc.property(fc.nat(200), fc.integer({ min: 1, max: 40 }), (count, world) => {
        const owners = blocks(count, world);
        expect(owners).toHaveLength(count);
        expect(owners).toEqual([...owners].sort((a, b) => a - b));
        const sizes = [...Array(world).keys()].map((rank) => owners.filter((owner) => owner === rank).length);
        expect(Math.max(...sizes) - Math.min(...sizes)).toBeLessThanOrEqual(1);
        expect(block(count, world - 1, world)[1]).toBe(count);
      }),
    );
  });

  it('balanced shares: no rank exceeds the least laden by more than its last item', () => {
    expect(balanced([1, 9, 1, 8], 2)).toEqual([1, 0, 0, 1]);
    expect(new Set(balanced([0, 0, 0, 0], 4)).size).toBe(4);
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 1, max: 500 }), { maxLength: 60 }),
        fc.integer({ min: 1, max: 8 }),
        (sizes, world) => {
          const owners = balanced(sizes, world);
          const loads = [...Array(world).keys()].map((rank) =>
            sizes.filter((_, index) => owners[index] === rank).reduce((sum, size) => sum + size, 0),
          );
          const least = Math.min(...loads);
          loads.forEach((load, rank) => {
            const own = sizes.filter((_, index) => owners[index] === rank);
            expect(load - Math.min(...own, Number.POSITIVE_INFINITY)).toBeLessThanOrEqual(least);
          });
        },
      ),
    );
  });
});
