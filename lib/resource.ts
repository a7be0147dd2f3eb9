import { ClosedError } from './errors.js';

/**
 * Something native with a life: calls in flight keep it, `close()` is explicit, idempotent, and waits for them.
 * `await using x = …` closes it at the end of the block.
 */
export abstract class Resource implements AsyncDisposable {
  readonly #pending = new Set<Promise<unknown>>();
  #closing: Promise<void> | undefined;

  /** What the error of a call after `close()` names. */
  protected abstract readonly noun: string;
  /** Gives the native memory back; called once, when no call is in flight. */
  protected abstract release(): void;
  /** What this was made from. Its memory stays as long as this needs it; its `close()` waits for this one's calls too. */
  protected get parent(): Resource | undefined {
    return undefined;
  }

  get closed(): boolean {
    return this.#closing !== undefined;
  }

  /** @internal Throws when closed, with the caller's stack. */
  assertOpen(): void {
    if (this.closed) throw new ClosedError('CLOSED', `the ${this.noun} is closed`);
  }

  /** @internal Keeps this open until `work` has ended. */
  hold(work: Promise<unknown>): void {
    this.#pending.add(work);
    const done = (): boolean => this.#pending.delete(work);
    work.then(done, done);
    this.parent?.hold(work);
  }

  /** Waits for the calls in flight, then frees. Safe to call again. */
  close(): Promise<void> {
    this.#closing ??= Promise.allSettled([...this.#pending]).then(() => this.release());
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}
