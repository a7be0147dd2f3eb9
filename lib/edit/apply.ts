/** Edits become changed copies: the inner loop trains one delta an edit, all in lockstep, each applied to a fork. */
import { type AdaptOptions, adapt } from '../adapt.js';
import type { Delta } from '../delta.js';
import type { Fork } from '../fork.js';
import type { Tokenizer } from '../tokenizer/tokenizer.js';

/** Settings of the inner loop, with the bounds of its batches. */
export type InnerOptions = Partial<AdaptOptions> & { deterministic?: boolean; maxStepTokens?: number };

/** An edited copy. It owns its fork and its delta; `close` gives both back. */
export interface EditedFork {
  readonly fork: Fork;
  /** Loss of every inner step. */
  readonly loss: Float32Array;
  close(): Promise<void>;
}

/**
 * Trains and applies the documents of each edit on top of `parent`. Documents longer than the model's context are cut,
 * and those of fewer than two tokens, which nothing can be predicted in, are left out; an edit that has none left
 * gives a fork without a delta.
 */
export async function applyEdits(
  parent: Fork,
  tokenizer: Tokenizer,
  edits: readonly { readonly documents: readonly string[]; readonly seed: bigint }[],
  options: InnerOptions = {},
  signal?: AbortSignal,
): Promise<EditedFork[]> {
  const longest = parent.model.config.maxPositions;
  const documents = edits.map((edit) =>
    edit.documents
      .map((text) => tokenizer.encode(text).subarray(0, longest))
      .filter((tokens) => tokens.length > 1),
  );
  const trained = documents.flatMap((rows, index) => (rows.length > 0 ? [index] : []));
  const results = await adapt(
    trained.map((index) => ({ fork: parent, documents: documents[index]!, seed: edits[index]!.seed })),
    { ...options, signal },
  );
  const byEdit = new Map(trained.map((index, slot) => [index, results[slot]!]));
  return edits.map((_, index) => {
    const fork = parent.fork();
    const result = byEdit.get(index);
    if (result) fork.apply(result.delta);
    return { fork, loss: result?.loss ?? new Float32Array(0), close: () => closeAll(fork, result?.delta) };
  });
}

async function closeAll(fork: Fork, delta: Delta | undefined): Promise<void> {
  await fork.close();
  await delta?.close();
}
