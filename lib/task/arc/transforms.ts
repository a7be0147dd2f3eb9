/**
 * Transforms of grids that can be undone: the eight symmetries of a rectangle's cells (the dihedral group of the square) and
 * permutations of the colours. The two kinds commute, so a pair of one symmetry and one permutation is the general form.
 */
import { makeError } from '../../errors.js';
import { permutation } from '../../random.js';
import { COLOURS, type Grid } from './grids.js';

export type Symmetry =
  | 'identity'
  | 'transpose'
  | 'flipRows'
  | 'flipColumns'
  | 'rotate90'
  | 'rotate180'
  | 'rotate270'
  | 'antitranspose';

/**
 * Each symmetry as three switches, in the order in which they act: transpose, then turn the rows upside down, then turn each
 * row round. Rotations are anticlockwise, as numpy's `rot90`.
 */
const SWITCHES: Readonly<Record<Symmetry, readonly [boolean, boolean, boolean]>> = {
  identity: [false, false, false],
  transpose: [true, false, false],
  flipRows: [false, true, false],
  flipColumns: [false, false, true],
  rotate90: [true, true, false],
  rotate180: [false, true, true],
  rotate270: [true, false, true],
  antitranspose: [true, true, true],
};

/** Names of the symmetries, `identity` first. */
export const SYMMETRIES = Object.keys(SWITCHES) as readonly Symmetry[];

/** What each colour becomes: `colours[c]`; a permutation of 0 to 9. */
export type ColourMap = readonly number[];
export const SAME_COLOURS: ColourMap = Array.from({ length: COLOURS }, (_, colour) => colour);

/** A symmetry and a permutation of the colours. */
export interface GridTransform {
  readonly symmetry: Symmetry;
  readonly colours: ColourMap;
}

export const IDENTITY_TRANSFORM: GridTransform = { symmetry: 'identity', colours: SAME_COLOURS };

/** The transformed grid; rows and columns change places under the four symmetries that transpose. */
export function transformGrid(grid: Grid, { symmetry, colours }: GridTransform): Grid {
  const [transposed, upsideDown, roundAbout] = SWITCHES[symmetry];
  const [height, width] = transposed ? [grid[0]!.length, grid.length] : [grid.length, grid[0]!.length];
  return Array.from({ length: height }, (_, r) => {
    const row = upsideDown ? height - 1 - r : r;
    return Array.from({ length: width }, (_, c) => {
      const column = roundAbout ? width - 1 - c : c;
      return colours[transposed ? grid[column]![row]! : grid[row]![column]!]!;
    });
  });
}

/** `first`, then `second`, as one transform. */
export function composeTransforms(first: GridTransform, second: GridTransform): GridTransform {
  const [t1, r1, c1] = SWITCHES[first.symmetry];
  const [t2, r2, c2] = SWITCHES[second.symmetry];
  // Past a transposition the two flips change places.
  const flips = t2 ? [c1, r1] : [r1, c1];
  return {
    symmetry: named(t1 !== t2, flips[0] !== r2, flips[1] !== c2),
    colours: first.colours.map((colour) => second.colours[colour]!),
  };
}

/** What undoes a transform. */
export function inverseTransform({ symmetry, colours }: GridTransform): GridTransform {
  const [t, r, c] = SWITCHES[symmetry];
  const inverse = new Array<number>(COLOURS);
  for (const [from, to] of colours.entries()) inverse[to] = from;
  return { symmetry: t ? named(t, c, r) : symmetry, colours: inverse };
}

/** A keyed permutation of the colours; black (0), the usual background, stays unless `moveBlack`. */
export function colourPermutation(key: bigint, { moveBlack = false } = {}): ColourMap {
  if (moveBlack) return Array.from(permutation(key, COLOURS));
  return [0, ...Array.from(permutation(key, COLOURS - 1), (colour) => colour + 1)];
}

/** Throws `OPTION_INVALID` for an unknown symmetry or for colours that are no permutation of 0 to 9. */
export function checkTransform({ symmetry, colours }: GridTransform): void {
  if (!Object.hasOwn(SWITCHES, symmetry)) {
    throw makeError('OPTION_INVALID', `symmetry is "${symmetry}"; expected one of ${SYMMETRIES.join(', ')}`);
  }
  const sorted = [...colours].sort((left, right) => left - right);
  if (sorted.length !== COLOURS || sorted.some((colour, index) => colour !== index)) {
    throw makeError(
      'OPTION_INVALID',
      `colours are ${JSON.stringify(colours)}; expected a permutation of 0 to ${COLOURS - 1}`,
    );
  }
}

function named(...switches: [boolean, boolean, boolean]): Symmetry {
  return SYMMETRIES.find((name) => SWITCHES[name].every((on, index) => on === switches[index]))!;
}
