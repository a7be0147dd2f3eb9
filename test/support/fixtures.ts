/** Files under test/fixtures; the scripts that made them are in scripts/fixtures. */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

export function fixture(...parts: string[]): string {
  return fileURLToPath(new URL(`../fixtures/${parts.join('/')}`, import.meta.url));
}

export function readJson<T>(...parts: string[]): T {
  return JSON.parse(readFileSync(fixture(...parts), 'utf8')) as T;
}

/** Largest absolute difference; null and NaN must stand at the same places. */
export function largestGap(found: ArrayLike<number | null>, expected: ArrayLike<number | null>): number {
  if (found.length !== expected.length) return Number.POSITIVE_INFINITY;
  let gap = 0;
  for (let i = 0; i < found.length; i++) {
    const a = found[i] ?? Number.NaN;
    const b = expected[i] ?? Number.NaN;
    if (Number.isNaN(a) !== Number.isNaN(b)) return Number.POSITIVE_INFINITY;
    if (!Number.isNaN(a)) gap = Math.max(gap, Math.abs(a - b));
  }
  return gap;
}

/** ‖a − b‖ / ‖b‖ over all entries (Frobenius for a matrix). */
export function relativeDifference(found: ArrayLike<number>, expected: ArrayLike<number>): number {
  let difference = 0;
  let norm = 0;
  for (let i = 0; i < expected.length; i++) {
    difference += (found[i]! - expected[i]!) ** 2;
    norm += expected[i]! ** 2;
  }
  return Math.sqrt(difference / norm);
}
