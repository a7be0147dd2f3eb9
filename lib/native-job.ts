/** Native jobs as promises: typed errors with the caller's stack, `AbortSignal`, progress. */
import type { NativeJob, NativeProgress, ProgressCallback } from './binding.js';
import { AbortedError, fromNative } from './errors.js';
import type { Resource } from './resource.js';

/** Progress of a call: `done` of `total` in the call's own unit, steps taken, mean loss of the last step (or NaN). */
export type Progress = NativeProgress;

/** What every long call takes. */
export interface CallOptions {
  /** Stops the call within one step; the promise rejects with `AbortedError`. */
  signal?: AbortSignal | undefined;
  /** Called at most once a step, on the event loop; a slow callback misses reports, it never delays the work. */
  onProgress?: ((progress: Progress) => void) | undefined;
}

/** @internal Starts a native job; `uses` stay open until it has ended. */
export function runJob<T>(
  start: (onProgress: ProgressCallback) => NativeJob<T>,
  { signal, onProgress }: CallOptions = {},
  uses: readonly Resource[] = [],
): Promise<T> {
  if (signal?.aborted) return Promise.reject(aborted(signal));
  for (const resource of uses) resource.assertOpen();
  let job: NativeJob<T>;
  try {
    job = start(onProgress);
  } catch (error) {
    throw fromNative(error);
  }
  const cancel = (): void => job.cancel();
  signal?.addEventListener('abort', cancel, { once: true });
  const caller = new Error();
  const work = job.promise
    .catch((error: unknown) => {
      if (signal?.aborted) throw aborted(signal);
      const typed = fromNative(error);
      // The stack of the native side ends in the event loop; the caller's says where the call was made.
      if (caller.stack) {
        typed.stack = `${typed.name}: ${typed.message}\n${caller.stack.split('\n').slice(2).join('\n')}`;
      }
      throw typed;
    })
    .finally(() => signal?.removeEventListener('abort', cancel));
  for (const resource of uses) resource.hold(work);
  return work;
}

function aborted(signal: AbortSignal): AbortedError {
  return new AbortedError('ABORTED', 'the call was aborted', { cause: signal.reason });
}

/** @internal Runs a synchronous native call; its errors become typed ones. */
export function runSync<T>(body: () => T): T {
  try {
    return body();
  } catch (error) {
    throw fromNative(error);
  }
}

/**
 * Progress as an async iterator: yields the reports of a call, and returns its result.
 * Reports that come while the consumer is busy replace each other: only the latest is yielded.
 *
 * ```ts
 * const work = watch((onProgress) => adapt(edits, { onProgress }));
 * for await (const { done, total } of work) console.error(`${done}/${total}`);
 * const results = await work.result;
 * ```
 */
export function watch<T>(
  start: (onProgress: (progress: Progress) => void) => Promise<T>,
): AsyncIterable<Progress> & { readonly result: Promise<T> } {
  let latest: Progress | undefined;
  let ended = false;
  let wake = (): void => {};
  const result = start((progress) => {
    latest = progress;
    wake();
  });
  const end = (): void => {
    ended = true;
    wake();
  };
  result.then(end, end);
  async function* reports(): AsyncGenerator<Progress, void> {
    for (;;) {
      if (latest !== undefined) {
        const next = latest;
        latest = undefined;
        yield next;
      } else if (ended) {
        await result; // rejects here too, so that a loop cannot miss the failure
        return;
      } else {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
    }
  }
  return { result, [Symbol.asyncIterator]: reports };
}
