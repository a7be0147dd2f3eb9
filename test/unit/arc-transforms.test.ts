// Properties of the invertible transforms, and each symmetry against a cell moved by hand.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { deriveKey } from '../../lib/random.js';
import { gridKey, sizeOf } from '../../lib/task/arc/grids.js';
import { viewsOf } from '../../lib/task/arc/predict.js';
import { inverseOrder, reorder, viewProblem } from '../../lib/task/arc/problems.js';
import {
  checkTransform,
  colourPermutation,
  composeTransforms,
  IDENTITY_TRANSFORM,
  inverseTransform,
  SAME_COLOURS,
  SYMMETRIES,
  type Symmetry,
  transformGrid,
} from '../../lib/task/arc/transforms.js';
import { grids, transforms } from './helpers/arc.js';

const plain = (symmetry: Symmetry) => ({ symmetry, colours: SAME_COLOURS });

describe('transforms', () => {
  it.each([
    ['identity', ['123', '456']],
    ['flipRows', ['456', '123']],
    ['flipColumns', ['321', '654']],
    ['rotate90', ['36', '25', '14']],
    ['rotate180', ['654', '321']],
    ['rotate270', ['41', '52', '63']],
    ['transpose', ['14', '25', '36']],
    ['antitranspose', ['63', '52', '41']],
  ] as [Symmetry, string[]][])('%s moves every cell where it belongs', (symmetry, rows) => {
    const grid = [
      [1, 2, 3],
      [4, 5, 6],
    ];
    expect(transformGrid(grid, plain(symmetry)).map((row) => row.join(''))).toEqual(rows);
  });

  it('are undone by their inverse, which keeps shapes', () => {
    fc.assert(
      fc.property(grids, transforms, (grid, transform) => {
        const changed = transformGrid(grid, transform);
        expect([...sizeOf(changed)].sort()).toEqual([...sizeOf(grid)].sort());
        expect(transformGrid(changed, inverseTransform(transform))).toEqual(grid);
      }),
    );
  });

  it('compose as one after the other, associatively, with the identity and inverses: a group', () => {
    fc.assert(
      fc.property(grids, transforms, transforms, transforms, (grid, a, b, c) => {
        expect(transformGrid(grid, composeTransforms(a, b))).toEqual(
          transformGrid(transformGrid(grid, a), b),
        );
        const left = composeTransforms(composeTransforms(a, b), c);
        expect(left).toEqual(composeTransforms(a, composeTransforms(b, c)));
        expect(composeTransforms(a, IDENTITY_TRANSFORM)).toEqual(a);
        expect(composeTransforms(IDENTITY_TRANSFORM, a)).toEqual(a);
        expect(composeTransforms(a, inverseTransform(a))).toEqual(IDENTITY_TRANSFORM);
        expect(composeTransforms(inverseTransform(a), a)).toEqual(IDENTITY_TRANSFORM);
      }),
    );
  });

  it('are eight symmetries, all different, of the known orders', () => {
    const grid = [
      [1, 2],
      [3, 4],
    ];
    expect(new Set(SYMMETRIES.map((symmetry) => gridKey(transformGrid(grid, plain(symmetry))))).size).toBe(8);
    const order = (symmetry: Symmetry) => {
      let power = plain(symmetry);
      for (let n = 1; ; n++) {
        if (power.symmetry === 'identity') return n;
        power = { ...composeTransforms(power, plain(symmetry)), colours: SAME_COLOURS };
      }
    };
    expect(SYMMETRIES.map(order).sort()).toEqual([1, 2, 2, 2, 2, 2, 4, 4]);
    expect(SYMMETRIES.filter((symmetry) => order(symmetry) === 4)).toEqual(['rotate90', 'rotate270']);
  });

  it('permute colours by key, black too only where that is asked for', () => {
    fc.assert(
      fc.property(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), fc.boolean(), (key, moveBlack) => {
        const colours = colourPermutation(key, { moveBlack });
        checkTransform({ symmetry: 'identity', colours });
        expect(colourPermutation(key, { moveBlack })).toEqual(colours);
        if (!moveBlack) expect(colours[0]).toBe(0);
      }),
    );
    const moved = Array.from({ length: 40 }, (_, index) => {
      return colourPermutation(deriveKey(0, 'colours', [index]), { moveBlack: true })[0];
    });
    expect(new Set(moved).size).toBe(10);
  });

  it.each([
    [
      { symmetry: 'mirror' as Symmetry, colours: SAME_COLOURS },
      /symmetry is "mirror"; expected one of identity,/,
    ],
    [
      { symmetry: 'identity' as const, colours: [0, 1] },
      /colours are \[0,1\]; expected a permutation of 0 to 9/,
    ],
    [
      { symmetry: 'identity' as const, colours: [0, 1, 2, 3, 4, 5, 6, 7, 8, 8] },
      /colours are .*expected a permutation/,
    ],
  ])('that are none are refused', (transform, message) => {
    expect(() => checkTransform(transform)).toThrow(message);
  });
});

describe('views', () => {
  it('are undone on demonstrations and input alike', () => {
    const pair = fc.record({ input: grids, output: grids });
    const problems = fc.record({
      demonstrations: fc.array(pair, { minLength: 1, maxLength: 4 }),
      input: grids,
    });
    fc.assert(
      fc.property(problems, fc.nat(1000), (problem, seed) => {
        const count = problem.demonstrations.length;
        for (const view of viewsOf(count, deriveKey(seed, 'views'), { copies: 2 })) {
          const inverse = inverseTransform(view.transform);
          const back = viewProblem(viewProblem(problem, view), { transform: inverse });
          const order = view.order ?? Array.from({ length: count }, (_, index) => index);
          expect(reorder(back, inverseOrder(order))).toEqual(problem);
        }
      }),
      { numRuns: 25 },
    );
  });

  it('are all symmetries, the plain one first, and copies in other colours and orders', () => {
    const views = viewsOf(3, deriveKey(0, 'views'), { copies: 2 });
    expect(views.map(({ transform }) => transform.symmetry)).toEqual([...SYMMETRIES, ...SYMMETRIES]);
    expect(views[0]).toEqual({ transform: IDENTITY_TRANSFORM });
    expect(views.slice(0, 8).every(({ transform }) => transform.colours === SAME_COLOURS)).toBe(true);
    expect(views.slice(8).every(({ order }) => [...order!].sort().join('') === '012')).toBe(true);
    expect(new Set(views.slice(8).map(({ transform }) => transform.colours.join(''))).size).toBeGreaterThan(
      4,
    );
    expect(viewsOf(3, 5n, { symmetries: ['transpose'] })).toHaveLength(1);
  });
});
