// @ts-check
/**
 * The thread in which `template-host.ts` parses and renders templates. Each request is answered by one message and by
 * one more on the counter that the host waits for.
 */
import { readlinkSync } from 'node:fs';
import { workerData } from 'node:worker_threads';
import { parseTemplate, render } from './template-interpreter.js';

/**
 * @typedef {{ slot: number, template?: string, variables?: Record<string, unknown> }} Request
 * `template` is parsed into the slot; `variables` render what is in it.
 * @typedef {{ text: string } | { error: string }} Answer
 */

const { port, state } =
  /** @type {{ port: import('node:worker_threads').MessagePort, state: Int32Array }} */ (workerData);

/** @type {ReturnType<typeof parseTemplate>[]} */
const programs = [];

/**
 * @param {Request} request
 * @returns {Answer}
 */
function answer({ slot, template, variables }) {
  try {
    if (template !== undefined) programs[slot] = parseTemplate(template);
    const program = programs[slot];
    return { text: variables && program ? render(program, variables) : '' };
  } catch (error) {
    return { error: error instanceof Error ? error.message : String(error) };
  }
}

/** The kernel's number of this thread, by which its processor time can be read; 0 where there is none. */
function threadNumber() {
  try {
    return Number(readlinkSync('/proc/thread-self').split('/').at(-1)) || 0;
  } catch {
    return 0;
  }
}

function done() {
  Atomics.add(state, 0, 1);
  Atomics.notify(state, 0);
}

port.on('message', (request) => {
  port.postMessage(answer(request));
  done();
});

// What V8 compiles at first use is not counted as a template's own time.
const warm = { messages: [{ role: 'user', content: ' Hi ' }], tools: null };
answer({
  slot: 0,
  template: "{% for m in messages %}{{ m.role + '\\n' + m['content'] | trim }}{% endfor %}",
  variables: warm,
});
Atomics.store(state, 1, threadNumber());
done();
