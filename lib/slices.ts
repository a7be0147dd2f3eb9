/** Long work on the event loop, in slices: timers and other events have their turn in between. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { AbortedError } from './errors.js';

/** Work that can pause wherever it yields; what it gives does not depend on where it was paused. */
export type Work<T> = Generator<void, T, void>;

/** Milliseconds of one slice. Well below what a caller of a timer notices; a turn of the loop costs microseconds. */
const SLICE = 4;

/** @internal All of it at once. */
export function atOnce<T>(work: Work<T>): T {
  for (;;) {
    const step = work.next();
    if (step.done) return step.value;
  }
}

/** @internal In slices. Errors: those of the work, and `ABORTED` when the signal fires between two slices. */
export async function inSlices<T>(work: Work<T>, signal?: AbortSignal): Promise<T> {
  for (;;) {
    const end = performance.now() + SLICE;
    do {
      const step = work.next();
      if (step.done) return step.value;
    } while (performance.now() < end);
    await nextTurn();
    if (signal?.aborted) throw new AbortedError('ABORTED', 'the call was aborted', { cause: signal.reason });
  }
}

/** @internal Pauses after every so many calls: what it returns is called in a loop as `if (due()) yield`. */
export function every(count: number): () => boolean {
  let left = count;
  return () => {
    if (--left > 0) return false;
    left = count;
    return true;
  };
}

const RUN = 2048;

/** @internal Sorts in place, stable. `isAfter(a, b)`: a must stand behind b. Runs that are in order already cost one pass. */
export function* sortInSlices(values: Int32Array, isAfter: (a: number, b: number) => boolean): Work<void> {
  const due = every(8192);
  let isSorted = true;
  for (let i = 1; i < values.length && isSorted; i++) {
    if (isAfter(values[i - 1]!, values[i]!)) isSorted = false;
    if (due()) yield;
  }
  if (isSorted) return;
  for (let start = 0; start < values.length; start += RUN) {
    values.subarray(start, start + RUN).sort((a, b) => (isAfter(a, b) ? 1 : isAfter(b, a) ? -1 : 0));
    yield;
  }
  let from: Int32Array = values;
  let to: Int32Array = new Int32Array(values.length);
  for (let width = RUN; width < values.length; width *= 2) {
    for (let start = 0; start < values.length; start += 2 * width) {
      const middle = Math.min(start + width, values.length);
      const end = Math.min(start + 2 * width, values.length);
      for (let at = start, left = start, right = middle; at < end; at++) {
        const takesRight = left === middle || (right < end && isAfter(from[left]!, from[right]!));
        to[at] = takesRight ? from[right++]! : from[left++]!;
        if (due()) yield;
      }
    }
    [from, to] = [to, from];
  }
  if (from !== values) values.set(from);
}
