// Training problems against what the published code makes (scripts/fixtures/arc.py), and what keys and bounds do.
import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { deriveKey } from '../../lib/random.js';
import {
  ARC_AUGMENTATION_NAMES,
  ARC_AUGMENTATIONS,
  type ArcAugmentation,
} from '../../lib/task/arc/augment.js';
import { trainingProblems } from '../../lib/task/arc/examples.js';
import type { Grid } from '../../lib/task/arc/grids.js';
import { largestSide, problemKey } from '../../lib/task/arc/problems.js';
import { type ArcPair, readArc } from '../../lib/task/arc/read.js';
import { grids } from './helpers/arc.js';
import { sharedData } from './helpers/shared-data.js';

interface Published {
  grids: Grid[];
  /** By switch: of every change, the changed grids. */
  changes: Record<ArcAugmentation, Grid[][]>;
  /** By task and switches: distinct problems that leave out 1 and 2. */
  counts: Record<string, Record<string, [number, number]>>;
}
const published = JSON.parse(
  readFileSync(new URL('../fixtures/arc/published.json', import.meta.url), 'utf8'),
) as Published;

const KEY = deriveKey(1, 'test');
const pairs = (count: number): ArcPair[] =>
  Array.from({ length: count }, (_, index) => ({
    input: [
      [index, 1, 2],
      [3, 4, 5],
    ],
    output: [[index]],
  }));
const problemsOf = (count: number, augmentations: ArcAugmentation[], more = {}) =>
  trainingProblems(pairs(count), { augmentations, key: KEY, ...more });

describe('changes of grids', () => {
  it.each(ARC_AUGMENTATION_NAMES)('%s: those of the published code, in its order', (name) => {
    const changed = ARC_AUGMENTATIONS[name].map((change) =>
      // Draws for a translation by 1 row and 2 columns: of 2 and of 4 rows, of 3 columns and of 1.
      published.grids.map((grid) => change(grid, [1.5 / Math.min(4, grid.length), 2.5 / 3])),
    );
    expect(changed).toEqual(published.changes[name]);
  });

  it('translate by less than 4, and all grids of a problem alike', () => {
    fc.assert(
      fc.property(grids, fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }), (grid, draw) => {
        const change = ARC_AUGMENTATIONS.basic[9]!;
        const moved = change(grid, [draw, 0]);
        const down = Math.floor(draw * Math.min(4, grid.length));
        expect(down).toBeLessThan(4);
        expect([...moved.slice(down), ...moved.slice(0, down)]).toEqual(grid);
      }),
    );
  });
});

describe('training problems', () => {
  const files = ['training', 'evaluation'].map((set) =>
    sharedData(
      `arc/arc-agi_${set}_challenges_filtered_1B_${set === 'training' ? 'training' : 'eval'}_set.json`,
    ),
  );
  const there = files.every((file) => file !== undefined);
  it.skipIf(!there)(
    'are as many as the published code makes of its 22 tasks (needs ../shared/data/arc)',
    async () => {
      const tasks = (await Promise.all(files.map((file) => readArc(file!)))).flat();
      expect(tasks.map(({ id }) => id).sort()).toEqual(Object.keys(published.counts).sort());
      for (const { id, demonstrations } of tasks) {
        for (const [switches, counts] of Object.entries(published.counts[id]!)) {
          const augmentations = switches.split(' ').filter(Boolean) as ArcAugmentation[];
          const translations = augmentations.includes('basic') ? 1 : 0;
          for (const [index, count] of counts.entries()) {
            const made = trainingProblems(demonstrations, {
              augmentations,
              key: KEY,
              leaveOut: [index + 1],
              permutations: 0,
              most: 10_000,
            });
            const leftOut = published.counts[id]!['']![index]!;
            // The fixture has no translations; one that moves nothing is no problem of its own.
            expect(made.length, `${id} "${switches}"`).toBeGreaterThanOrEqual(count);
            expect(made.length, `${id} "${switches}"`).toBeLessThanOrEqual(count + translations * leftOut);
          }
        }
      }
    },
  );

  it('leave out one or two demonstrations, and ask for one of those', () => {
    const one = problemsOf(4, [], { leaveOut: [1], permutations: 0 });
    expect(one.map(({ output }) => output[0]![0])).toEqual([0, 1, 2, 3]);
    expect(one[1]!.demonstrations.map(({ output }) => output[0]![0])).toEqual([0, 2, 3]);
    const two = problemsOf(4, [], { leaveOut: [2], permutations: 0 });
    expect(two).toHaveLength(12);
    expect(two.every(({ demonstrations }) => demonstrations.length === 2)).toBe(true);
    for (const { demonstrations, output } of two) {
      expect(demonstrations.map((pair) => pair.output)).not.toContainEqual(output);
    }
    // A single demonstration is asked for behind none.
    expect(problemsOf(1, [], { permutations: 0 })).toEqual([{ demonstrations: [], ...pairs(1)[0]! }]);
  });

  it('have copies in other colours and orders: colours only with augmentations, and black stays', () => {
    const plain = problemsOf(4, [], { leaveOut: [1] });
    expect(plain.length).toBeGreaterThan(4);
    expect(plain.length).toBeLessThanOrEqual(8);
    const colours = (problem: (typeof plain)[number]) => [...new Set(problem.input.flat())].sort();
    expect(plain.every((problem) => problem.input[0]![1] === 1)).toBe(true);
    const recoloured = problemsOf(4, ['size'], { leaveOut: [1] });
    expect(recoloured.length).toBe(32);
    expect(recoloured.slice(16).some((problem) => problem.input[0]![1] !== 1)).toBe(true);
    // Problem 0 asks for the input with a black cell.
    expect(recoloured.filter((problem) => colours(problem).includes(0))).toHaveLength(8);
  });

  it('are at most 250, a keyed choice', () => {
    const all = [...ARC_AUGMENTATION_NAMES];
    const many = problemsOf(5, all);
    expect(many).toHaveLength(250);
    expect(new Set(many.map(problemKey)).size).toBe(250);
    expect(problemsOf(5, all)).toEqual(many);
    const other = trainingProblems(pairs(5), { augmentations: all, key: deriveKey(2, 'test') });
    expect(other.map(problemKey)).not.toEqual(many.map(problemKey));
    expect(problemsOf(5, all, { most: 7 })).toHaveLength(7);
  });

  it('have no grid beyond 30 × 30', () => {
    const wide = (side: number): Grid => Array.from({ length: 2 }, () => new Array<number>(side).fill(1));
    const demonstrations = [15, 16].map((side) => ({ input: wide(side), output: [[side - 15]] }));
    const made = trainingProblems(demonstrations, {
      augmentations: [...ARC_AUGMENTATION_NAMES],
      key: KEY,
    });
    expect(Math.max(...made.map(largestSide))).toBe(30);
  });
});
