/** Self-edits that are the weight change itself: a vector that an edit head emits, and the delta it stands for. */
import type { Delta } from '../delta.js';
import type { TaskContext } from '../task/task.js';
import type { InvalidReason } from './edit.js';

/** A vector over the entries of an edit head's spaces, block by block, and the change of the weights that it means. */
export interface WeightEdit {
  readonly kind: 'weight';
  readonly vector: Float32Array;
  readonly delta: Delta;
  readonly invalid?: InvalidReason;
}

/** A context as an edit head needs it. */
export type EditContext = Pick<TaskContext, 'title' | 'context' | 'task'>;

/**
 * What a context gives an edit head: the policy's features of it, and the material of the spaces (a delta). Shared by all
 * edits of the context; `close` gives the material back.
 */
export class Reading<C extends EditContext = EditContext> {
  readonly context: C;
  /** Mean hidden state of the policy over the prompt, root mean square 1. */
  readonly features: Float32Array;
  readonly material: Delta;
  #users = 0;

  /** @internal Made by `EditHead.read`. */
  constructor(context: C, features: Float32Array, material: Delta) {
    this.context = context;
    this.features = features;
    this.material = material;
  }

  /** @internal The last user that lets go closes the material. */
  retain(): void {
    this.#users++;
  }

  /** @internal */
  async release(): Promise<void> {
    this.#users--;
    if (this.#users === 0) await this.close();
  }

  async close(): Promise<void> {
    await this.material.close();
  }
}

/** One weight edit as written: the edit, and what an algorithm needs to know about how it was drawn. */
export class WrittenWeightEdit<C extends EditContext = EditContext> {
  readonly reading: Reading<C>;
  /** Index of the context in the call. */
  readonly group: number;
  /** Index of the edit within its context. */
  readonly sample: number;
  readonly edit: WeightEdit;
  /** Mean of the Gaussian that it was drawn from, one number an entry; and its deviation, one a block. */
  readonly mean: Float32Array;
  readonly noise: Float32Array;
  readonly #owned: boolean;
  #closing: Promise<void> | undefined;

  /** @internal Made by `EditHead.write`. `owned`: the reading goes with the last of its edits. */
  constructor(
    reading: Reading<C>,
    parts: Pick<WrittenWeightEdit, 'group' | 'sample' | 'edit' | 'mean' | 'noise'>,
    owned: boolean,
  ) {
    this.reading = reading;
    this.group = parts.group;
    this.sample = parts.sample;
    this.edit = parts.edit;
    this.mean = parts.mean;
    this.noise = parts.noise;
    this.#owned = owned;
    if (owned) reading.retain();
  }

  get context(): C {
    return this.reading.context;
  }

  /** Gives the delta back. Forks that it is applied to keep what they need. Safe to call again. */
  close(): Promise<void> {
    this.#closing ??= (async () => {
      await this.edit.delta.close();
      if (this.#owned) await this.reading.release();
    })();
    return this.#closing;
  }
}
