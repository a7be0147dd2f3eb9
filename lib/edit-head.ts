/**
 * The edit head: a small trainable map on the policy that reads a context and outputs the weight change itself, as a
 * vector over spaces chosen for each target matrix (docs/weight-edits.md).
 */
import { mkdir } from 'node:fs/promises';
import { type HeadStepSpec, type HeadStepStats, type NativeEditHead, native } from './binding.js';
import { Delta } from './delta.js';
import { type CalibrateOptions, type Calibration, calibrateNoise } from './edit/calibrate.js';
import {
  type EditHeadOptions,
  HEAD_STEP_DEFAULTS,
  type HeadSettings,
  type HeadStep,
  headSettings,
  type ReadContextOptions,
  type WriteWeightOptions,
} from './edit/head-options.js';
import { documentsOf, innerLoop } from './edit/material.js';
import { editTemplate, renderEditPrompt } from './edit/prompts.js';
import { resolveSpaces, SPACES, type SpaceBlock } from './edit/spaces.js';
import { type EditContext, Reading, type WeightEdit, WrittenWeightEdit } from './edit/weight.js';
import { makeError } from './errors.js';
import { type CallOptions, runJob, runSync } from './native-job.js';
import type { Policy } from './policy.js';
import { deriveKey, toSeed } from './random.js';
import { Resource } from './resource.js';
import { joinFloats, splitEvenly, type TokenInput, toRagged } from './rows.js';

export {
  type EditHeadOptions,
  HEAD_STEP_DEFAULTS,
  type HeadStep,
  type ReadContextOptions,
  type WriteWeightOptions,
} from './edit/head-options.js';

const NONE = new Float32Array(0);

/**
 * Emits a Gaussian over the entries of its vector: the mean is linear in the policy's features of the context (0 until
 * trained), the standard deviation one number a target matrix. Entries are relative (1: the size of what is there), and
 * the mean is emitted in units of the noise of the first calibration.
 */
export class EditHead extends Resource {
  protected readonly noun = 'edit head';
  readonly policy: Policy;
  /** Target matrices (ids of `model.tensors`) and their spaces, one a block. */
  readonly blocks: readonly SpaceBlock[];
  /** Entries of a vector. */
  readonly size: number;
  readonly #handle: NativeEditHead;
  readonly #settings: HeadSettings;

  private constructor(
    policy: Policy,
    handle: NativeEditHead,
    blocks: readonly SpaceBlock[],
    settings: HeadSettings,
  ) {
    super();
    this.policy = policy;
    this.blocks = blocks;
    this.size = blocks.reduce((sum, { size }) => sum + size, 0);
    this.#handle = handle;
    this.#settings = settings;
  }

  /**
   * An untrained head: its mean edit changes nothing (gradient: one gradient step; modulated: the inner loop's delta).
   * Errors: `DeltaError` (`TARGET_UNKNOWN`) for a pattern that matches nothing, `OPTION_INVALID` for sizes.
   */
  static async create(policy: Policy, options: EditHeadOptions = {}): Promise<EditHead> {
    policy.assertOpen();
    const settings = headSettings(options);
    const blocks = resolveSpaces(policy.model, options);
    const spec = {
      matrices: Int32Array.from(blocks, ({ matrix }) => matrix),
      spaces: Int32Array.from(blocks, ({ space }) => SPACES.indexOf(space)),
      sizes: Int32Array.from(blocks, ({ size }) => size),
      learntBasis: settings.basis === 'learnt',
      key: toSeed(options.seed ?? 0),
    };
    const handle = await runJob(() => native().editHead(policy.model.handle, spec), {}, [policy]);
    return new EditHead(policy, handle, blocks, settings);
  }

