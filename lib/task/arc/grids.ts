/**
 * Grids of the Abstraction and Reasoning Corpus (Chollet 2019, arXiv 1911.01547): rows of colours 0 to 9. As text a grid is
 * one row a line, the digits parted by spaces, as in the published self-edit prompt.
 */
import { makeError } from '../../errors.js';
import { kindOf } from '../json.js';

/** Rows of equal length, 1 to 30 of them and 1 to 30 long, of colours 0 to 9. */
export type Grid = readonly (readonly number[])[];

/** Largest height and width. */
export const LARGEST_GRID = 30;
/** Number of colours. */
export const COLOURS = 10;

/** What is wrong with a grid, as "found; expected …", or undefined. */
export function gridFault(value: unknown): string | undefined {
  if (!Array.isArray(value)) return `is ${kindOf(value)}; expected an array of rows`;
  if (value.length === 0) return 'is empty; expected at least one row';
  if (value.length > LARGEST_GRID) return `has ${value.length} rows; expected at most ${LARGEST_GRID}`;
  const rows: readonly unknown[] = value;
  const [first] = rows;
  for (const [r, row] of rows.entries()) {
    if (!Array.isArray(row)) return `row ${r} is ${kindOf(row)}; expected an array of colours`;
    if (row.length === 0) return `row ${r} is empty; expected at least one cell`;
    if (row.length > LARGEST_GRID)
      return `row ${r} has ${row.length} cells; expected at most ${LARGEST_GRID}`;
    const { length } = first as readonly unknown[];
    if (row.length !== length)
      return `row ${r} has ${row.length} cells, row 0 has ${length}; expected rows of one length`;
    const cells: readonly unknown[] = row;
    const c = cells.findIndex((cell) => !(Number.isInteger(cell) && Number(cell) >= 0 && Number(cell) <= 9));
    if (c >= 0)
      return `row ${r}, cell ${c} is ${JSON.stringify(cells[c])}; expected a whole number from 0 to 9`;
  }
  return undefined;
}

/** The value as a grid. Throws `INPUT_INVALID`, naming `where`, row and cell. */
export function toGrid(value: unknown, where: string): Grid {
  const fault = gridFault(value);
  if (fault === undefined) return value as Grid;
  throw makeError('INPUT_INVALID', `${where} ${fault}`);
}

/** Height and width. */
export function sizeOf(grid: Grid): readonly [height: number, width: number] {
  return [grid.length, grid[0]!.length];
}

/** Whether two grids are the same. */
export function sameGrid(left: Grid, right: Grid): boolean {
  return gridKey(left) === gridKey(right);
}

/** One string a grid: equal exactly when the grids are. */
export function gridKey(grid: Grid): string {
  return grid.map((row) => row.join('')).join('/');
}

/** Text of a grid; `gap` stands between the cells of a row. */
export function gridText(grid: Grid, gap = ' '): string {
  return grid.map((row) => row.join(gap)).join('\n');
}

/** Longest text that is read: every cell of the largest grid with generous white space. */
const LONGEST = 16 * LARGEST_GRID ** 2;

/**
 * The grid that a text begins with, up to a `#` or a blank line; or undefined. Strict: what `gridText` writes, with any gap
 * of spaces. Tolerant besides: digits without gaps, commas, brackets as in Python and numpy, a code fence, and a line before
 * the grid that ends in a colon. Rows of unequal length, other characters, numbers of two digits among spaced ones and grids
 * beyond 30 × 30 are undefined.
 */
export function readGrid(text: string): Grid | undefined {
  const body = text
    .slice(0, LONGEST)
    .replace(/^\s*(?:[^\n:]{0,80}:[^\S\n]*\n)?\s*/, '')
    .replace(/^```[a-z]{0,8}[^\S\n]*\n\s*/, '');
  const end = /#|```|\n[^\S\n]*\n/.exec(body)?.index ?? body.length;
  // A closing bracket ends a row, wherever the line ends.
  const lines = body
    .slice(0, end)
    .replace(/[[\r]/g, '')
    .split(/[\]\n]/);
  const rows = lines.map((line) => line.replace(/,/g, ' ').trim()).filter((line) => line !== '');
  const grid = rows.map(readRow);
  if (grid.some((row) => row === undefined)) return undefined;
  return gridFault(grid) === undefined ? (grid as Grid) : undefined;
}

function readRow(line: string): number[] | undefined {
  if (/^\d+$/.test(line)) return Array.from(line, Number);
  const cells = line.split(/\s+/);
  return cells.every((cell) => /^\d$/.test(cell)) ? cells.map(Number) : undefined;
}
