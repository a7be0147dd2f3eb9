/** A large model as grader, through any OpenAI-compatible chat-completions endpoint. A call that fails is unknown, never wrong. */
import { makeError, type SelfeditError } from '../errors.js';
import { wholeNumber } from '../round.js';
import type { GradeRow, Grader } from './grader.js';
import { JudgeCache } from './judge-cache.js';
import { CallFailure, JudgeClient, type JudgeFailureKind } from './judge-client.js';
import {
  checkJudgePrompt,
  JUDGE_PROMPTS,
  type JudgeForm,
  type JudgeMessage,
  type JudgePrompt,
  judgeMessages,
  readReply,
} from './judge-prompts.js';

export interface JudgeOptions {
  /** Base address, such as `https://api.openai.com/v1` or `http://127.0.0.1:8080/v1`. */
  endpoint: string;
  /** Name of the model, as the endpoint knows it. */
  model: string;
  /** Key of the API, sent as a bearer token. It appears in no error, no log and no file. */
  apiKey?: string;
  /** Environment variable that holds the key, instead. */
  apiKeyVariable?: string;
  /** `verdict` by the right answer, or `rubric`: a mark from 0 to 10, which needs none. `verdict`. */
  form?: JudgeForm;
  /** Wording; the published one for verdicts. */
  prompt?: JudgePrompt;
  /** Further fields of the request. `{ temperature: 0, max_tokens: 16 }`; given ones replace all of these. */
  parameters?: Readonly<Record<string, unknown>>;
  /** Most calls at once. 8. */
  concurrency?: number;
  /** Longest time of one call, milliseconds. 60,000. */
  timeoutMs?: number;
  /** How often a call that failed is made again. 5. */
  retries?: number;
  /** First wait before the next attempt, milliseconds; doubled each time, less a keyed share of up to a half. 500. */
  backoffMs?: number;
  /** Longest wait, milliseconds; an answer is unknown where the server asks for more by Retry-After. 60,000. */
  longestWaitMs?: number;
  /** After so many failed answers in a row the rest of a call to `grade` is unknown without being asked. 16. */
  giveUpAfter?: number;
  /** File that keeps replies (JSON lines): what was asked before is not asked again. None by default. */
  cache?: string;
  /** Told of each question that stays unknown. */
  onFailure?: (failure: JudgeFailure) => void;
}

/** A question to the judge that brought no grade. */
export interface JudgeFailure {
  readonly kind: JudgeFailureKind;
  /** What happened, in words. */
  readonly reason: string;
  /** The first of the answers that it was about. */
  readonly row: GradeRow;
}

/** What a judge has done so far. */
export interface JudgeStatistics {
  /** Answers given to it, and how many of them have no grade. */
  readonly answers: number;
  readonly unknown: number;
  /** Answers whose reply was in the cache. */
  readonly cached: number;
  /** Requests sent, those repeated included, and how many of them were repeats. */
  readonly calls: number;
  readonly retries: number;
  /** Questions without a grade, by kind; the first of them in words. */
  readonly failures: Readonly<Partial<Record<JudgeFailureKind, number>>>;
  readonly firstFailure: string | undefined;
}

/** A grader that says how it fared. */
export interface Judge extends Grader {
  statistics(): JudgeStatistics;
}

export const JUDGE_DEFAULTS = {
  form: 'verdict' as JudgeForm,
  parameters: { temperature: 0, max_tokens: 16 } as Readonly<Record<string, unknown>>,
  concurrency: 8,
  timeoutMs: 60_000,
  retries: 5,
  backoffMs: 500,
  longestWaitMs: 60_000,
  giveUpAfter: 16,
} as const;

/** Milliseconds that a timer of Node can wait. */
const LONGEST_TIMER = 2 ** 31 - 1;

/**
 * The judge. Equal questions of one call are asked once. Its `grade` gives NaN where the endpoint gave no verdict in the
 * end; it throws `OPTION_INVALID` when the endpoint refuses the key or does not know the model (once refused, it asks no
 * more), `INPUT_INVALID` for an answer without a gold answer in the form `verdict`, `IO` when the cache cannot be opened, and
 * `ABORTED`, at once, when the signal fires. Errors of the construction: `OPTION_INVALID`.
 */
