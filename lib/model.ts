import { cpus } from 'node:os';
import { type MatrixInfo, type ModelConfig, type NativeFork, type NativeModel, native } from './binding.js';
import { makeError } from './errors.js';
import { Fork } from './fork.js';
import { resolveModel } from './format/folder.js';
import { type CallOptions, runJob, runSync } from './native-job.js';
import { toSeed } from './random.js';
import { Resource } from './resource.js';
import { inSlices } from './slices.js';
import { loadTokenizer } from './tokenizer/load.js';
import type { Tokenizer } from './tokenizer/tokenizer.js';

export type Dtype = 'float32' | 'bfloat16' | 'float64';

export interface LoadOptions extends CallOptions {
  /** Type of the frozen weights. float32 by default on the CPU; activations, deltas and log-probs are float32. */
  dtype?: Dtype;
  /** `cpu` (the default), `cuda`, `cuda:1`, or `auto` for the first GPU that can be used, else the CPU. */
  device?: string;
  /** Threads of the process-wide compute thread; all cores by default. */
  threads?: number;
}

export interface RandomOptions {
  seed?: number | bigint;
  dtype?: Dtype;
  /** Standard deviation of the weights. */
  std?: number;
  tokenizer?: Tokenizer;
}

/**
 * Immutable weights, configuration and tokenizer. Loaded once, shared by all its forks. `close()` waits for calls in
 * flight; the weights stay as long as forks, deltas and policies of the model are open, which work on as before.
 */
export class Model extends Resource {
  protected readonly noun = 'model';
  /** @internal */
  readonly handle: NativeModel;
  readonly config: ModelConfig;
  /** The linear maps of the layers; a matrix's id is its index. */
  readonly matrices: readonly MatrixInfo[];
  /** All weights that deltas can change: the linear maps (the same ids), embedding, untied head, gains, biases. */
  readonly tensors: readonly MatrixInfo[];
  readonly dtype: Dtype;
  readonly device: string;
  /** Number of parameters. */
  readonly parameters: number;
  /** Folder or file that it was loaded from. */
  readonly path?: string;
  readonly #tokenizer: Tokenizer | undefined;
  #base: NativeFork | undefined;

  private constructor(handle: NativeModel, tokenizer: Tokenizer | undefined, path?: string) {
    super();
    this.handle = handle;
    this.config = handle.config;
    this.matrices = handle.matrices;
    this.tensors = handle.tensors;
    this.dtype = handle.dtype;
    this.device = handle.device;
    this.parameters = handle.parameters;
    this.#tokenizer = tokenizer;
    if (path !== undefined) this.path = path;
  }

  static async #make(handle: NativeModel, tokenizer?: Tokenizer, path?: string, signal?: AbortSignal) {
    try {
      if (tokenizer) {
        const { bytes, offsets } = await inSlices(tokenizer.tokenBytesWork(handle.config.vocabSize), signal);
        handle.setTokenBytes(bytes, offsets);
      }
      return new Model(handle, tokenizer, path);
    } catch (error) {
      handle.close();
      throw error;
    }
  }

  /**
   * Loads a Hugging Face folder (config.json, safetensors, tokenizer.json) or a GGUF file.
   * Progress counts bytes. Errors: `FileError`, `ModelError`, `AbortedError`, `WorkError` (memory).
   */
  static async load(path: string, options: LoadOptions = {}): Promise<Model> {
    const { dtype = 'float32', device = 'cpu', threads, signal } = options;
    if (threads !== undefined) setThreads(threads);
    const inspect = (file: string) => runJob(() => native().inspect(file), { signal });
    const source = await resolveModel(path, { inspect, signal });
    const tokenizer = await loadTokenizer(source, signal);
    const { config, files, format, layout } = source;
    const spec = {
      config,
      files: [...files],
      format,
      layout,
      dtype,
      device,
    };
    const handle = await runJob((onProgress) => native().loadModel(spec, onProgress), options);
    return Model.#make(handle, tokenizer, source.path, signal);
  }

  /** A model with seeded random weights, for tests and benchmark shapes. */
  static async random(config: ModelConfig, options: RandomOptions = {}): Promise<Model> {
    const { seed = 0, dtype = 'float32', std = 0.02, tokenizer } = options;
    const handle = await runJob(() => native().randomModel(config, dtype, toSeed(seed), std));
    return Model.#make(handle, tokenizer);
  }

  /** Throws `ModelError` (`TOKENIZER_INVALID`) when the model came without one. */
  get tokenizer(): Tokenizer {
    if (this.#tokenizer) return this.#tokenizer;
    throw makeError(
      'TOKENIZER_INVALID',
      `${this.path ?? 'this model'} has no tokenizer; pass token ids, or add its tokenizer.json`,
    );
  }

  get hasTokenizer(): boolean {
    return this.#tokenizer !== undefined;
  }

  /** Host bytes of the weights, the copies packed for the products included. */
  get bytes(): number {
    this.assertOpen();
    return this.handle.bytes;
  }

  /** A copy-on-write copy: shares all weights, costs microseconds and no weight memory. */
  fork(): Fork {
    this.assertOpen();
    return new Fork(this, this.handle.fork());
  }

  /** @internal The unedited fork that stands for the model in calls: one, so that none waits for the garbage collector. */
  get base(): NativeFork {
    this.#base ??= this.handle.fork();
    return this.#base;
  }

  /** SHA-256 over names, shapes and bytes of all weights. */
  async fingerprint(): Promise<string> {
    return runJob(() => this.handle.fingerprint(), {}, [this]);
  }

  protected release(): void {
    this.#base?.close();
    this.handle.close();
  }
}

/** Threads of the compute thread that all models of the process share; takes effect with the next call. */
export function setThreads(threads: number): void {
  if (!Number.isInteger(threads) || threads < 1) {
    throw makeError(
      'OPTION_INVALID',
      `threads is ${threads}; expected an integer from 1 (here: ${cpus().length})`,
    );
  }
  runSync(() => native().setThreads(threads));
}

/**
 * Most bytes that the tensors of the compute thread may hold together, weights included, for all models of the process;
 * 0: only what the system has. Beyond it a call goes on with less at once or ends with `WorkError` (`OUT_OF_MEMORY`).
 */
export function setMemoryLimit(bytes: number): void {
  if (!Number.isSafeInteger(bytes) || bytes < 0) {
    throw makeError(
      'OPTION_INVALID',
      `the memory limit is ${bytes}; expected a number of bytes, or 0 for none`,
    );
  }
  runSync(() => native().setMemoryLimit(bytes));
}
