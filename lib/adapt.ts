import { type AdaptSpec, type MemoryPlan, native } from './binding.js';
import { Delta } from './delta.js';
import { makeError } from './errors.js';
import type { Fork } from './fork.js';
import type { Model } from './model.js';
import { type CallOptions, runJob } from './native-job.js';
import { deriveKey, toSeed } from './random.js';
import type { Resource } from './resource.js';
import { ForkTable, type TokenInput, toRagged, toTokens } from './rows.js';
import { DEFAULT_TARGETS, resolveTargets } from './targets.js';

/** Constants of the inner loop; the defaults are those of SEAL (arXiv 2506.10943) for knowledge incorporation. */
export interface AdaptOptions {
  /** Rank of the low-rank delta. 32. */
  rank: number;
  /** The delta is scaled by alpha / rank. 64. */
  alpha: number;
  /** 1e-3. */
  learningRate: number;
  /** 10. */
  epochs: number;
  /** Documents of one optimizer step. 1. */
  batchSize: number;
  /** From the learning rate to 0 over all steps. `linear`. */
  schedule: 'constant' | 'linear' | 'cosine';
  /** Steps of linear warm-up from 0. 0. */
  warmupSteps: number;
  /** Largest gradient norm of a step; 0 is off. 1. */
  clip: number;
  /** AdamW. [0.9, 0.999]. */
  betas: readonly [number, number];
  /** 1e-8. */
  epsilon: number;
  /** 0. */
  weightDecay: number;
  /** Visit the documents in a fresh order each epoch, keyed by the edit's seed. true. */
  shuffle: boolean;
  /** Patterns over modules and layers (see `resolveTargets`). q_proj and v_proj. */
  targets: readonly string[];
  /** What is trained: factors A and B of `rank`, or values on a sparse support. `lowRank`. */
  kind: 'lowRank' | 'sparse';
  /** Part of each matrix that a sparse delta changes, above 0, at most 1. 0.01. */
  density: number;
  /**
   * How the support is chosen from the edit's own documents before the first step: the entries with the largest gradients
   * of the loss, or with the largest empirical Fisher information (squares of a document's gradients, summed). `gradient`.
   */
  selection: 'gradient' | 'fisher';
}

export const ADAPT_DEFAULTS: AdaptOptions = {
  rank: 32,
  alpha: 64,
  learningRate: 1e-3,
  epochs: 10,
  batchSize: 1,
  schedule: 'linear',
  warmupSteps: 0,
  clip: 1,
  betas: [0.9, 0.999],
  epsilon: 1e-8,
  weightDecay: 0,
  shuffle: true,
  targets: DEFAULT_TARGETS,
  kind: 'lowRank',
  density: 0.01,
  selection: 'gradient',
};

/** What the published code pads documents to. */
export const PADDING_LENGTH = 2048;

export interface AdaptEdit {
  /** What the new delta is trained on top of; it is not changed. */
  fork: Fork | Model;
  /** Training documents, at least one, each of at least two tokens. */
  documents: readonly TokenInput[];
  /** For each document one byte a token: 1 if predicting that token carries loss. All by default. */
  lossMask?: readonly Uint8Array[];
  /**
   * Start from this delta instead of the seeded initialisation (lowRank: same targets and rank; its scale is kept). One
   * that is not all low-rank is trained as it is: its values on its own support and factors, whatever `kind`, `rank` and
   * `targets` say.
   */
  init?: Delta;
  /** Key of initialisation and document order. By default derived from the call's seed and the edit's index. */
  seed?: number | bigint;
  /** Overrides of the call's options for this edit. */
  options?: Partial<AdaptOptions>;
}

export interface AdaptCallOptions extends Partial<AdaptOptions>, CallOptions {
  seed?: number | bigint;
  /** Equal bits whatever the other edits of the call are, at equal thread count and device. On the CPU this always holds. */
  deterministic?: boolean;
  /** Tokens of one lockstep step; chosen when absent. Does not change results. */
  maxStepTokens?: number;
  /**
   * Trains as the published code does: every document is padded to `paddingLength` with the tokenizer's end token, and the
   * padding bears loss. Padding attends to the document and not to itself, at positions that go on. About 40 times the
   * work for documents of 50 tokens; on the CPU only. false.
   */
  faithfulPadding?: boolean;
  /** Tokens of a padded document, at most the model's context; a longer document is left as it is. 2048. */
  paddingLength?: number;
  /** Most edits trained together; chosen from the free memory when absent. Does not change results. */
  slots?: number;
}

export interface Adapted {
  delta: Delta;
  /** Loss of every optimizer step: mean over its predicted tokens, in nats. */
  loss: Float32Array;
  /** Optimizer steps. */
  steps: number;
}

