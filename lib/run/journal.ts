/**
 * `journal.jsonl`: a line an edit and a line a round, each with its checksum, appended and fsynced when the round is done.
 * A run that was killed may leave lines of a round without its checkpoint, or a torn last line: both are cut off on resume.
 */
import { join } from 'node:path';
import type { EditResult, RoundResult } from '../edit-result.js';
import { makeError } from '../errors.js';
import { checksumOf, sealLine } from './checksum.js';
import { type Disk, exists, ioError, syncFolder, writeAll } from './disk.js';

/** One line, without its checksum. Figures that do not apply (NaN) are null. */
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

/** Appends lines and waits until they are on disk; what it could write of them is taken back when it fails. Throws `IO`. */
export async function appendJournal(disk: Disk, run: string, lines: readonly JournalLine[]): Promise<void> {
  const path = join(run, NAME);
  try {
    const fresh = !(await exists(disk, path));
    const file = await disk.open(path, 'a');
    try {
      const { size } = await file.stat();
      try {
        await writeAll(file, Buffer.from(lines.map((line) => `${sealLine(line)}\n`).join('')));
        await file.sync();
      } catch (cause) {
        await file.truncate(size).catch(() => {});
        throw cause;
      }
    } finally {
      await file.close();
    }
    if (fresh) await syncFolder(disk, run);
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
  let sealed = false;
  for (let start = 0; start < bytes.length; ) {
    const newline = bytes.indexOf(10, start);
    if (newline < 0) return { lines, ends, torn: true };
    const line = parseLine(bytes.toString('utf8', start, newline), sealed);
    if (typeof line === 'string') {
      if (newline === bytes.length - 1) return { lines, ends, torn: true };
      throw makeError('RUN_INVALID', `${path} line ${lines.length + 1} is damaged: ${line}`);
    }
    sealed ||= line.sealed;
    lines.push(line.value);
    ends.push(newline + 1);
    start = newline + 1;
  }
  return { lines, ends, torn: false };
}

/** A line, or what is wrong with it. Lines of old runs have no checksum; after one that has, all must. */
function parseLine(text: string, sealed: boolean): { value: JournalLine; sealed: boolean } | string {
  const checksum = checksumOf(text);
  if (checksum && checksum.stated !== checksum.found) {
    return `its CRC-32 is ${checksum.found}; expected ${checksum.stated}, which it states`;
  }
  try {
    const value = JSON.parse(text) as JournalLine & { crc32?: string };
    if (typeof value === 'object' && value !== null && 'round' in value) {
      if (!checksum && sealed) return 'it has no "crc32"; expected one, as in the lines before it';
      const { crc32: _, ...line } = value;
      return { value: line as JournalLine, sealed: checksum !== undefined };
    }
  } catch {
    // Reported below.
  }
  return `found ${JSON.stringify(text.slice(0, 40))}; expected a JSON object with "round"`;
}

/**
 * Cuts a journal after round `last` (−1: all of it goes). Returns how many whole lines were dropped. Throws `RUN_INVALID`
 * when its rounds are out of order.
 */
export async function truncateJournal(disk: Disk, run: string, last: number): Promise<number> {
  const path = join(run, NAME);
  const { lines, ends, torn } = await readJournal(disk, run);
  const kept = lines.filter(({ round }) => round <= last).length;
  if (lines.slice(0, kept).some(({ round }) => round > last)) {
    throw makeError('RUN_INVALID', `${path} is out of order; expected rounds that never decrease`);
  }
  if (kept === lines.length && !torn) return 0;
  try {
    const file = await disk.open(path, 'r+');
    try {
      await file.truncate(kept === 0 ? 0 : ends[kept - 1]!);
      await file.sync();
    } finally {
      await file.close();
    }
  } catch (cause) {
    throw ioError(`cutting ${path}`, cause);
  }
  return lines.length - kept;
}

/** The last round up to which the journal has a line for every round from 0; −1 when there is none. */
export function lastWholeRound(lines: readonly JournalLine[]): number {
  let last = -1;
  for (const { type, round } of lines) if (type === 'round' && round === last + 1) last++;
  return last;
}
