/** Forks with adapters stacked on them, each stack loaded once. */
import { Delta } from '../delta.js';
import type { Fork } from '../fork.js';
import type { Model } from '../model.js';

/** Stacks that stay loaded from one batch to the next. */
const KEPT = 32;

export class ForkShelf implements AsyncDisposable {
  readonly #model: Model;
  /** In the order of their last use. */
  readonly #forks = new Map<string, Fork>();

  constructor(model: Model) {
    this.#model = model;
  }

  /** The fork with these PEFT folders stacked in order; the model itself for none. Errors: those of `Delta.load`. */
  async get(folders: readonly string[]): Promise<Fork | Model> {
    if (folders.length === 0) return this.#model;
    const key = JSON.stringify(folders);
    const fork = this.#forks.get(key) ?? (await this.#make(folders));
    this.#forks.delete(key);
    this.#forks.set(key, fork);
    return fork;
  }

  /** Closes all but the most recently used stacks. Between batches only: rows of a batch hold their forks. */
  async trim(kept = KEPT): Promise<void> {
    const old = [...this.#forks].slice(0, Math.max(0, this.#forks.size - kept));
    for (const [key, fork] of old) {
      this.#forks.delete(key);
      await fork.close();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.trim(0);
  }

  async #make(folders: readonly string[]): Promise<Fork> {
    const fork = this.#model.fork();
    try {
      for (const folder of folders) {
        const delta = await Delta.load(this.#model, folder);
        try {
          fork.apply(delta);
        } finally {
          await delta.close();
        }
      }
    } catch (error) {
      await fork.close();
      throw error;
    }
    return fork;
  }
}
