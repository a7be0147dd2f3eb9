/** The closing table of a run, as it is kept. */
import type { Comparison } from '../compare.js';
import type { Disk } from './disk.js';

export const COMPARISON = 'comparison.json';

/** Undefined where there is none, or one that cannot be read: it is made again. JSON has null for what is infinite or no number. */
export async function readComparison(disk: Disk, path: string): Promise<Comparison | undefined> {
  const limits: Record<string, number> = { low: Number.NEGATIVE_INFINITY, high: Number.POSITIVE_INFINITY };
  try {
    const text = await disk.readFile(path, 'utf8');
    return JSON.parse(text, (key, value: unknown) => value ?? limits[key] ?? Number.NaN) as Comparison;
  } catch {
    return undefined;
  }
}