export function judge(given: JudgeOptions): Judge {
  const options = { ...JUDGE_DEFAULTS, ...given };
  const { form, model, endpoint } = options;
  if (form !== 'verdict' && form !== 'rubric') {
    throw makeError('OPTION_INVALID', `judge form is "${String(form)}"; expected verdict or rubric`);
  }
  if (typeof model !== 'string' || model === '') {
    throw makeError('OPTION_INVALID', "judge model is missing; expected the endpoint's name of a model");
  }
  const prompt = options.prompt ?? JUDGE_PROMPTS[form];
  checkJudgePrompt(form, prompt);
  for (const name of ['model', 'messages', 'stream', 'n']) {
    if (!Object.hasOwn(options.parameters, name)) continue;
    throw makeError(
      'OPTION_INVALID',
      `judge parameters hold "${name}"; expected other fields of the request`,
    );
  }
  const client = new JudgeClient({
    url: completionsUrl(endpoint),
    model,
    parameters: options.parameters,
    apiKey: keyOf(options),
    concurrency: wholeNumber('judge concurrency', options.concurrency, 1),
    timeoutMs: Math.min(wholeNumber('judge timeoutMs', options.timeoutMs, 1), LONGEST_TIMER),
    retries: wholeNumber('judge retries', options.retries, 0),
    backoffMs: wholeNumber('judge backoffMs', options.backoffMs, 0),
    longestWaitMs: Math.min(wholeNumber('judge longestWaitMs', options.longestWaitMs, 0), LONGEST_TIMER),
  });
  return new EndpointJudge(client, {
    form,
    prompt,
    // Without its query, which may hold a key.
    name: `judge ${completionsUrl(endpoint).origin} (model "${model}")`,
    giveUpAfter: wholeNumber('judge giveUpAfter', options.giveUpAfter, 1),
    concurrency: options.concurrency,
    cache: options.cache,
    onFailure: options.onFailure,
    keyFrom: options.apiKeyVariable ?? 'apiKey',
  });
}

interface Settings {
  readonly form: JudgeForm;
  readonly prompt: JudgePrompt;
  readonly name: string;
  readonly giveUpAfter: number;
  readonly concurrency: number;
  readonly cache: string | undefined;
  readonly onFailure: ((failure: JudgeFailure) => void) | undefined;
  readonly keyFrom: string;
}

/** One question to the judge, and the rows that wait for it. */
interface Item {
  readonly key: string;
  readonly messages: readonly JudgeMessage[];
  readonly rows: number[];
}

class EndpointJudge implements Judge {
  readonly name = 'judge';
  readonly patient = true;
  readonly openEnded: boolean;
  readonly #client: JudgeClient;
  readonly #settings: Settings;
  #cache: Promise<JudgeCache> | undefined;
  #cacheFailed = false;
  #refused: SelfeditError | undefined;
  #counts = { answers: 0, unknown: 0, cached: 0 };
  #failures: Partial<Record<JudgeFailureKind, number>> = {};
  #firstFailure: string | undefined;
  #cause: string | undefined;

  constructor(client: JudgeClient, settings: Settings) {
    this.#client = client;
    this.#settings = settings;
    this.openEnded = settings.form === 'rubric';
  }

