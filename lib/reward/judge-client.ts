/** One question to an OpenAI-compatible chat-completions endpoint, asked again where that may help. */
import { createHash } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { makeError } from '../errors.js';
import type { JudgeMessage } from './judge-prompts.js';

/** Why a reply is missing. `refused`: no other call would fare better (key, address, name of the model). */
export type JudgeFailureKind =
  | 'refused'
  | 'status'
  | 'network'
  | 'timeout'
  | 'body'
  | 'undecided'
  | 'not-asked';

/** @internal A call that brought no reply. */
export class CallFailure extends Error {
  readonly kind: JudgeFailureKind;
  /** Milliseconds that the server asks to wait; undefined where it does not say. */
  readonly waitMs: number | undefined;
  readonly again: boolean;

  constructor(
    kind: JudgeFailureKind,
    message: string,
    more: { again?: boolean; waitMs?: number | undefined } = {},
  ) {
    super(message);
    this.kind = kind;
    this.again = more.again ?? true;
    this.waitMs = more.waitMs;
  }
}

export interface ClientOptions {
  readonly url: URL;
  readonly model: string;
  readonly parameters: Readonly<Record<string, unknown>>;
  readonly apiKey: string | undefined;
  readonly concurrency: number;
  readonly timeoutMs: number;
  readonly retries: number;
  readonly backoffMs: number;
  readonly longestWaitMs: number;
}

/** No honest reply is longer (bytes). */
const LONGEST_BODY = 2 ** 20;

/** @internal */
export class JudgeClient {
  readonly #options: ClientOptions;
  /** Calls under way, and who waits for one to end. */
  #busy = 0;
  readonly #waiting: (() => void)[] = [];
  /** No call before this time (of `performance.now`): one that was told to wait waits for all. */
  #notBefore = 0;
  calls = 0;
  retries = 0;

  constructor(options: ClientOptions) {
    this.#options = options;
  }

  /** SHA-256 of all that decides the reply. The key of the API is no part of it. */
  cacheKey(messages: readonly JudgeMessage[]): string {
    const { url, model, parameters } = this.#options;
    const named = Object.entries(parameters).sort(([a], [b]) => (a < b ? -1 : 1));
    const what = JSON.stringify([url.href, model, messages, named]);
    return createHash('sha256').update(what).digest('hex');
  }

  /**
   * The text of the reply. Throws `CallFailure` once nothing helps, and `ABORTED` at once when the signal fires. `key`
   * decides the jitter: the same question waits the same time in every run.
   */
  async ask(messages: readonly JudgeMessage[], key: string, signal: AbortSignal): Promise<string> {
    const { retries, backoffMs, longestWaitMs } = this.#options;
    await this.#enter(signal);
    try {
      for (let attempt = 0; ; attempt++) {
        await this.#pause(this.#notBefore - performance.now(), signal);
        try {
          this.calls++;
          return await this.#call(messages, signal);
        } catch (error) {
          throwIfAborted(signal);
          if (!(error instanceof CallFailure) || !error.again || attempt === retries) throw error;
          if (error.waitMs !== undefined && error.waitMs > longestWaitMs) throw error;
          this.retries++;
          if (error.waitMs !== undefined) {
            this.#notBefore = Math.max(this.#notBefore, performance.now() + error.waitMs);
          }
          const backoff = Math.min(longestWaitMs, backoffMs * 2 ** attempt);
          await this.#pause(error.waitMs ?? backoff * (0.5 + 0.5 * fraction(key, attempt)), signal);
        }
      }
    } finally {
      this.#leave();
    }
  }

