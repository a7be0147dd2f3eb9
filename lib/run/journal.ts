/**
 * `journal.jsonl`: a line an edit and a line a round, appended and fsynced when the round is done. A run that was
 * killed may leave lines of a round without its checkpoint, or a torn last line: both are cut off on resume.
 */
import { join } from 'node:path';
import type { EditResult, RoundResult } from '../edit-result.js';
import { makeError } from '../errors.js';
import { type Disk, ioError } from './disk.js';

/** One line. Figures that do not apply (NaN) are null. */
export type JournalLine =
  | ({ readonly type: 'edit' } & EditResult)
  | ({ readonly type: 'round'; readonly policyVersion: number } & Omit<RoundResult, 'edits'>);

const NAME = 'journal.jsonl';

/** The lines of a round: its edits, then the round itself. */
export function journalLines(result: RoundResult, policyVersion: number): JournalLine[] {
  const { edits, ...round } = result;
  return [
    ...edits.map((edit) => ({ type: 'edit' as const, ...edit })),
    { type: 'round' as const, ...round, policyVersion },
  ];
}

/** Appends lines in one write and waits until they are on disk. Throws `IO`. */
export async function appendJournal(disk: Disk, run: string, lines: readonly JournalLine[]): Promise<void> {
  const path = join(run, NAME);
  try {
    const file = await disk.open(path, 'a');
    try {
      await file.writeFile(lines.map((line) => `${JSON.stringify(line)}\n`).join(''));
      await file.sync();
    } finally {
      await file.close();
    }
  } catch (cause) {
    throw ioError(`appending to ${path}`, cause);
  }
}

/** Whole lines of a journal; `torn` tells that the last one was cut short and is left out. */
export interface JournalContents {
  readonly lines: readonly JournalLine[];
  /** Bytes up to the end of each line. */
  readonly ends: readonly number[];
  readonly torn: boolean;
}

/** Reads a journal. Throws `RUN_INVALID` when a line other than the last is damaged. */
export async function readJournal(disk: Disk, run: string): Promise<JournalContents> {
  const path = join(run, NAME);
  const bytes = await disk.readFile(path).catch((cause: NodeJS.ErrnoException) => {
    if (cause.code === 'ENOENT') return Buffer.alloc(0);
    throw ioError(`reading ${path}`, cause);
  });
  const lines: JournalLine[] = [];
  const ends: number[] = [];
  for (let start = 0; start < bytes.length; ) {
    const newline = bytes.indexOf(10, start);
    if (newline < 0) return { lines, ends, torn: true };
    const line = parseLine(bytes.toString('utf8', start, newline));
    if (line === undefined) {
      if (newline === bytes.length - 1) return { lines, ends, torn: true };
      throw makeError(
        'RUN_INVALID',
        `${path} line ${lines.length + 1} is damaged; expected a JSON object with "round"`,
      );
    }
    lines.push(line);
    ends.push(newline + 1);
    start = newline + 1;
  }
  return { lines, ends, torn: false };
}

function parseLine(text: string): JournalLine | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null && 'round' in value
      ? (value as JournalLine)
      : undefined;
  } catch {
    return undefined;
  }
}

/** Cuts a journal after round `last` (−1: all of it goes). Returns how many whole lines were dropped. */
export async function truncateJournal(disk: Disk, run: string, last: number): Promise<number> {
  const { lines, ends, torn } = await readJournal(disk, run);
  const kept = lines.filter(({ round }) => round <= last).length;
  if (lines.slice(0, kept).some(({ round }) => round > last)) {
    throw makeError('RUN_INVALID', `${join(run, NAME)} is out of order; expected rounds that never decrease`);
  }
  if (kept < lines.length || torn) await disk.truncate(join(run, NAME), kept === 0 ? 0 : ends[kept - 1]!);
  return lines.length - kept;
}
