import { access } from 'node:fs/promises';
import { extname, join } from 'node:path';
import {
  type DeltaKind,
  type DeltaPartInfo,
  type DensePart,
  type LowRankPart,
  type NativeDelta,
  native,
  type PartStatistics,
  type SparsePart,
  type SpectralPart,
} from './binding.js';
import { makeError } from './errors.js';
import type { Fork } from './fork.js';
import { isFused } from './format/file-modules.js';
import { ggufLoraNames, readGgufLora } from './format/gguf-lora.js';
import { readTextIfPresent } from './format/json.js';
import { PEFT_CONFIG, PEFT_WEIGHTS, peftConfigOf, peftWeights, readPeft } from './format/peft.js';
import { readTensorList } from './format/tensor-list.js';
import type { Model } from './model.js';
import { type CallOptions, runJob, runSync } from './native-job.js';
import { cacheFolder } from './pull.js';
import { Resource } from './resource.js';
import { makeFolder, realDisk } from './run/disk.js';
import { writeAtomically } from './write-file.js';

/** A weight by its id (index into `model.tensors`) or full name, for example `model.layers.0.self_attn.q_proj`. */
export type MatrixName = number | string;

/** One changed matrix: W + scale · B A, A [rank, in], B [out, rank], row-major float32 (LoRA, arXiv 2106.09685). */
export interface LowRankFactors {
  matrix: MatrixName;
  rank: number;
  scale: number;
  a: Float32Array;
  b: Float32Array;
}

/**
 * The change D of one weight W [out, in], W + scale · D; gains and biases are matrices of one row.
 * `lowRank`: D = B A. `sparse`: compressed rows, D[i, columns[k]] = values[k] for rowOffsets[i] ≤ k < rowOffsets[i + 1],
 * columns ascending within a row. `dense`: all values, row-major.
 */
export type DeltaPartInput =
  | ({ kind: 'lowRank' } & LowRankFactors)
  | {
      kind: 'sparse';
      matrix: MatrixName;
      /** 1 when absent. */
      scale?: number;
      rowOffsets: Int32Array;
      columns: Int32Array;
      values: Float32Array;
    }
  | { kind: 'dense'; matrix: MatrixName; scale?: number; values: Float32Array };

/** Scales of a weight's leading singular values: sigma_k becomes sigma_k (1 + scale · values[k]). */
export interface SpectralInput {
  matrix: MatrixName;
  /** As many as singular values are touched, the largest first. */
  values: Float32Array;
  scale?: number;
}

export interface SpectralOptions extends CallOptions {
  /** Where factors are kept between runs; null: nowhere. `spectral` in the cache folder of `pull` by default. */
  cacheDir?: string | null;
}

/** File of a delta's folder when it is more than low-rank changes of linear maps. */
const WEIGHTS = 'delta.safetensors';

/**
 * An immutable change of a named subset of the weights: low-rank, sparse, dense or spectral parts, at most one of each
 * kind a weight. Operations give new deltas; nothing is changed in place.
 */
export class Delta extends Resource {
  protected readonly noun = 'delta';
  readonly model: Model;
  /** @internal */
  readonly handle: NativeDelta;

  /** @internal Made by `adapt`, `policy.delta()`, `gradient`, and the static functions below. */
  constructor(model: Model, handle: NativeDelta) {
    super();
    this.model = model;
    this.handle = handle;
  }

  /** The kind of all parts, or `mixed`. */
  get kind(): DeltaKind | 'mixed' {
    this.assertOpen();
    return this.handle.kind;
  }

  /** Parts by ascending weight (ids of `model.tensors`), then kind: rank (0 where there is none), scale, number of values. */
  get parts(): DeltaPartInfo[] {
    this.assertOpen();
    return this.handle.parts;
  }

  /** Bytes of the values and index structures; factors of spectral parts are shared and not counted. */
  get bytes(): number {
    this.assertOpen();
    return this.handle.bytes;
  }

  /** All of one part, copied out as float32. Spectral: U [out, r], sigma [r] and V [r, in] beside the values. */
  part(index: number): LowRankPart | SparsePart | DensePart | SpectralPart {
    this.assertOpen();
    return runSync(() => this.handle.part(index));
  }

  /** Factors of one low-rank part: A [rank, in] and B [out, rank], row-major. */
  factors(part: number): { a: Float32Array; b: Float32Array } {
    const all = this.part(part);
    if (all.kind !== 'lowRank') {
      throw makeError(
        'OPTION_INVALID',
        `part ${part} is ${all.kind}; only a low-rank part has factors A and B`,
      );
    }
    return { a: all.a, b: all.b };
  }

  /**
   * Makes a delta of parts of any kinds, values copied in. Errors: `DeltaError` naming the weight and what was found and
   * expected: shapes, rank 0, offsets that fall, columns unsorted or out of range, values that are not finite, a weight
   * named twice in one kind.
   */
  static fromParts(model: Model, parts: readonly DeltaPartInput[]): Delta {
    model.assertOpen();
    const inputs = parts.map((part) => ({ scale: 1, ...part, matrix: matrixId(model, part.matrix) }));
    return new Delta(
      model,
      runSync(() => native().makeDelta(model.handle, inputs)),
    );
  }

