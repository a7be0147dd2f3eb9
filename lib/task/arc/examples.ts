/** Training problems of a task: leave-one-out problems made of its demonstrations, augmented. */
import { deriveKey, permutation, uniform } from '../../random.js';
import {
  ARC_AUGMENTATION_NAMES,
  ARC_AUGMENTATIONS,
  type ArcAugmentation,
  type GridChange,
} from './augment.js';
import { LARGEST_GRID } from './grids.js';
import { largestSide, mapProblem, problemKey, reorder, type SolvedProblem } from './problems.js';
import type { ArcPair } from './read.js';
import { colourPermutation, transformGrid } from './transforms.js';

export interface ExampleOptions {
  /** Families switched on. */
  augmentations: readonly ArcAugmentation[];
  /** How many demonstrations a problem leaves out, the one that is asked for among them. [1, 2]. */
  leaveOut: readonly number[];
  /** Copies of every problem with permuted colours and order. 1. */
  permutations: number;
  /** Most problems. 250. */
  most: number;
  /** Key of colours, orders, translations, and of the choice when there are more than `most`. */
  key: bigint;
}

export const EXAMPLE_DEFAULTS: Readonly<Omit<ExampleOptions, 'augmentations' | 'key'>> = {
  leaveOut: [1, 2],
  permutations: 1,
  most: 250,
};

/**
 * Training problems, as the published code makes them. For each number n of `leaveOut` and each demonstration: that one is
 * asked for, and every choice of n − 1 others is left out too. To these come all changes of the families switched on, unless
 * a grid gets larger than 30 × 30, and `permutations` copies of all of them: colours permuted (black stays; only where a family
 * is on) and demonstrations in another order. Equal problems count once. More than `most` are drawn from by the key.
 */
export function trainingProblems(
  demonstrations: readonly ArcPair[],
  options: Pick<ExampleOptions, 'augmentations' | 'key'> & Partial<ExampleOptions>,
): SolvedProblem[] {
  const { augmentations, leaveOut, permutations, most, key } = { ...EXAMPLE_DEFAULTS, ...options };
  const changes = ARC_AUGMENTATION_NAMES.filter((name) => augmentations.includes(name)).flatMap(
    (name) => ARC_AUGMENTATIONS[name],
  );
  const problems = leaveOut.flatMap((count) => {
    const originals = leftOut(demonstrations, count);
    const all = distinct([
      ...originals,
      ...augmented(originals, changes, deriveKey(key, 'changes', [count])),
    ]);
    const copies = Array.from({ length: permutations }, (_, copy) =>
      all.map((problem, index) =>
        permuted(problem, changes.length > 0, deriveKey(key, 'permutation', [count, copy, index])),
      ),
    );
    return distinct([...all, ...copies.flat()]);
  });
  if (problems.length <= most) return problems;
  const order = permutation(deriveKey(key, 'choice'), problems.length);
  return Array.from(order.subarray(0, most), (index) => problems[index]!);
}

function leftOut(demonstrations: readonly ArcPair[], count: number): SolvedProblem[] {
  return demonstrations.flatMap(({ input, output }, asked) => {
    const others = demonstrations.filter((_, index) => index !== asked);
    return choices(others, others.length - (count - 1)).map((shown) => ({
      demonstrations: shown,
      input,
      output,
    }));
  });
}

/** All choices of `count` items, in their order. */
function choices<T>(items: readonly T[], count: number): T[][] {
  if (count === 0) return [[]];
  if (count < 0 || count > items.length) return [];
  const [first, ...rest] = items as [T, ...T[]];
  return [...choices(rest, count - 1).map((others) => [first, ...others]), ...choices(rest, count)];
}

function augmented(
  problems: readonly SolvedProblem[],
  changes: readonly GridChange[],
  key: bigint,
): SolvedProblem[] {
  const draws = uniform(key, 2 * Math.max(1, problems.length));
  return changes
    .flatMap((change) =>
      problems.map((problem, index) => {
        const shared = [draws[2 * index]!, draws[2 * index + 1]!] as const;
        return mapProblem(problem, (grid) => change(grid, shared));
      }),
    )
    .filter((problem) => largestSide(problem) <= LARGEST_GRID);
}

function permuted(problem: SolvedProblem, recolour: boolean, key: bigint): SolvedProblem {
  const order = permutation(deriveKey(key, 'order'), problem.demonstrations.length);
  const shuffled = reorder(problem, order);
  if (!recolour) return shuffled;
  const colours = colourPermutation(deriveKey(key, 'colours'));
  return mapProblem(shuffled, (grid) => transformGrid(grid, { symmetry: 'identity', colours }));
}

function distinct(problems: readonly SolvedProblem[]): SolvedProblem[] {
  return [...new Map(problems.map((problem) => [problemKey(problem), problem])).values()];
}
