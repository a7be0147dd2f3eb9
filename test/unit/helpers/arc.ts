/** Grids and transforms for tests of properties, and small ARC tasks. */
import fc from 'fast-check';
import type { Grid } from '../../../lib/task/arc/grids.js';
import { type ColourMap, type GridTransform, SYMMETRIES } from '../../../lib/task/arc/transforms.js';

const side = fc.integer({ min: 1, max: 30 });

export const grids: fc.Arbitrary<Grid> = fc.tuple(side, side).chain(([height, width]) =>
  fc.array(fc.array(fc.integer({ min: 0, max: 9 }), { minLength: width, maxLength: width }), {
    minLength: height,
    maxLength: height,
  }),
);

export const colourMaps: fc.Arbitrary<ColourMap> = fc.shuffledSubarray([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], {
  minLength: 10,
  maxLength: 10,
});

export const transforms: fc.Arbitrary<GridTransform> = fc.record({
  symmetry: fc.constantFrom(...SYMMETRIES),
  colours: colourMaps,
});