  /** Makes a low-rank delta from its factors. Errors: `DeltaError` naming the matrix and both shapes. */
  static fromFactors(model: Model, parts: readonly LowRankFactors[]): Delta {
    return Delta.fromParts(
      model,
      parts.map((part) => ({ ...part, kind: 'lowRank' as const })),
    );
  }

  /**
   * Makes a spectral delta (SVF, arXiv 2501.06252). The factors of each weight are made once by randomised SVD (Halko et
   * al., arXiv 0909.4061), kept with the model and, unless switched off, on disk. Progress counts weights.
   * Errors: `DeltaError` (more values than singular values, a vector), `AbortedError`.
   */
  static async spectral(
    model: Model,
    parts: readonly SpectralInput[],
    options: SpectralOptions = {},
  ): Promise<Delta> {
    const inputs = parts.map(({ matrix, values, scale = 1 }) => ({
      matrix: matrixId(model, matrix),
      values,
      scale,
    }));
    const folder =
      options.cacheDir === undefined ? join(cacheFolder(), 'spectral') : (options.cacheDir ?? '');
    if (folder) await makeFolder(realDisk, folder);
    const handle = await runJob(
      (onProgress) => native().spectralDelta(model.handle, inputs, folder, onProgress),
      options,
      [model],
    );
    return new Delta(model, handle);
  }

  /**
   * Σ scaleᵢ · deltaᵢ as one delta, exact: low-rank parts of one weight are concatenated (their ranks add up), sparse ones
   * united, dense ones summed, spectral ones of the same factors summed. Scales are 1 by default.
   */
  static async add(deltas: readonly Delta[], scales?: readonly number[]): Promise<Delta> {
    const first = deltas[0];
    if (!first) throw makeError('INPUT_INVALID', 'add: expected at least one delta');
    if (scales && scales.length !== deltas.length) {
      throw makeError('INPUT_INVALID', `add: ${scales.length} scales for ${deltas.length} deltas`);
    }
    const { model } = first;
    for (const delta of deltas) delta.assertOpen();
    const terms = deltas.map((delta, d) => ({ delta: delta.handle, scale: scales?.[d] ?? 1 }));
    return new Delta(
      model,
      await runJob(() => native().addDeltas(model.handle, terms), {}, [model, ...deltas]),
    );
  }

  /** Low-rank deltas side by side: A's stacked, B's next to each other, ranks added up. Errors: `DeltaError` for other kinds. */
  static async concat(deltas: readonly Delta[]): Promise<Delta> {
    for (const [d, delta] of deltas.entries()) {
      if (delta.kind !== 'lowRank') {
        throw makeError('DELTA_INVALID', `concat: delta ${d} is ${delta.kind}; expected lowRank`);
      }
    }
    return Delta.add(deltas);
  }

  /**
   * What must be added to `from` to get `to`, fork against fork of one model: deltas that both begin with cancel, the rest
   * is added with its sign.
   */
  static async difference(to: Fork, from: Fork): Promise<Delta> {
    to.assertOpen();
    from.assertOpen();
    return new Delta(
      to.model,
      await runJob(() => native().deltaDifference(to.handle, from.handle), {}, [to, from]),
    );
  }

  /** This delta times a factor. */
  async scale(factor: number): Promise<Delta> {
    return Delta.add([this], [factor]);
  }

  /**
   * Low-rank and dense parts to their best approximation (by singular values) of at most `rank`, keeping at least the part
   * `energy` (0 to 1) of the squared Frobenius norm where that needs fewer. Other parts are kept as they are.
   */
  async truncate({ rank = 0, energy = 1 }: { rank?: number; energy?: number }): Promise<Delta> {
    if (!Number.isInteger(rank) || rank < 0) {
      throw makeError('OPTION_INVALID', `rank is ${rank}; expected an integer from 1, or none`);
    }
    if (!(energy > 0 && energy <= 1)) {
      throw makeError('OPTION_INVALID', `energy is ${energy}; expected a part above 0, at most 1`);
    }
    return this.#derive(() => native().truncateDelta(this.handle, { rank, energy }));
  }

  /** The largest values of each weight's change, `density` (0 to 1) of all, as sparse parts; ties keep the lower index. */
  async sparsify({ density }: { density: number }): Promise<Delta> {
    if (!(density > 0 && density <= 1)) {
      throw makeError('OPTION_INVALID', `density is ${density}; expected a part above 0, at most 1`);
    }
    return this.#derive(() => native().sparsifyDelta(this.handle, { density }));
  }

  /** Norms of every part: Frobenius (also relative to the weight's), largest |value|, largest singular value. */
  async statistics(): Promise<PartStatistics[]> {
    this.assertOpen();
    return runJob(() => native().deltaStatistics(this.handle), {}, [this]);
  }

