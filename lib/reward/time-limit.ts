/** Calls of code that is not ours: they end in time, one way or another. */
import { makeError } from '../errors.js';

/**
 * What `work` gives, or an error when it takes more than `seconds` (Infinity: any time) or `signal` fires. The work gets a signal that fires in
 * both cases; work that does not heed it goes on unseen. A function that never returns to the event loop cannot be stopped.
 */
export async function withinTime<T>(
  name: string,
  seconds: number,
  work: (signal: AbortSignal) => Promise<T> | T,
  signal?: AbortSignal,
): Promise<T> {
  if (signal?.aborted) throw makeError('ABORTED', `${name}: stopped by its signal`);
  const inner = new AbortController();
  let end = () => {};
  const ended = new Promise<never>((_, reject) => {
    const timer =
      // What a timer cannot wait for, about 25 days, is no limit.
      1000 * seconds < 2 ** 31 &&
      setTimeout(() => {
        reject(makeError('REWARD_UNKNOWN', `${name} did not end within ${seconds} s`));
        inner.abort();
      }, 1000 * seconds);
    const onAbort = () => {
      reject(makeError('ABORTED', `${name}: stopped by its signal`));
      inner.abort();
    };
    signal?.addEventListener('abort', onAbort, { once: true });
    end = () => {
      if (timer) clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
    };
  });
  try {
    const result = (async () => work(inner.signal))();
    // Should it fail after its time, nobody is there to hear it.
    result.catch(() => {});
    return await Promise.race([result, ended]);
  } finally {
    end();
  }
}

/** `work` for every item, `limit` at a time, results in the order of the items. After a failure nothing new begins. */
export async function mapConcurrently<T, R>(
  items: readonly T[],
  limit: number,
  work: (item: T, index: number) => Promise<R>,
): Promise<R[]> {
  const results = new Array<R>(items.length);
  let next = 0;
  const lane = async () => {
    while (next < items.length) {
      const index = next++;
      try {
        results[index] = await work(items[index]!, index);
      } catch (error) {
        next = items.length;
        throw error;
      }
    }
  };
  const lanes = Array.from({ length: Math.min(limit, items.length) }, lane);
  const failed = (await Promise.allSettled(lanes)).find((lane) => lane.status === 'rejected');
  if (failed) throw failed.reason;
  return results;
}