  statistics(): JudgeStatistics {
    const { calls, retries } = this.#client;
    const failures = { ...this.#failures };
    return { ...this.#counts, calls, retries, failures, firstFailure: this.#firstFailure };
  }

  cause(): string | undefined {
    return this.#cause;
  }

  async grade(
    rows: readonly GradeRow[],
    { signal }: { readonly signal?: AbortSignal | undefined } = {},
  ): Promise<readonly number[]> {
    if (signal?.aborted)
      throw makeError('ABORTED', 'stopped by its signal before asking the judge', signal.reason);
    if (this.#refused) throw this.#refused;
    this.#cause = undefined;
    const { form, prompt, concurrency, cache: path } = this.#settings;
    const bare = this.openEnded ? -1 : rows.findIndex(({ answers }) => answers.length === 0);
    if (bare >= 0) {
      throw makeError(
        'INPUT_INVALID',
        `row ${bare} ("${rows[bare]!.question}") has no gold answer; expected at least one, or the form "rubric"`,
      );
    }
    if (path !== undefined) this.#cache ??= JudgeCache.open(path);
    const cache = await this.#cache;

    const items = new Map<string, Item>();
    for (const [index, row] of rows.entries()) {
      const messages = judgeMessages(row, prompt);
      const key = this.#client.cacheKey(messages);
      const item = items.get(key);
      if (item) item.rows.push(index);
      else items.set(key, { key, messages, rows: [index] });
    }
    const scores: number[] = new Array(rows.length).fill(Number.NaN);
    const give = (item: Item, score: number) => {
      for (const row of item.rows) scores[row] = score;
    };
    const open: Item[] = [];
    for (const item of items.values()) {
      const reply = cache?.get(item.key);
      const score = reply === undefined ? undefined : readReply(reply, form);
      if (score === undefined) open.push(item);
      else {
        give(item, score);
        this.#counts.cached += item.rows.length;
      }
    }

    // A refused key stops the calls that are under way.
    const stop = new AbortController();
    const either = signal ? AbortSignal.any([signal, stop.signal]) : stop.signal;
    let failed = 0;
    let next = 0;
    const work = async () => {
      while (next < open.length) {
        const item = open[next++]!;
        try {
          if (failed >= this.#settings.giveUpAfter) {
            throw new CallFailure(
              'not-asked',
              `not asked, as ${failed} answers before it had failed in a row`,
            );
          }
          const reply = await this.#client.ask(item.messages, item.key, either);
          failed = 0;
          const score = readReply(reply, form);
          if (score === undefined)
            throw new CallFailure(
              'undecided',
              `its reply is no ${form}: ${JSON.stringify(reply.slice(0, 80))}`,
            );
          give(item, score);
          await this.#keep(cache, item.key, reply);
        } catch (error) {
          if (!(error instanceof CallFailure)) throw error;
          if (error.kind === 'refused') throw this.#refuse(error);
          if (error.kind !== 'not-asked' && error.kind !== 'undecided') failed++;
          this.#fail(error, rows[item.rows[0]!]!);
        }
      }
    };
    const workers = Array.from({ length: Math.min(concurrency, open.length) }, () =>
      work().catch((error: unknown) => {
        stop.abort();
        throw error;
      }),
    );
    // All of them, so that no call is left behind.
    const failure = (await Promise.allSettled(workers)).find(({ status }) => status === 'rejected');
    if (failure) {
      if (this.#refused && !signal?.aborted) throw this.#refused;
      throw (failure as PromiseRejectedResult).reason;
    }
    this.#counts.answers += rows.length;
    this.#counts.unknown += scores.filter(Number.isNaN).length;
    return scores;
  }

  async #keep(cache: JudgeCache | undefined, key: string, reply: string): Promise<void> {
    try {
      await cache?.add(key, reply);
    } catch (error) {
      // The verdict is known; that the next run must ask again is worth one word.
      if (!this.#cacheFailed) process.emitWarning((error as Error).message, 'SelfeditWarning');
      this.#cacheFailed = true;
    }
  }

  #fail({ kind, message }: CallFailure, row: GradeRow): void {
    const reason = `${this.#settings.name}: ${message}`;
    this.#failures[kind] = (this.#failures[kind] ?? 0) + 1;
    this.#firstFailure ??= reason;
    this.#cause ??= reason;
    this.#settings.onFailure?.({ kind, reason, row });
  }

  #refuse({ message }: CallFailure): SelfeditError {
    const { name, keyFrom } = this.#settings;
    this.#refused ??= makeError(
      'OPTION_INVALID',
      `${name}: ${message}; expected an address, a model and a key (${keyFrom}) that belong together`,
    );
    this.#failures.refused = 1;
    this.#firstFailure ??= this.#refused.message;
    return this.#refused;
  }
}

function completionsUrl(endpoint: string): URL {
  let url: URL;
  try {
    url = new URL(endpoint);
  } catch {
    // Not quoted: it may hold a key.
    throw makeError(
      'OPTION_INVALID',
      'judge endpoint is no address; expected one such as http://127.0.0.1:8080/v1',
    );
  }
  if (url.protocol !== 'http:' && url.protocol !== 'https:') {
    throw makeError('OPTION_INVALID', `judge endpoint begins with ${url.protocol}; expected http: or https:`);
  }
  if (url.username !== '' || url.password !== '') {
    throw makeError(
      'OPTION_INVALID',
      'judge endpoint holds a password; expected the key as apiKey or apiKeyVariable',
    );
  }
  const path = url.pathname.replace(/\/+$/, '');
  url.pathname = path.endsWith('/chat/completions') ? path : `${path}/chat/completions`;
  url.hash = '';
  return url;
}

function keyOf({ apiKey, apiKeyVariable }: JudgeOptions): string | undefined {
  if (apiKey !== undefined && apiKeyVariable !== undefined) {
    throw makeError('OPTION_INVALID', 'judge has both apiKey and apiKeyVariable; expected one of them');
  }
  let key = apiKey;
  if (apiKeyVariable !== undefined) {
    // Not quoted unless it looks like a name: it might be the key itself.
    if (!/^[A-Z][A-Z0-9_]*$/.test(apiKeyVariable)) {
      throw makeError(
        'OPTION_INVALID',
        'judge apiKeyVariable is no name in capitals; expected one such as OPENAI_API_KEY',
      );
    }
    key = process.env[apiKeyVariable]?.trim();
    if (key === undefined || key === '') {
      throw makeError(
        'OPTION_INVALID',
        `environment variable ${apiKeyVariable} is not set; expected the judge's key in it`,
      );
    }
  }
  if (key !== undefined && !/^[\x21-\x7e]+$/.test(key)) {
    throw makeError(
      'OPTION_INVALID',
      "the judge's key holds characters that no key has, or none; expected printable ones",
    );
  }
  return key;
}