  /**
   * Writes a folder, each file whole or not at all, bit-exact. Low-rank changes of linear maps, embedding and head alone: a
   * PEFT LoRA adapter (adapter_config.json, adapter_model.safetensors; parts of different rank or scale go into PEFT's
   * patterns; PEFT stores alpha, so a scale that is no quotient alpha / rank may come back different in its last bit; Phi-3's
   * q, k, v and gate, up are fused as PEFT has them). Anything else, and changes of a tied embedding, which PEFT has no word
   * for: `delta.safetensors`, format selfedit-delta-1. Errors: `WorkError` (`IO`).
   */
  async save(folder: string): Promise<void> {
    this.#assertNotEmpty();
    await makeFolder(realDisk, folder);
    if (this.misfit('peft') !== undefined) {
      await runJob(() => this.handle.save(join(folder, WEIGHTS)), {}, [this]);
      return;
    }
    const spec = { path: join(folder, PEFT_WEIGHTS), fused: isFused(this.model), gguf: null };
    const written = await runJob(() => native().writeFactors(this.handle, spec), {}, [this]);
    const config = peftConfigOf(this.model, written);
    await writeAtomically(join(folder, PEFT_CONFIG), `${JSON.stringify(config, null, 2)}\n`);
  }

  /**
   * Writes one .gguf, whole or not at all, that llama.cpp's `--lora` reads: float32 factors, one alpha for all (where a
   * part's scale is not alpha / rank, the quotient goes into its B). Errors: `DELTA_INVALID` for anything but low-rank
   * changes of linear maps and an untied head; `WorkError` (`IO`).
   */
  async saveGguf(path: string): Promise<void> {
    this.#assertNotEmpty();
    const misfit = this.misfit('gguf-lora');
    if (misfit !== undefined) {
      throw makeError(
        'DELTA_INVALID',
        `${misfit}, which a GGUF adapter cannot hold; expected low-rank changes of linear maps (export the merged model instead)`,
      );
    }
    const spec = { path, fused: isFused(this.model), gguf: ggufLoraNames(this.model) };
    await runJob(() => native().writeFactors(this.handle, spec), {}, [this]);
  }

  /**
   * Reads what `save` and `saveGguf` wrote, any PEFT LoRA adapter folder, and any GGUF LoRA adapter (docs/adapters.md says
   * what is refused). Errors: `FileError` for missing or unexpected keys (listed), `DeltaError` for shapes that do not fit,
   * `OPTION_INVALID` for a kind of adapter that is not supported (DoRA, trained biases).
   */
  static async load(model: Model, path: string): Promise<Delta> {
    const start = async (): Promise<NativeDelta> => {
      if (extname(path).toLowerCase() === '.gguf') {
        const sources = readGgufLora(model, path, await readTensorList(path));
        return runJob(() => native().loadFactors(model.handle, path, sources, []), {}, [model]);
      }
      const config = await readTextIfPresent(join(path, PEFT_CONFIG));
      if (config !== undefined) {
        const file = await peftWeights(path);
        const { sources, copies } = readPeft(model, path, config, (await readTensorList(file)).tensors);
        return runJob(() => native().loadFactors(model.handle, file, sources, copies), {}, [model]);
      }
      const own = join(path, WEIGHTS);
      if (await exists(own)) return runJob(() => native().loadDelta(model.handle, own), {}, [model]);
      throw makeError(
        'FILE_NOT_FOUND',
        `${path} is no adapter: it has no ${PEFT_CONFIG} and no ${WEIGHTS}; expected a PEFT folder, a folder that save wrote, or a .gguf file`,
      );
    };
    model.assertOpen();
    return new Delta(model, await start());
  }

  /** @internal What of this delta files of that format cannot hold; undefined when they can. */
  misfit(format: 'peft' | 'gguf-lora'): string | undefined {
    for (const { kind, matrix } of this.parts) {
      const { name, module } = this.model.tensors[matrix]!;
      if (kind !== 'lowRank') return `"${name}" has a ${kind} part`;
      if (matrix < this.model.matrices.length || module === 'lm_head') continue;
      if (module !== 'embed_tokens') return `"${name}" is no linear map`;
      if (format === 'gguf-lora') return `"${name}" is the embedding`;
      if (this.model.config.tied) return `"${name}" is embedding and head at once (tied)`;
    }
    return undefined;
  }

  #assertNotEmpty(): void {
    this.assertOpen();
    if (this.parts.length > 0) return;
    throw makeError('DELTA_INVALID', 'the delta changes no matrix; there is nothing to save');
  }

  async #derive(start: () => ReturnType<ReturnType<typeof native>['truncateDelta']>): Promise<Delta> {
    this.assertOpen();
    return new Delta(this.model, await runJob(start, {}, [this]));
  }

  protected override get parent(): Model {
    return this.model;
  }

  protected release(): void {
    this.handle.close();
  }
}

function matrixId(model: Model, matrix: MatrixName): number {
  if (typeof matrix === 'number') return matrix;
  const id = model.tensors.findIndex(({ name }) => name === matrix);
  if (id < 0) throw makeError('TARGET_UNKNOWN', `the model has no matrix "${matrix}"`);
  return id;
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}