  /** Optimizer steps taken. */
  get version(): number {
    this.assertOpen();
    return runSync(() => this.#handle.steps);
  }

  /** Standard deviation of the entries of each block. */
  get noise(): Float32Array {
    this.assertOpen();
    return runSync(() => this.#handle.noise);
  }

  setNoise(noise: Float32Array): void {
    this.assertOpen();
    runSync(() => {
      this.#handle.noise = noise;
    });
  }

  /**
   * Reads contexts: features of (task description, context) under the present policy, and the material of the spaces on
   * top of `parent`: one inner training (modulated), the gradient of the context's loss (gradient, sparse). The documents
   * are those of an edit that adds nothing to the passage. A context's result does not depend on the others.
   */
  async read<C extends EditContext>(
    contexts: readonly C[],
    options: ReadContextOptions = {},
  ): Promise<Reading<C>[]> {
    if (contexts.length === 0) return [];
    const { model } = this.policy;
    const { tokenizer, config } = model;
    const { prompt, form, rate, selection, cacheDir } = this.#settings;
    const { signal, onProgress, seed = 0, round = 0 } = options;
    const template = editTemplate(prompt);
    const prompts = contexts.map((context) =>
      renderEditPrompt(template, context, tokenizer, form).tokens.subarray(0, config.maxPositions),
    );
    const documents = contexts.map((context, index) => documentsOf(context, index, model));
    const policy = this.policy.fork();
    const parent = options.parent ?? policy;
    const adapted: Delta[] = [];
    try {
      const uses = [this, policy, parent];
      const flat = await runJob(
        () => this.#handle.features(policy.handle, toRagged(prompts)),
        { signal },
        uses,
      );
      const inner = { ...this.#settings.adapt, signal, onProgress, seed, round };
      adapted.push(...(await innerLoop(parent, this.blocks, documents, inner)));
      // Only spectral blocks have factors to keep.
      const folder = this.blocks.some(({ space }) => space === 'spectral') ? (cacheDir ?? '') : '';
      if (folder) await mkdir(folder, { recursive: true }).catch(() => {});
      const contextDocuments = new Int32Array(contexts.length + 1);
      for (const [c, rows] of documents.entries())
        contextDocuments[c + 1] = contextDocuments[c]! + rows.length;
      const spec = {
        ...toRagged(documents.flat()),
        fork: parent.handle,
        contextDocuments,
        adapted: contexts.map((_, index) => adapted[index]?.handle ?? null),
        rate,
        fisher: selection === 'fisher',
        folder,
      };
      const materials = await runJob(
        (report) => this.#handle.material(spec, report),
        { signal, onProgress },
        [...uses, ...adapted],
      );
      const features = splitEvenly(flat, contexts.length);
      return contexts.map((context, index) => {
        return new Reading(context, features[index]!, new Delta(model, materials[index]!));
      });
    } finally {
      for (const delta of adapted) await delta.close();
      await policy.close();
    }
  }

  /**
   * Writes weight edits, context by context: samples around the mean, or the mean edit. The draws of an edit depend only
   * on (seed, round, index of the context, index of the edit). Given contexts, reads them first; given readings, these
   * stay open.
   */
  write<C extends EditContext>(
    readings: readonly Reading<C>[],
    options?: WriteWeightOptions,
  ): Promise<WrittenWeightEdit<C>[]>;
  write<C extends EditContext>(
    contexts: readonly C[],
    options?: WriteWeightOptions,
  ): Promise<WrittenWeightEdit<C>[]>;
  async write<C extends EditContext>(
    contexts: readonly C[] | readonly Reading<C>[],
    options: WriteWeightOptions = {},
  ): Promise<WrittenWeightEdit<C>[]> {
    const { samples = 1, antithetic = true, mean = false, seed = 0, round = 0, signal } = options;
    if (!Number.isInteger(samples) || samples < 1) {
      throw makeError('OPTION_INVALID', `samples is ${samples}; expected a whole number of at least 1`);
    }
    const given = contexts.every((context) => context instanceof Reading);
    const readings = given
      ? (contexts as readonly Reading<C>[])
      : await this.read(contexts as readonly C[], options);
    if (readings.length === 0) return [];
    try {
      const count = mean ? 1 : samples;
      const means = this.#means(readings);
      const keys = BigUint64Array.from(readings, (_, group) =>
        deriveKey(seed, 'weight edit', [round, group]),
      );
      const drawn = mean ? means : runSync(() => this.#handle.sample({ means, keys, samples, antithetic }));
      const rows = readings.flatMap((reading) => Array.from({ length: count }, () => reading));
      const edits = await this.compose(rows, splitEvenly(drawn, rows.length), { signal });
      const meansOf = splitEvenly(means, readings.length);
      const noise = this.noise;
      return edits.map((edit, index) => {
        const group = Math.floor(index / count);
        const parts = { group, sample: index % count, edit, mean: meansOf[group]!, noise };
        return new WrittenWeightEdit(readings[group]!, parts, !given);
      });
    } catch (error) {
      if (!given) for (const reading of readings) await reading.close();
      throw error;
    }
  }

  /** The edits that given vectors stand for, one a reading. Errors: `InputError` for a vector of another length or with NaN. */
  async compose(
    readings: readonly Pick<Reading, 'material'>[],
    vectors: readonly Float32Array[],
    { signal }: CallOptions = {},
  ): Promise<WeightEdit[]> {
    if (readings.length !== vectors.length) {
      throw makeError('INPUT_INVALID', `${vectors.length} vectors for ${readings.length} readings`);
    }
    for (const [index, vector] of vectors.entries()) {
      if (vector.length === this.size) continue;
      throw makeError(
        'INPUT_INVALID',
        `vector ${index} has ${vector.length} entries; this head's have ${this.size}`,
      );
    }
    const materials = readings.map(({ material }) => material);
    for (const material of materials) material.assertOpen();
    const deltas = await runJob(
      () => this.#handle.compose(handles(materials), joinFloats(vectors)),
      { signal },
      [this, ...materials],
    );
    return deltas.map((handle, index) => {
      return { kind: 'weight', vector: vectors[index]!, delta: new Delta(this.policy.model, handle) };
    });
  }

  /**
   * dLoss/dvector of each edit, from the gradients with respect to the values of the edits' deltas (`gradient`), and
   * dLoss/dbasis summed over the edits (empty when the basis is fixed): the way back through `fork.apply(edit)`.
   */
  async pullBack(
    edits: readonly {
      readonly reading: Pick<Reading, 'material'>;
      readonly edit: Pick<WeightEdit, 'vector'>;
    }[],
    gradients: readonly Delta[],
    { signal }: CallOptions = {},
  ): Promise<{ vectors: Float32Array[]; basis: Float32Array }> {
    const materials = edits.map(({ reading }) => reading.material);
    for (const delta of [...materials, ...gradients]) delta.assertOpen();
    const vectors = joinFloats(edits.map(({ edit }) => edit.vector));
    const result = await runJob(
      () => this.#handle.pullBack(handles(materials), vectors, handles(gradients)),
      { signal },
      [this, ...materials, ...gradients],
    );
    return { vectors: splitEvenly(result.vectors, edits.length), basis: result.basis };
  }

  /**
   * Multiplies the noise so that edits drawn for `readings` differ from their mean edits by KL `kl` on `texts`: for spaces
   * that start at no change, and an untrained head, that is KL(edited ‖ unedited). Secant steps on log KL over log noise,
   * false position in the bracket; the same draws at every step. On failure the noise is what it was before.
   * Errors: `OPTION_INVALID`; `INPUT_INVALID` when no noise reaches the KL (the material is zero).
   */
  async calibrate(
    readings: readonly Reading[],
    texts: readonly TokenInput[],
    options: CalibrateOptions = {},
  ): Promise<Calibration> {
    return calibrateNoise(this, readings, texts, options);
  }

  /**
   * One optimizer step: the clipped objective over `samples` (PPO, ratios a target matrix), a given gradient, and the KL to
   * the untrained head in closed form. Nothing is changed when a number is not finite.
   */
  async step({ readings, samples = [], signal, ...scalars }: HeadStep): Promise<HeadStepStats> {
    const spec: HeadStepSpec = {
      ...HEAD_STEP_DEFAULTS,
      gradient: NONE,
      basisGradient: NONE,
      oldNoise: this.noise,
      ...Object.fromEntries(Object.entries(scalars).filter(([, value]) => value !== undefined)),
      features: joinFloats(readings.map(({ features }) => features)),
      context: Int32Array.from(samples, ({ reading }) => reading),
      vectors: joinFloats(samples.map(({ vector }) => vector)),
      oldMeans: joinFloats(samples.map(({ mean }) => mean)),
      advantages: Float32Array.from(samples, ({ advantage }) => advantage),
    };
    return runJob(() => this.#handle.step(spec), { signal }, [this]);
  }

  /** The mean vector for each reading, as the head is now. */
  means(readings: readonly Pick<Reading, 'features'>[]): Float32Array[] {
    return splitEvenly(this.#means(readings), readings.length);
  }

  #means(readings: readonly Pick<Reading, 'features'>[]): Float32Array {
    this.assertOpen();
    return runSync(() => this.#handle.means(joinFloats(readings.map(({ features }) => features))));
  }

  /** Row by row the weights of an entry over the features, its bias last; then the basis, when it is learnt. */
  parameters(): Float32Array {
    this.assertOpen();
    return runSync(() => this.#handle.parameters());
  }

  /** Gradients of the last step, before clipping, in the order of `parameters()`. */
  gradients(): Float32Array {
    this.assertOpen();
    return runSync(() => this.#handle.gradients());
  }

  setParameters(values: Float32Array): void {
    this.assertOpen();
    runSync(() => this.#handle.setParameters(values));
  }

  /** Writes parameters, basis, noise and optimizer state as safetensors, whole or not at all, bit-exact. Errors: `WorkError` (`IO`). */
  async save(path: string): Promise<void> {
    await runJob(() => this.#handle.save(path), {}, [this]);
  }

  /** Restores what `save` wrote. Errors: `FileError` for the file of another model or space; the head is then unchanged. */
  async load(path: string): Promise<void> {
    await runJob(() => this.#handle.load(path), {}, [this]);
  }

  protected override get parent(): Policy {
    return this.policy;
  }

  protected release(): void {
    this.#handle.close();
  }
}

function handles(deltas: readonly Delta[]) {
  return deltas.map(({ handle }) => handle);
}