  async #enter(signal: AbortSignal): Promise<void> {
    if (this.#busy < this.#options.concurrency) {
      this.#busy++;
      return;
    }
    await new Promise<void>((resolve, reject) => {
      const enter = () => {
        signal.removeEventListener('abort', stop);
        resolve();
      };
      const stop = () => {
        this.#waiting.splice(this.#waiting.indexOf(enter), 1);
        reject(aborted(signal));
      };
      this.#waiting.push(enter);
      signal.addEventListener('abort', stop, { once: true });
    });
  }

  // The place is handed on: the count stays as it is.
  #leave(): void {
    const next = this.#waiting.shift();
    if (next) next();
    else this.#busy--;
  }

  async #pause(milliseconds: number, signal: AbortSignal): Promise<void> {
    throwIfAborted(signal);
    if (milliseconds <= 0) return;
    await sleep(milliseconds, undefined, { signal }).catch(() => throwIfAborted(signal));
  }

  async #call(messages: readonly JudgeMessage[], signal: AbortSignal): Promise<string> {
    const { url, model, parameters, apiKey, timeoutMs } = this.#options;
    // One limit for the whole call, so that a reply that only drips ends too.
    const limit = new AbortController();
    const timer = setTimeout(() => limit.abort(), timeoutMs);
    try {
      const response = await fetch(url, {
        method: 'POST',
        headers: {
          'content-type': 'application/json',
          accept: 'application/json',
          ...(apiKey === undefined ? {} : { authorization: `Bearer ${apiKey}` }),
        },
        body: JSON.stringify({ model, messages, stream: false, ...parameters }),
        // The key goes where the caller said, and nowhere else.
        redirect: 'manual',
        signal: AbortSignal.any([signal, limit.signal]),
      });
      const body = await readBody(response);
      if (!response.ok) throw this.#statusFailure(response, body);
      return this.#textOf(body);
    } catch (error) {
      if (error instanceof CallFailure) throw error;
      if (limit.signal.aborted) throw new CallFailure('timeout', `no reply within ${timeoutMs / 1000} s`);
      throw new CallFailure('network', this.redact(reasonOf(error)));
    } finally {
      clearTimeout(timer);
      // Whatever still comes is not waited for.
      limit.abort();
    }
  }

  #statusFailure(response: Response, body: string): CallFailure {
    const { status } = response;
    const said = this.#messageOf(body);
    const text = `HTTP ${status}${said === '' ? '' : `: ${said}`}`;
    if (status === 401 || status === 403) {
      return new CallFailure('refused', `it refuses the key (${text})`, { again: false });
    }
    if (status === 404)
      return new CallFailure('refused', `it knows no such address or model (${text})`, { again: false });
    if (status >= 300 && status < 400) {
      return new CallFailure('refused', `it redirects (${text}), which is not followed`, { again: false });
    }
    const again = status === 408 || status === 409 || status === 425 || status === 429 || status >= 500;
    return new CallFailure('status', text, { again, waitMs: retryAfter(response.headers) });
  }

  #textOf(body: string): string {
    let value: unknown;
    try {
      value = JSON.parse(body);
    } catch {
      throw new CallFailure('body', `its reply is not JSON: ${this.#clip(body)}`);
    }
    const content = field(field(field(field(value, 'choices'), 0), 'message'), 'content');
    const parts: unknown[] = Array.isArray(content) ? content : [content];
    const texts = parts.map((part) => (typeof part === 'string' ? part : field(part, 'text')));
    if (texts.every((text) => typeof text === 'string')) return this.redact(texts.join(''));
    throw new CallFailure('body', `its reply has no choices[0].message.content: ${this.#clip(body)}`);
  }

  /** What an error's body says, in one line. */
  #messageOf(body: string): string {
    try {
      const error = field(JSON.parse(body), 'error');
      const message = typeof error === 'string' ? error : field(error, 'message');
      if (typeof message === 'string') return this.#clip(message);
    } catch {}
    return this.#clip(body);
  }

  #clip(text: string): string {
    // Redacted first: a key that is cut is still most of a key.
    const line = this.redact(text)
      .replace(/[\s\p{C}]+/gu, ' ')
      .trim();
    return line.length > 200 ? `${line.slice(0, 200)}…` : line;
  }

  /** Servers like to quote the key that they refuse. */
  redact(text: string): string {
    const { apiKey } = this.#options;
    // A placeholder such as "x" is no secret, and would tear holes into replies.
    return apiKey === undefined || apiKey.length < SHORTEST_SECRET ? text : text.replaceAll(apiKey, '***');
  }
}

const SHORTEST_SECRET = 8;

/** The body as text. Stops reading at the limit. */
async function readBody(response: Response): Promise<string> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of (response.body ?? []) as AsyncIterable<Uint8Array>) {
    chunks.push(chunk);
    size += chunk.length;
    if (size > LONGEST_BODY) throw new CallFailure('body', `its reply is longer than ${LONGEST_BODY} bytes`);
  }
  return Buffer.concat(chunks).toString('utf8');
}

/** Milliseconds of a Retry-After header: seconds, or a date, which is compared with the server's own clock. */
function retryAfter(headers: Headers): number | undefined {
  const text = headers.get('retry-after');
  if (text === null) return undefined;
  if (/^\d+(\.\d+)?$/.test(text.trim())) return Number(text) * 1000;
  const until = Date.parse(text);
  const now = Date.parse(headers.get('date') ?? '');
  const wait = until - (Number.isNaN(now) ? Date.now() : now);
  return Number.isNaN(wait) ? undefined : Math.max(0, wait);
}

/** A draw in [0, 1) that belongs to the question and the attempt. */
function fraction(key: string, attempt: number): number {
  return createHash('sha256').update(`${key} ${attempt}`).digest().readUInt32BE(0) / 2 ** 32;
}

function field(value: unknown, key: string | number): unknown {
  return typeof value === 'object' && value !== null
    ? (value as Record<string | number, unknown>)[key]
    : undefined;
}

/** fetch hides the reason ("fetch failed") in its cause. */
function reasonOf(error: unknown): string {
  const cause = error instanceof Error ? (error.cause ?? error) : error;
  if (!(cause instanceof Error)) return String(cause);
  return cause.message || ((cause as NodeJS.ErrnoException).code ?? cause.name);
}

function aborted(signal: AbortSignal): Error {
  return makeError('ABORTED', 'stopped by its signal while asking the judge', signal.reason);
}

function throwIfAborted(signal: AbortSignal): void {
  if (signal.aborted) throw aborted(signal);
}