/**
 * The inner loop: K text edits become K deltas (low-rank or sparse) by K short trainings that run together. Each edit has its own
 * optimizer state, schedule, clipping and document order; what it becomes does not depend on the others.
 * Progress counts tokens. Errors: `InputError` (no documents, documents too short or too long), `DeltaError` (targets,
 * initial delta), `WorkError` (`LOSS_NOT_FINITE`, `OUT_OF_MEMORY`), `AbortedError`. When memory runs short in the middle, the call goes on with half as
 * much at once and says so by `process.emitWarning`; the second time it ends with `OUT_OF_MEMORY`, and nothing else is harmed.
 */
export async function adapt(
  edits: readonly AdaptEdit[],
  callOptions: AdaptCallOptions = {},
): Promise<Adapted[]> {
  if (edits.length === 0) return [];
  const { spec, uses, model } = adaptSpec(edits, callOptions);
  const result = await runJob((onProgress) => native().adapt(spec, onProgress), callOptions, uses);
  return result.deltas.map((handle, e) => {
    const loss = result.loss.slice(result.lossOffsets[e], result.lossOffsets[e + 1]);
    return { delta: new Delta(model, handle), loss, steps: loss.length };
  });
}

/**
 * How `adapt` would fit the edits into the memory that is free now: decided before any work starts. Errors: those of
 * `adapt`; `WorkError` (`OUT_OF_MEMORY`) when not even one edit fits, with what is needed and what there is.
 */
export async function planAdapt(
  edits: readonly AdaptEdit[],
  callOptions: AdaptCallOptions = {},
): Promise<MemoryPlan> {
  if (edits.length === 0) throw makeError('INPUT_INVALID', 'there is no edit to plan for');
  const { spec, uses } = adaptSpec(edits, callOptions);
  return runJob(() => native().planAdapt(spec), callOptions, uses);
}

function adaptSpec(
  edits: readonly AdaptEdit[],
  callOptions: AdaptCallOptions,
): { spec: AdaptSpec; uses: Resource[]; model: Model } {
  const table = new ForkTable(edits[0]!.fork);
  const { model } = table;
  const settings = edits.map((edit, e) => settingsOf(callOptions, edit, e));
  const slotFork = Int32Array.from(edits, ({ fork }, e) => table.indexOf(fork, `edit ${e}`));
  const padding = paddingOf(model, callOptions);
  const documents: Int32Array[] = [];
  const attended: number[] = [];
  const slotDocuments = new Int32Array(edits.length + 1);
  for (const [e, edit] of edits.entries()) {
    if (edit.documents.length === 0) throw makeError('INPUT_INVALID', `edit ${e} has no documents`);
    for (const [d, document] of edit.documents.entries()) {
      const tokens = toTokens(model, document, `edit ${e}, document ${d}`);
      const longest = model.config.maxPositions;
      if (tokens.length < 2) {
        throw makeError('INPUT_INVALID', `edit ${e}, document ${d} has 1 token; expected at least 2`);
      }
      if (tokens.length > longest) {
        throw makeError(
          'CONTEXT_LENGTH',
          `edit ${e}, document ${d} has ${tokens.length} tokens; the model's context holds ${longest}`,
        );
      }
      documents.push(padding ? padded(tokens, padding) : tokens);
      attended.push(tokens.length);
    }
    slotDocuments[e + 1] = documents.length;
  }
  const targets = settings.map(({ targets: patterns }) => resolveTargets(model, patterns));
  const matrices = toRagged(targets);
  const seed = toSeed(callOptions.seed ?? 0);
  const floats = (pick: (options: AdaptOptions) => number): Float32Array => Float32Array.from(settings, pick);
  const integers = (pick: (options: AdaptOptions) => number): Int32Array => Int32Array.from(settings, pick);
  const inits = edits.flatMap(({ init }) => (init ? [init] : []));
  const spec = {
    ...toRagged(documents),
    forks: table.natives,
    slotFork,
    slotDocuments,
    lossMask: maskOf(edits, documents, attended),
    attended: Int32Array.from(padding ? attended : []),
    rank: integers(({ rank }) => rank),
    alpha: floats(({ alpha }) => alpha),
    learningRate: floats(({ learningRate }) => learningRate),
    epochs: integers(({ epochs }) => epochs),
    batchSize: integers(({ batchSize }) => batchSize),
    schedule: integers(({ schedule }) => SCHEDULES.indexOf(schedule)),
    warmupSteps: integers(({ warmupSteps }) => warmupSteps),
    beta1: floats(({ betas }) => betas[0]),
    beta2: floats(({ betas }) => betas[1]),
    epsilon: floats(({ epsilon }) => epsilon),
    weightDecay: floats(({ weightDecay }) => weightDecay),
    clip: floats(({ clip }) => clip),
    shuffle: Uint8Array.from(settings, ({ shuffle }) => (shuffle ? 1 : 0)),
    keys: BigUint64Array.from(edits, ({ seed: own }, e) =>
      own === undefined ? deriveKey(seed, 'edit', [e]) : toSeed(own),
    ),
    matrices: matrices.tokens,
    matrixOffsets: matrices.offsets,
    kind: integers(({ kind }) => KINDS.indexOf(kind)),
    density: floats(({ density }) => density),
    selection: integers(({ selection }) => SELECTIONS.indexOf(selection)),
    init: edits.map(({ init }) => init?.handle ?? null),
    maxStepTokens: callOptions.maxStepTokens ?? 0,
    slots: slotsOf(callOptions),
    deterministic: callOptions.deterministic ?? false,
  };
  return { spec, uses: [...table.resources, ...inits], model };
}

