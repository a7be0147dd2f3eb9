/** Edits become changed copies: the inner loop trains one delta an edit, all in lockstep, each applied to a fork. */
import {
  ADAPT_DEFAULTS,
  type AdaptCallOptions,
  type AdaptEdit,
  type Adapted,
  type AdaptOptions,
  adapt,
  PADDING_LENGTH,
} from '../adapt.js';
import type { Delta } from '../delta.js';
import { isOverflow, makeError } from '../errors.js';
import type { Fork } from '../fork.js';
import type { CallOptions } from '../native-job.js';
import { type Directives, directedOptions } from './directives.js';
import { bearsLoss, type TrainingDocument, type TrainingRow, toTrainingRow } from './documents.js';
import type { WeightEdit } from './weight.js';

/** Settings of the inner loop, with the bounds of its batches. */
export type InnerOptions = Partial<AdaptOptions> &
  Pick<AdaptCallOptions, 'deterministic' | 'maxStepTokens' | 'faithfulPadding' | 'paddingLength'>;

/** An edited copy. It owns its fork and its delta; `close` gives both back. */
export interface EditedFork {
  readonly fork: Fork;
  /** What was applied to it; none where the edit is invalid, has no document left or diverged. */
  readonly delta?: Delta;
  /** Loss of every inner step. */
  readonly loss: Float32Array;
  /** Its training ended in a loss that is not finite; the fork is then unedited. */
  readonly diverged: boolean;
  close(): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

/**
 * What is applied. Trained first: documents, under a key for the order of the steps and the first values; or an edit that
 * has them. As it is: a weight edit as written, which closing the copy closes.
 */
export type Applicable =
  | Trainable
  | { readonly edit: Trainable | WeightEdit; readonly seed?: number | bigint; close?(): Promise<void> };

export interface Trainable {
  readonly documents: readonly TrainingDocument[];
  /** How the edit itself wants to be trained; over the options of the call. */
  readonly directives?: Directives;
  /** An invalid edit is not trained. */
  readonly invalid?: unknown;
  readonly seed?: number | bigint;
  /** What the training starts from (`AdaptEdit.init`); stays the caller's. */
  readonly init?: Delta;
}

/**
 * Trains and applies the documents of each edit on top of `parent` (one for all, or one an edit), all in lockstep; the constants of the inner loop
 * are those of the paper unless given. Documents longer than the model's context (or the padding) are cut, and those without a predicted
 * token that bears loss (of fewer than two tokens, for example) left out. An edit that is invalid or has no document
 * left gives a fork without a delta. Weight edits need no training. Errors: `INPUT_INVALID` when there are not as many
 * parents as edits; those of `adapt`.
 */
export async function applyEdits(
  parent: Fork | readonly Fork[],
  edits: readonly Applicable[],
  { signal, onProgress, ...options }: InnerOptions & CallOptions = {},
): Promise<EditedFork[]> {
  const parents = 'model' in parent ? edits.map(() => parent) : parent;
  if (parents.length !== edits.length) {
    const found = `${parents.length} parents for ${edits.length} edits`;
    throw makeError('INPUT_INVALID', `${found}; expected one an edit, or one for all`);
  }
  if (edits.length === 0) return [];
  const { tokenizer, config } = parents[0]!.model;
  const run = { ...ADAPT_DEFAULTS, ...options };
  const { faithfulPadding = false, paddingLength = PADDING_LENGTH } = options;
  const longest = faithfulPadding ? Math.min(paddingLength, config.maxPositions) : config.maxPositions;
  const slots = edits.map((item, index): AdaptEdit | undefined => {
    const edit = 'edit' in item ? item.edit : item;
    if ('delta' in edit) return undefined;
    const rows = (edit.invalid ? [] : edit.documents)
      .map((document) => cut(toTrainingRow(tokenizer, document), longest))
      .filter(bearsLoss);
    if (rows.length === 0) return undefined;
    const masked = rows.some(({ mask }) => mask);
    return {
      fork: parents[index]!,
      documents: rows.map(({ tokens }) => tokens),
      ...(masked
        ? { lossMask: rows.map(({ tokens, mask }) => mask ?? new Uint8Array(tokens.length).fill(1)) }
        : {}),
      ...(edit.directives ? { options: directedOptions(edit.directives, run) } : {}),
      ...(edit.init ? { init: edit.init } : {}),
      seed: item.seed ?? 0,
    };
  });
  const trained = slots.flatMap((slot, index) => (slot ? [index] : []));
  const results = await adaptEach(
    slots.filter((slot) => slot !== undefined),
    { ...options, signal, onProgress },
  );
  const byEdit = new Map(trained.map((index, slot) => [index, results[slot]]));
  return edits.map((_, index) => {
    const fork = parents[index]!.fork();
    const result = byEdit.get(index);
    const weights = weightEditOf(edits[index]!);
    const delta = result?.delta ?? weights?.edit.delta;
    if (delta) fork.apply(delta);
    const close = () => closeAll(fork, weights?.close ? weights : result?.delta);
    return {
      fork,
      ...(delta ? { delta } : {}),
      loss: result?.loss ?? new Float32Array(0),
      diverged: byEdit.has(index) && result === undefined,
      close,
      [Symbol.asyncDispose]: close,
    };
  });
}

function cut({ tokens, mask }: TrainingRow, longest: number): TrainingRow {
  return { tokens: tokens.subarray(0, longest), ...(mask ? { mask: mask.subarray(0, longest) } : {}) };
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
    if (!isOverflow(error)) throw error;
  }
  const results: (Adapted | undefined)[] = [];
  for (const slot of slots) {
    const alone = adapt([slot], options).catch((error: unknown) => {
      if (isOverflow(error)) return [];
      throw error;
    });
    results.push((await alone)[0]);
  }
  return results;
}

function weightEditOf(item: Applicable): { edit: WeightEdit; close?(): Promise<void> } | undefined {
  if (!('edit' in item) || !('delta' in item.edit) || item.edit.invalid) return undefined;
  return item as { edit: WeightEdit; close?(): Promise<void> };
}

async function closeAll(fork: Fork, owned: { close?(): Promise<void> } | undefined): Promise<void> {
  await fork.close();
  await owned?.close?.();
}
