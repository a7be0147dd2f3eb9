/** Native jobs as promises: typed errors with the caller's stack, `AbortSignal`, progress. */
import type { NativeJob, Progress, ProgressCallback } from './binding.js';
import { AbortedError, fromNative, makeError } from './errors.js';
import type { Resource } from './resource.js';

export type { Progress };

/** What every long call takes. */
export interface CallOptions {
  /** Stops the call within one step; the promise rejects with `AbortedError`. */
  signal?: AbortSignal | undefined;
  /** Called at most once a step, on the event loop; a slow callback misses reports, it never delays the work. */
  onProgress?: ((progress: Progress) => void) | undefined;
}

/** @internal Starts a native job; `uses` stay open until it has ended. */
export async function runJob<T>(
  start: (onProgress: ProgressCallback) => NativeJob<T>,
  { signal, onProgress }: CallOptions = {},
  uses: readonly Resource[] = [],
): Promise<T> {
  if (signal !== undefined && typeof signal?.addEventListener !== 'function') {
    throw makeError('OPTION_INVALID', 'signal: expected an AbortSignal');
  }
  if (onProgress !== undefined && typeof onProgress !== 'function') {
    throw makeError('OPTION_INVALID', `onProgress is ${typeof onProgress}; expected a function`);
  }
  if (signal?.aborted) throw aborted(signal);
  for (const resource of uses) resource.assertOpen();
  const caller = new Error();
  let thrown: { error: unknown } | undefined;
  const report = (progress: Progress): void => {
    if (thrown) return;
    try {
      onProgress?.(progress);
    } catch (error) {
      thrown = { error };
      job.cancel();
    }
  };
  let job: NativeJob<T>;
  try {
    job = start(onProgress && report);
  } catch (error) {
    throw fromNative(error);
  }
  const cancel = (): void => job.cancel();
  signal?.addEventListener('abort', cancel, { once: true });
  for (const resource of uses) resource.hold(job.promise);
  try {
    const result = await job.promise;
    for (const warning of job.warnings()) process.emitWarning(warning, 'SelfeditWarning');
    if (thrown) throw thrown.error;
    return result;
  } catch (error) {
    let typed = fromNative(error);
    if (thrown) typed = callbackThrew(thrown.error);
    else if (signal?.aborted) typed = aborted(signal);
    // The stack of the native side ends in the event loop; the caller's says where the call was made.
    if (caller.stack) {
      typed.stack = `${typed.name}: ${typed.message}\n${caller.stack.split('\n').slice(2).join('\n')}`;
    }
    throw typed;
  } finally {
    signal?.removeEventListener('abort', cancel);
  }
}

function aborted(signal: AbortSignal): AbortedError {
  return new AbortedError('ABORTED', 'the call was aborted', { cause: signal.reason });
}

function callbackThrew(error: unknown): AbortedError {
  const what = error instanceof Error ? error.message : String(error);
  return new AbortedError('ABORTED', `the progress callback threw: ${what}`, { cause: error });
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
  let waiting: (() => void)[] = [];
  const wake = (): void => {
    const woken = waiting;
    waiting = [];
    for (const resolve of woken) resolve();
  };
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
          waiting.push(resolve);
        });
      }
    }
  }
  return { result, [Symbol.asyncIterator]: reports };
}
