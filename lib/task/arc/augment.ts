/**
 * The four families of augmentations that an edit of the published few-shot domain switches on, named and composed as there
 * (SEAL, arXiv 2506.10943; test-time training, Akyürek et al. 2024, arXiv 2411.07279). Each changes every grid of a problem
 * alike. Not all can be undone: they make training problems, not predictions.
 */
import { type Grid, sizeOf } from './grids.js';
import { SAME_COLOURS, type Symmetry, transformGrid } from './transforms.js';

/** A change of one grid. `draws`: two numbers in [0, 1) that all grids of a problem share. */
export type GridChange = (grid: Grid, draws: readonly [number, number]) => Grid;

const turn =
  (symmetry: Symmetry): GridChange =>
  (grid) =>
    transformGrid(grid, { symmetry, colours: SAME_COLOURS });

const below = (top: Grid, bottom: Grid): Grid => [...top, ...bottom];
const beside = (left: Grid, right: Grid): Grid => left.map((row, r) => [...row, ...right[r]!]);
const twice = <T>(items: readonly T[]): T[] => items.flatMap((item) => [item, item]);

const flippedRows = turn('flipRows');
const flippedColumns = turn('flipColumns');

/** A grid together with its mirror image, on either side. */
const reflections: readonly GridChange[] = [
  (grid, draws) => below(flippedRows(grid, draws), grid),
  (grid, draws) => beside(flippedColumns(grid, draws), grid),
  (grid, draws) => below(grid, flippedRows(grid, draws)),
  (grid, draws) => beside(grid, flippedColumns(grid, draws)),
];

/** Rolled by up to 3 rows and columns: what leaves at one edge comes in at the other. */
const translated: GridChange = (grid, draws) => {
  const [height, width] = sizeOf(grid);
  const down = Math.floor(draws[0] * Math.min(4, height));
  const right = Math.floor(draws[1] * Math.min(4, width));
  return Array.from({ length: height }, (_, r) => {
    const row = grid[(r - down + height) % height]!;
    return Array.from({ length: width }, (_, c) => row[(c - right + width) % width]!);
  });
};

const taller: GridChange = (grid) => twice(grid);
const wider: GridChange = (grid) => grid.map(twice);
const finer: GridChange = (grid) => twice(grid.map(twice));

const turns = ['rotate90', 'rotate270', 'rotate180', 'flipRows', 'flipColumns'] as const;

/** The changes that each switch stands for. */
export const ARC_AUGMENTATIONS: Readonly<Record<ArcAugmentation, readonly GridChange[]>> = {
  /** 11: three rotations, two flips, four reflections, a translation, the transposition. */
  basic: [...turns.map(turn), ...reflections, translated, turn('transpose')],
  /** 3: every cell doubled both ways, downwards, to the right. */
  size: [finer, taller, wider],
  /** 6: a rotation, a flip or the transposition, then every cell doubled both ways. */
  chain: [...turns, 'transpose' as const].map((symmetry) => (grid, draws) => {
    return finer(turn(symmetry)(grid, draws), draws);
  }),
  /** 3: the grid twice downwards, twice to the right, four times. */
  repeat: [
    (grid) => below(grid, grid),
    (grid) => beside(grid, grid),
    (grid) => below(beside(grid, grid), beside(grid, grid)),
  ],
};

export const ARC_AUGMENTATION_NAMES = ['basic', 'size', 'chain', 'repeat'] as const;
export type ArcAugmentation = (typeof ARC_AUGMENTATION_NAMES)[number];