interface Padding {
  length: number;
  token: number;
}

function paddingOf(model: Model, call: AdaptCallOptions): Padding | undefined {
  if (!call.faithfulPadding) return undefined;
  const length = call.paddingLength ?? PADDING_LENGTH;
  if (!inRange(length, 2)) {
    throw makeError('OPTION_INVALID', `paddingLength is ${length}; expected an integer from 2`);
  }
  const token = model.tokenizer.paddingTokenId;
  if (token === undefined) {
    throw makeError(
      'OPTION_INVALID',
      'faithfulPadding needs a tokenizer with an end token; this one has none',
    );
  }
  return { length: Math.min(length, model.config.maxPositions), token };
}

function padded(tokens: Int32Array, { length, token }: Padding): Int32Array {
  if (tokens.length >= length) return tokens;
  const row = new Int32Array(length).fill(token);
  row.set(tokens);
  return row;
}

function slotsOf({ slots }: AdaptCallOptions): number {
  if (slots === undefined) return 0;
  if (inRange(slots, 1)) return slots;
  throw makeError('OPTION_INVALID', `slots is ${slots}; expected an integer from 1`);
}

/** Integers travel in 32 bits. */
function inRange(value: number, least: number): boolean {
  return Number.isInteger(value) && value >= least && value < 2 ** 31;
}

const SCHEDULES: readonly AdaptOptions['schedule'][] = ['constant', 'linear', 'cosine'];

const KINDS: readonly AdaptOptions['kind'][] = ['lowRank', 'sparse'];
const SELECTIONS: readonly AdaptOptions['selection'][] = ['gradient', 'fisher'];

function settingsOf(call: AdaptCallOptions, edit: AdaptEdit, index: number): AdaptOptions {
  const merged: AdaptOptions = { ...ADAPT_DEFAULTS };
  for (const source of [call, edit.options ?? {}]) {
    for (const name of Object.keys(ADAPT_DEFAULTS) as (keyof AdaptOptions)[]) {
      if (source[name] !== undefined) Object.assign(merged, { [name]: source[name] });
    }
  }
  const fail = (name: string, found: unknown, expected: string): never => {
    throw makeError('OPTION_INVALID', `edit ${index}: ${name} is ${String(found)}; expected ${expected}`);
  };
  for (const name of ['rank', 'epochs', 'batchSize'] as const) {
    if (!inRange(merged[name], 1)) fail(name, merged[name], 'an integer from 1');
  }
  if (!inRange(merged.warmupSteps, 0)) {
    fail('warmupSteps', merged.warmupSteps, 'an integer from 0');
  }
  for (const name of ['learningRate', 'weightDecay', 'clip'] as const) {
    if (!(merged[name] >= 0 && Number.isFinite(merged[name]))) fail(name, merged[name], 'a number from 0');
  }
  if (!Number.isFinite(merged.alpha)) fail('alpha', merged.alpha, 'a number');
  if (!SCHEDULES.includes(merged.schedule)) fail('schedule', merged.schedule, SCHEDULES.join(', '));
  if (!KINDS.includes(merged.kind)) fail('kind', merged.kind, KINDS.join(', '));
  if (!SELECTIONS.includes(merged.selection)) fail('selection', merged.selection, SELECTIONS.join(', '));
  if (!(merged.density > 0 && merged.density <= 1)) {
    fail('density', merged.density, 'a part above 0, at most 1');
  }
  return merged;
}

// `lengths`: tokens of each document before its padding, which all bears loss.
function maskOf(
  edits: readonly AdaptEdit[],
  documents: readonly Int32Array[],
  lengths: readonly number[],
): Uint8Array {
  if (edits.every(({ lossMask }) => lossMask === undefined)) return new Uint8Array(0);
  const masks: Uint8Array[] = [];
  let next = 0;
  for (const [e, edit] of edits.entries()) {
    if (edit.lossMask && edit.lossMask.length !== edit.documents.length) {
      throw makeError(
        'INPUT_INVALID',
        `edit ${e} has ${edit.lossMask.length} loss masks for ${edit.documents.length} documents`,
      );
    }
    for (const d of edit.documents.keys()) {
      const row = new Uint8Array(documents[next]!.length).fill(1);
      const length = lengths[next++]!;
      const mask = edit.lossMask ? edit.lossMask[d] : new Uint8Array(length).fill(1);
      if (mask?.length !== length) {
        throw makeError(
          'INPUT_INVALID',
          `edit ${e}, document ${d}: the loss mask has ${mask?.length ?? 0} entries for ${length} tokens`,
        );
      }
      row.set(mask);
      masks.push(row);
    }
  }
  return Uint8Array.from(Buffer.concat(masks));
}
