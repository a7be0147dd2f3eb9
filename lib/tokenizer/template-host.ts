/**
 * Templates come with models, so nobody vouches for them: they are parsed and rendered in a worker thread that may
 * take so much time and memory and no more. The call is synchronous: this thread sleeps until the answer is there.
 */
import { readFileSync } from 'node:fs';
import { MessageChannel, type MessagePort, receiveMessageOnPort, Worker } from 'node:worker_threads';
import { makeError } from '../errors.js';
import type { Answer, Request } from './template-worker.js';

/** Processor time, in milliseconds, of parsing a template, and of rendering it once. */
const MOST_TIME = 100;
/** Time on the clock for the same, however little of it the machine let the worker run; and for its start. */
const MOST_WAIT = 10_000;
const MOST_START = 60_000;
/** Memory of the worker in MiB, most of it its own code. */
const MOST_MEMORY = 48;
/** How often the clock is looked at once the time is over. */
const SLICE = 10;
/** Parsed templates that a worker keeps. */
const SLOTS = 16;

interface Host {
  worker: Worker;
  port: MessagePort;
  /** Answers so far, and the worker's thread number. */
  state: Int32Array;
  /** Where the worker keeps a template. */
  slots: Map<string, number>;
}

/** The worker of this isolate, once a template was rendered. */
let host: Host | undefined;

/**
 * The text that `template` renders. `variables` are plain data. Errors: `TEMPLATE_INVALID` when the template is not
 * Jinja, when it fails or raises, and when it takes more than 100 ms, 48 MiB or 2^20 characters; `INTERNAL` when no
 * worker can be started.
 */
export function renderTemplate(template: string, variables: Readonly<Record<string, unknown>>): string {
  host ??= start();
  let slot = host.slots.get(template);
  if (slot === undefined) {
    if (host.slots.size === SLOTS) host.slots.clear();
    slot = host.slots.size;
    ask(host, { slot, template }, 'cannot be read');
    host.slots.set(template, slot);
  }
  return ask(host, { slot, variables }, 'failed');
}

function start(): Host {
  const { port1, port2 } = new MessageChannel();
  const state = new Int32Array(new SharedArrayBuffer(8));
  const worker = new Worker(new URL('./template-worker.js', import.meta.url), {
    workerData: { port: port2, state },
    transferList: [port2],
    resourceLimits: { maxOldGenerationSizeMb: MOST_MEMORY - 8, maxYoungGenerationSizeMb: 8 },
    // It inherits nothing of the process and prints nothing.
    execArgv: [],
    env: {},
    stdout: true,
    stderr: true,
  });
  const started: Host = { worker, port: port1, state, slots: new Map() };
  worker.on('error', () => drop(started));
  worker.on('exit', () => drop(started));
  worker.unref();
  if (Atomics.wait(state, 0, 0, MOST_START) === 'timed-out') {
    drop(started);
    throw makeError(
      'INTERNAL',
      `the worker that renders chat templates did not start in ${MOST_START / 1000} s`,
    );
  }
  return started;
}

/** Ends a worker; the next template gets another. */
function drop(old: Host): void {
  if (host === old) host = undefined;
  old.port.close();
  void old.worker.terminate();
}

function ask(to: Host, request: Request, failure: string): string {
  const before = Atomics.load(to.state, 0);
  const clock = startClock(to.state);
  to.port.postMessage(request);
  let timeout = MOST_TIME;
  while (Atomics.wait(to.state, 0, before, timeout) === 'timed-out') {
    const limit = clock();
    if (limit !== undefined) {
      drop(to);
      throw makeError('TEMPLATE_INVALID', `the chat template ${failure}: ${limit}`);
    }
    timeout = SLICE;
  }
  const answer = receiveMessageOnPort(to.port)?.message as Answer | undefined;
  if (answer === undefined) {
    drop(to);
    throw makeError('INTERNAL', 'the worker that renders chat templates gave no answer');
  }
  if ('error' in answer) throw makeError('TEMPLATE_INVALID', `the chat template ${failure}: ${answer.error}`);
  return answer.text;
}

/**
 * Says which limit the worker went over, if any. Its own processor time counts where the system tells it, else that of
 * the whole process: on a machine that has none to give, a good template must not fail.
 */
function startClock({ 1: thread }: Int32Array): () => string | undefined {
  const startedAt = performance.now();
  const usedBefore = timeUsed(thread);
  return () => {
    const used = timeUsed(thread);
    if (used === undefined) return `it needs more than ${MOST_MEMORY} MiB of memory`;
    if (used - (usedBefore ?? 0) >= MOST_TIME) return `it takes more than ${MOST_TIME} ms`;
    if (performance.now() - startedAt >= MOST_WAIT) return `it takes more than ${MOST_WAIT / 1000} s`;
    return undefined;
  };
}

/** Milliseconds of processor time; `undefined` when the thread is no more. */
function timeUsed(thread: number | undefined): number | undefined {
  if (thread) {
    try {
      return Number(readFileSync(`/proc/self/task/${thread}/schedstat`, 'utf8').split(' ')[0]) / 1e6;
    } catch {
      return undefined;
    }
  }
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}
