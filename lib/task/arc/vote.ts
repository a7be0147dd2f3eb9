/** Votes over predicted grids. */
import { type Grid, gridKey } from './grids.js';

/** A prediction with its transform undone; undefined where what was written is no grid. */
export interface Ballot {
  readonly grid: Grid | undefined;
  /** Mean log-prob of what was written, nats a token: settles ties. */
  readonly confidence?: number;
}

/** A grid and what spoke for it. */
export interface Candidate {
  readonly grid: Grid;
  readonly votes: number;
  /** Largest confidence among its ballots; −∞ where none says. */
  readonly confidence: number;
}

/**
 * The grids of the ballots, most votes first; equal grids are one candidate. Ties: the larger confidence, then the one that
 * came first. Ballots without a grid do not count.
 */
export function countVotes(ballots: readonly Ballot[]): Candidate[] {
  const byGrid = new Map<string, Candidate>();
  for (const { grid, confidence = Number.NEGATIVE_INFINITY } of ballots) {
    if (grid === undefined) continue;
    const known = byGrid.get(gridKey(grid)) ?? { grid, votes: 0, confidence: Number.NEGATIVE_INFINITY };
    byGrid.set(gridKey(grid), {
      grid,
      votes: known.votes + 1,
      confidence: Math.max(known.confidence, confidence),
    });
  }
  // Stable: what is equal in both stays in the order in which it came.
  return [...byGrid.values()].sort(
    (left, right) =>
      right.votes - left.votes ||
      (right.confidence === left.confidence ? 0 : right.confidence - left.confidence),
  );
}

/** Share of the cells of `gold` that a grid has right, in [0, 1]; 0 for another size or no grid. */
export function cellShare(grid: Grid | undefined, gold: Grid): number {
  if (grid === undefined || grid.length !== gold.length || grid[0]!.length !== gold[0]!.length) return 0;
  const right = gold.reduce((sum, row, r) => sum + row.filter((cell, c) => cell === grid[r]![c]).length, 0);
  return right / (gold.length * gold[0]!.length);
}
