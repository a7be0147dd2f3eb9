/** Answers of a person: single keys from a terminal, lines from a pipe. */
import { createInterface } from 'node:readline';
import type { ReadStream } from 'node:tty';
import type { Session } from './session.js';

/** The part of standard input that is needed. */
export type KeySource = NodeJS.ReadableStream & Partial<Pick<ReadStream, 'isTTY' | 'setRawMode'>>;

/** Yields answers until the input ends, or Ctrl+D. Throws `ABORTED` when the session is interrupted. */
export async function* readKeys(source: KeySource, session: Session): AsyncGenerator<string, void> {
  session.throwIfAborted();
  if (source.isTTY && source.setRawMode) yield* rawKeys(source, session);
  else yield* lines(source, session);
  session.throwIfAborted();
}

async function* lines(source: KeySource, session: Session): AsyncGenerator<string, void> {
  const reader = createInterface({ input: source });
  const stop = () => reader.close();
  session.signal.addEventListener('abort', stop, { once: true });
  try {
    for await (const line of reader) {
      session.throwIfAborted();
      yield line.trim();
    }
  } finally {
    session.signal.removeEventListener('abort', stop);
    reader.close();
  }
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: it is what is looked for
const ESCAPE = /\u001b(?:[[O][0-?]*[ -/]*[@-~]?|.)?/gs;

async function* rawKeys(source: KeySource, session: Session): AsyncGenerator<string, void> {
  const restore = () => source.setRawMode!(false);
  const forget = session.onExit(restore);
  source.setRawMode!(true);
  source.setEncoding('utf8');
  const waiting: string[] = [];
  let wake = () => {};
  let ended = false;
  const take = (text: string | Buffer) => {
    // PageUp and its like come as several characters, none of which is an answer.
    waiting.push(...String(text).replace(ESCAPE, ''));
    wake();
  };
  const end = () => {
    ended = true;
    wake();
  };
  source.on('data', take).on('end', end);
  session.signal.addEventListener('abort', end, { once: true });
  try {
    for (;;) {
      const key = waiting.shift();
      // A raw terminal sends these as keys, not as a signal and an end.
      if (key === '\x03') process.kill(process.pid, 'SIGINT');
      else if (key === '\x04') return;
      else if (key !== undefined) yield key;
      else if (ended) return;
      else {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
    }
  } finally {
    source.off('data', take).off('end', end);
    source.pause();
    restore();
    forget();
  }
}
