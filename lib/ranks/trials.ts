/** The trials of a round, spread over the ranks: each trains and tests its own, all get all results. */
import type { TrainingDocument } from '../edit/documents.js';
import { textOf } from '../edit/documents.js';
import type { Ranks } from './ranks.js';
import { balanced, inOrder } from './shares.js';

/** @internal The trials of this rank, and whose every one is. Shares are balanced by the length of what is trained on. */
export function ownTrials<T extends { readonly edit: { readonly documents: readonly TrainingDocument[] } }>(
  trials: readonly T[],
  ranks: Ranks | undefined,
): { readonly trials: readonly T[]; readonly owners: readonly number[] } {
  if (!ranks) return { trials, owners: trials.map(() => 0) };
  const sizes = trials.map(({ edit }) =>
    edit.documents.reduce((sum, document) => sum + textOf(document).length, 1),
  );
  const owners = balanced(sizes, ranks.world);
  return { trials: trials.filter((_, index) => owners[index] === ranks.rank), owners };
}

/** @internal The results of all ranks' trials, in the order of the trials. */
export async function gatherTrials<R>(
  own: readonly R[],
  owners: readonly number[],
  ranks: Ranks | undefined,
  round: number,
): Promise<readonly R[]> {
  if (!ranks || ranks.world === 1) return own;
  return inOrder(await ranks.gather(`rewards of round ${round}`, own), owners);
}
