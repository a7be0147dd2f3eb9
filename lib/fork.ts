import type { NativeFork } from './binding.js';
import { Delta } from './delta.js';
import type { WeightEdit } from './edit/weight.js';
import { makeError } from './errors.js';
import type { Model } from './model.js';
import { runJob, runSync } from './native-job.js';
import { Resource } from './resource.js';

/** A copy-on-write copy of a model: the shared weights plus an ordered list of deltas. */
export class Fork extends Resource {
  protected readonly noun = 'fork';
  readonly model: Model;
  /** @internal */
  readonly handle: NativeFork;

  /** @internal Made by `model.fork()`, `fork.fork()` and `policy.fork()`. */
  constructor(model: Model, handle: NativeFork) {
    super();
    this.model = model;
    this.handle = handle;
  }

  /** Number of deltas applied. */
  get depth(): number {
    this.assertOpen();
    return this.handle.depth;
  }

  /** A copy with the same deltas; from here on the two go their own ways. */
  fork(): Fork {
    this.assertOpen();
    return new Fork(
      this.model,
      runSync(() => this.handle.fork()),
    );
  }

  /**
   * Adds a delta, or the delta of a weight edit, on top, multiplied by `scale` (1). O(1): shares the delta's memory, which
   * stays as long as a fork holds it, also after `delta.close()`. Calls in flight keep the deltas they began with.
   * Errors: `DeltaError` when the shapes do not fit this model.
   */
  apply(edit: Delta | Pick<WeightEdit, 'delta'>, { scale = 1 }: { scale?: number } = {}): this {
    this.assertOpen();
    const delta = edit instanceof Delta ? edit : edit?.delta;
    if (!(delta instanceof Delta)) {
      throw makeError('INPUT_INVALID', 'apply: expected a Delta or a weight edit');
    }
    delta.assertOpen();
    runSync(() => this.handle.apply(delta.handle, scale));
    return this;
  }

  /** Drops all deltas beyond the first `depth`. Errors: `InputError` when it holds fewer. */
  revert(depth: number): this {
    this.assertOpen();
    if (!Number.isInteger(depth)) {
      throw makeError('OPTION_INVALID', `cannot revert to depth ${depth}; expected an integer`);
    }
    runSync(() => this.handle.revert(depth));
    return this;
  }

  /**
   * Copies the row blocks (64 rows) that the deltas change in the linear maps of the layers and changes them in place;
   * `score` and `generate` then use these instead of adding the deltas in every product, until the list of deltas changes.
   * Pays for long work of one fork under dense or sparse deltas. Forks made from this one share the copies. In a bfloat16
   * model the copies are rounded to bfloat16; the overlay is not. Errors: `WorkError` (memory).
   */
  async materialise(): Promise<this> {
    await runJob(() => this.handle.materialise(), {}, [this]);
    return this;
  }

  /** Lets go of the copied rows: the deltas are overlays again. */
  dematerialise(): this {
    this.assertOpen();
    this.handle.dematerialise();
    return this;
  }

  /** Whether copied rows take the place of the deltas in `score` and `generate`. */
  get materialised(): boolean {
    this.assertOpen();
    return this.handle.materialised;
  }

  /**
   * Bytes shared with the model, and bytes that this fork holds: its deltas (each once) and, when materialised, the copied
   * rows with what has been packed of them.
   */
  memory(): { shared: number; own: number } {
    this.assertOpen();
    return runSync(() => this.handle.memory());
  }

  /** Effective weight, base plus all deltas: row-major [out, in]. `matrix` is an id of `model.tensors` or a full name. */
  async weight(matrix: number | string): Promise<Float32Array> {
    const id =
      typeof matrix === 'number' ? matrix : this.model.tensors.findIndex(({ name }) => name === matrix);
    if (!(id in this.model.tensors)) {
      throw makeError('TARGET_UNKNOWN', `the model has no matrix "${matrix}"`);
    }
    return runJob(() => this.handle.weight(id), {}, [this]);
  }

  protected override get parent(): Model {
    return this.model;
  }

  protected release(): void {
    this.handle.close();
  }
}
