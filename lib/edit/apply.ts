/** Edits become changed copies: the inner loop trains one delta an edit, all in lockstep, each applied to a fork. */
import { type AdaptEdit, type Adapted, type AdaptOptions, adapt } from '../adapt.js';
import type { Delta } from '../delta.js';
import { SelfeditError } from '../errors.js';
import type { Fork } from '../fork.js';
import type { CallOptions } from '../native-job.js';

/** Settings of the inner loop, with the bounds of its batches. */
export type InnerOptions = Partial<AdaptOptions> & { deterministic?: boolean; maxStepTokens?: number };

/** An edited copy. It owns its fork and its delta; `close` gives both back. */
export interface EditedFork {
  readonly fork: Fork;
  /** Loss of every inner step. */
  readonly loss: Float32Array;
  /** Its training ended in a loss that is not finite; the fork is then unedited. */
  readonly diverged: boolean;
  close(): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

/** What is trained: documents, under a key for the order of the steps and the first values; or an edit that has them. */
export type Applicable = Trainable | { readonly edit: Trainable; readonly seed?: number | bigint };

export interface Trainable {
  readonly documents: readonly string[];
  /** An invalid edit is not trained. */
  readonly invalid?: unknown;
  readonly seed?: number | bigint;
}

/**
 * Trains and applies the documents of each edit on top of `parent`, all in lockstep; the constants of the inner loop
 * are those of the paper unless given. Documents longer than the model's context are cut, and those of fewer than two
 * tokens, in which nothing is predicted, left out. An edit that is invalid or has no document left gives a fork
 * without a delta.
 */
export async function applyEdits(
  parent: Fork,
  edits: readonly Applicable[],
  { signal, onProgress, ...options }: InnerOptions & CallOptions = {},
): Promise<EditedFork[]> {
  const { tokenizer, config } = parent.model;
  const documents = edits.map((item) => {
    const edit = 'edit' in item ? item.edit : item;
    return (edit.invalid ? [] : edit.documents)
      .map((text) => tokenizer.encode(text).subarray(0, config.maxPositions))
      .filter((tokens) => tokens.length > 1);
  });
  const trained = documents.flatMap((rows, index) => (rows.length > 0 ? [index] : []));
  const slots = trained.map((index) => {
    return { fork: parent, documents: documents[index]!, seed: edits[index]!.seed ?? 0 };
  });
  const results = await adaptEach(slots, { ...options, signal, onProgress });
  const byEdit = new Map(trained.map((index, slot) => [index, results[slot]]));
  return edits.map((_, index) => {
    const fork = parent.fork();
    const result = byEdit.get(index);
    if (result) fork.apply(result.delta);
    const close = () => closeAll(fork, result?.delta);
    return {
      fork,
      loss: result?.loss ?? new Float32Array(0),
      diverged: byEdit.has(index) && result === undefined,
      close,
      [Symbol.asyncDispose]: close,
    };
  });
}

// One edit whose loss is not finite fails the whole call. The others do not depend on it, so training each alone gives
// what training all together would have given, and shows which one it was.
async function adaptEach(
  slots: readonly AdaptEdit[],
  options: InnerOptions & CallOptions,
): Promise<(Adapted | undefined)[]> {
  try {
    return await adapt(slots, options);
  } catch (error) {
    if (!isDivergence(error)) throw error;
  }
  const results: (Adapted | undefined)[] = [];
  for (const slot of slots) {
    const alone = adapt([slot], options).catch((error: unknown) => {
      if (isDivergence(error)) return [];
      throw error;
    });
    results.push((await alone)[0]);
  }
  return results;
}

function isDivergence(error: unknown): boolean {
  return error instanceof SelfeditError && error.code === 'LOSS_NOT_FINITE';
}

async function closeAll(fork: Fork, delta: Delta | undefined): Promise<void> {
  await fork.close();
  await delta?.close();
}
