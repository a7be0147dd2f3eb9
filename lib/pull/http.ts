/** A file over HTTP, continued where an earlier attempt stopped. */
import { type FileHandle, open } from 'node:fs/promises';
import { makeError, SelfeditError } from '../errors.js';
import { messageOf } from '../format/json.js';
import { sizeOf, throwIfAborted } from './files.js';

export interface HttpLimits {
  /** Longest wait for the first answer, and for each further piece, in milliseconds. */
  connectMs: number;
  stallMs: number;
}
/** Short, because another source may answer; long enough for a slow but working connection. */
export const HTTP_LIMITS: HttpLimits = { connectMs: 5_000, stallMs: 30_000 };

/** A connection that broke off; what has arrived is kept. */
class Interrupted extends Error {}

/**
 * Brings `part` to `bytes` bytes. Throws an `Error` with the reason when the source cannot give them,
 * `SelfeditError` `ABORTED` or `IO` when no other source would help.
 */
export async function downloadPart(
  url: string,
  part: string,
  bytes: number,
  onBytes: (done: number) => void,
  signal: AbortSignal | undefined,
  limits: HttpLimits,
): Promise<void> {
  for (;;) {
    const before = await sizeOf(part);
    if (before === bytes) return;
    try {
      await attempt(url, part, bytes, before < bytes ? before : 0, onBytes, signal, limits);
      return;
    } catch (error) {
      throwIfAborted(signal);
      // An attempt that brought something is worth another one; one that brought nothing is not.
      if (!(error instanceof Interrupted) || (await sizeOf(part)) <= before) throw error;
    }
  }
}

async function attempt(
  url: string,
  part: string,
  bytes: number,
  start: number,
  onBytes: (done: number) => void,
  signal: AbortSignal | undefined,
  { connectMs, stallMs }: HttpLimits,
): Promise<void> {
  throwIfAborted(signal);
  const timeout = new AbortController();
  let timer = setTimeout(() => timeout.abort(new Error(`no answer within ${connectMs / 1000} s`)), connectMs);
  const signals = signal ? [signal, timeout.signal] : [timeout.signal];
  try {
    const response = await fetch(url, {
      // Compression would make byte positions meaningless.
      headers: { 'accept-encoding': 'identity', ...(start > 0 ? { range: `bytes=${start}-` } : {}) },
      signal: AbortSignal.any(signals),
    }).catch((error: unknown) => {
      throw new Error(reasonOf(error, timeout.signal));
    });
    if (response.status === 416 && start > 0) {
      // The file there is shorter than what is here: begin again.
      await response.body?.cancel();
      await (await open(part, 'w')).close();
      return await attempt(url, part, bytes, 0, onBytes, signal, { connectMs, stallMs });
    }
    if (response.status !== 200 && response.status !== 206) {
      await response.body?.cancel();
      throw new Error(`HTTP ${response.status}`);
    }
    const from = response.status === 206 ? rangeStart(response) : 0;
    const announced = Number(response.headers.get('content-length') ?? Number.NaN);
    if ((from !== 0 && from !== start) || from + announced > bytes || !response.body) {
      await response.body?.cancel();
      throw new Error(`it offers ${from + announced} bytes from ${from}, expected ${bytes} from ${start}`);
    }
    const file = await openAt(part, from);
    try {
      let done = from;
      const body = response.body[Symbol.asyncIterator]();
      for (;;) {
        clearTimeout(timer);
        timer = setTimeout(() => timeout.abort(new Error(`nothing for ${stallMs / 1000} s`)), stallMs);
        const next = await body.next().catch((error: unknown) => {
          throw new Interrupted(reasonOf(error, timeout.signal));
        });
        if (next.done) break;
        const chunk = next.value as Uint8Array;
        if (done + chunk.length > bytes) throw new Error(`it sends more than the expected ${bytes} bytes`);
        await writeAll(file, chunk, done, part);
        done += chunk.length;
        onBytes(done);
      }
      if (done < bytes) throw new Interrupted(`it ended after ${done} of ${bytes} bytes`);
    } finally {
      await file.close();
    }
  } finally {
    clearTimeout(timer);
    timeout.abort();
  }
}

/** First byte of a partial answer; NaN when it does not say. */
function rangeStart(response: Response): number {
  const found = /^bytes (\d+)-/.exec(response.headers.get('content-range') ?? '');
  return found ? Number(found[1]) : Number.NaN;
}

/** Opened for writing with exactly the first `size` bytes kept. */
async function openAt(path: string, size: number): Promise<FileHandle> {
  try {
    const file = await open(path, size > 0 ? 'r+' : 'w');
    await file.truncate(size);
    return file;
  } catch (error) {
    throw makeError('IO', `cannot write ${path}: ${messageOf(error)}`, error);
  }
}

async function writeAll(file: FileHandle, chunk: Uint8Array, position: number, path: string): Promise<void> {
  try {
    for (let at = 0; at < chunk.length; ) {
      at += (await file.write(chunk, at, chunk.length - at, position + at)).bytesWritten;
    }
  } catch (error) {
    throw makeError('IO', `cannot write ${path}: ${messageOf(error)}`, error);
  }
}

/** fetch hides the reason ("fetch failed") in its cause. */
function reasonOf(error: unknown, timeout: AbortSignal): string {
  if (timeout.aborted) return messageOf(timeout.reason);
  if (error instanceof SelfeditError) return error.message;
  const cause = error instanceof Error ? error.cause : undefined;
  return cause instanceof Error ? cause.message || cause.name : messageOf(error);
}
