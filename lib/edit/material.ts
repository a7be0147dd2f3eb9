/** What contexts give to weight edits: the documents of training on the passage alone, and the inner loop over them. */
import { type AdaptCallOptions, adapt } from '../adapt.js';
import type { Delta } from '../delta.js';
import { makeError } from '../errors.js';
import type { Fork } from '../fork.js';
import type { Model } from '../model.js';
import { deriveKey } from '../random.js';
import { toTrainingRow } from './documents.js';
import { passageOnly } from './parse.js';
import type { SpaceBlock } from './spaces.js';
import type { EditContext } from './weight.js';

/** @internal Tokens of a context's documents. Throws `INPUT_INVALID` when there is nothing to predict in any. */
export function documentsOf(context: EditContext, index: number, model: Model): Int32Array[] {
  const rows = passageOnly(context)
    .documents.map((document) => toTrainingRow(model.tokenizer, document).tokens)
    .map((tokens) => tokens.subarray(0, model.config.maxPositions))
    .filter((tokens) => tokens.length > 1);
  if (rows.length > 0) return rows;
  throw makeError('INPUT_INVALID', `context ${index} has no document of at least 2 tokens to learn from`);
}

/** @internal The deltas that are modulated, one a context; none when no block is modulated. */
export async function innerLoop(
  parent: Fork,
  blocks: readonly SpaceBlock[],
  documents: readonly Int32Array[][],
  { seed, round, ...options }: AdaptCallOptions & { seed: number | bigint; round: number },
): Promise<Delta[]> {
  const { tensors } = parent.model;
  const targets = blocks.flatMap(({ matrix, space }) =>
    space === 'modulated' ? [tensors[matrix]!.name] : [],
  );
  if (targets.length === 0) return [];
  const edits = documents.map((rows, index) => {
    return { fork: parent, documents: rows, seed: deriveKey(seed, 'modulated', [round, index]) };
  });
  const trained = await adapt(edits, { ...options, targets });
  return trained.map(({ delta }) => delta);
}
