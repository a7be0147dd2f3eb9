/**
 * What would be lost if the power failed: replays a list of file calls (`plan` of faults.mjs) and tells of every rename of
 * something that was not yet on disk, and of what is not on disk at the end. A kill cannot show that: the system's cache
 * outlives the process.
 */
import { dirname } from 'node:path';

const isLock = (path) => /\/lock(\.[\w-]+)*$/.test(path);

/** Problems, as sentences; none: all that was written is durable, and became visible only when it was. */
export function lossesOf(calls) {
  const problems = [];
  /** Files with bytes, and folders with entries, that are not on disk. */
  const dirty = new Map();
  const below = (path) => [...dirty.keys()].filter((one) => one === path || one.startsWith(`${path}/`));
  const forget = (path) => {
    for (const one of below(path)) dirty.delete(one);
    for (const one of seen) if (one === path || one.startsWith(`${path}/`)) seen.delete(one);
  };
  const seen = new Set();
  const appear = (path, what) => {
    if (!seen.has(path)) dirty.set(dirname(path), `${what} ${path}`);
    seen.add(path);
  };
  const visit = {
    open: (path) => appear(path, 'entry'),
    opendir: () => {},
    mkdir: (path) => appear(path, 'entry'),
    write: (path) => dirty.set(path, 'bytes'),
    writeFile: (path) => dirty.set(path, 'bytes'),
    truncate: (path) => dirty.set(path, 'length'),
    fsync: (path) => dirty.delete(path),
    close: () => {},
    link: () => {},
    rm(path) {
      // A removal may be undone, but not when it was half of a renaming.
      if (path.endsWith('.deleted') && dirty.get(dirname(path))?.startsWith('rename')) {
        problems.push(`${path} is removed before its renaming is on disk`);
      }
      forget(path);
    },
    rename(from, to) {
      for (const one of below(from))
        problems.push(`${from} becomes ${to} before ${one} (${dirty.get(one)}) is on disk`);
      if (/\/round-\d+$/.test(to)) {
        for (const one of dirty.keys()) {
          if (one.endsWith('journal.jsonl')) problems.push(`${to} appears before the journal is on disk`);
        }
      }
      forget(from);
      seen.delete(to);
      appear(to, 'rename');
    },
  };
  for (const { call } of calls) {
    const space = call.indexOf(' ');
    const [path, to] = call.slice(space + 1).split('\t');
    if (!isLock(path)) visit[call.slice(0, space)](path, to);
  }
  for (const [path, what] of dirty) problems.push(`${path} is not on disk at the end (${what})`);
  return problems;
}
