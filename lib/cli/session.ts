/** One invocation of the command line: where results go, where messages go, and what stops it. */
import { makeError } from '../errors.js';
import { Meter, type MeterOptions } from './meter.js';

/** The reader of standard output has gone (`selfedit … | head`): not worth a message. */
export class BrokenPipe extends Error {}

export class Session {
  readonly #controller = new AbortController();
  readonly #cleanups = new Set<() => void>();
  #meter: Meter | undefined;

  /** Fires at the first interrupt, and when nobody reads the results any more. */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  abort(reason: unknown): void {
    this.#controller.abort(reason);
  }

  throwIfAborted(): void {
    if (this.signal.aborted) throw makeError('ABORTED', 'interrupted', this.signal.reason);
  }

  /** Writes a text to standard output and waits until it is taken. Throws `BrokenPipe`, `IO`. */
  async print(text: string): Promise<void> {
    if (text === '') return;
    this.#meter?.pause();
    await new Promise<void>((resolve, reject) => {
      process.stdout.write(text, (error) => {
        if (!error) return resolve();
        if ((error as NodeJS.ErrnoException).code === 'EPIPE') return reject(new BrokenPipe());
        reject(makeError('IO', `cannot write to standard output: ${error.message}`, error));
      });
    });
  }

  /** Writes one line of JSON a value. */
  async printLines(values: readonly unknown[]): Promise<void> {
    await this.print(values.map((value) => `${JSON.stringify(value)}\n`).join(''));
  }

  /** A message for people: standard error. */
  note(text: string): void {
    this.#meter?.pause();
    process.stderr.write(`${text}\n`);
  }

  /** Begins a progress display, which replaces the one before. */
  meter(options: MeterOptions): Meter {
    this.#meter?.end();
    this.#meter = new Meter(options);
    return this.#meter;
  }

  endMeter(): void {
    this.#meter?.end();
    this.#meter = undefined;
  }

  /** Runs `cleanup` should the process end before the returned function is called. Must be synchronous. */
  onExit(cleanup: () => void): () => void {
    this.#cleanups.add(cleanup);
    return () => {
      this.#cleanups.delete(cleanup);
    };
  }

  runCleanups(): void {
    for (const cleanup of this.#cleanups) cleanup();
    this.#cleanups.clear();
  }
}
