/** One optimizer step of a policy whose minibatch is spread over the ranks, by context. */
import type { PolicyStepStats } from '../binding.js';
import { isOverflow } from '../errors.js';
import type { Policy, PolicyRow, PolicyStepOptions } from '../policy.js';
import type { Ranks } from './ranks.js';
import { balanced, inOrder } from './shares.js';

/** Sums that make the figures of a step (native/core/policy.h, `PolicySums`). */
const SUMS = 15;

/** A row and the context that it belongs to. */
export interface GroupedRow {
  readonly group: number;
  readonly row: PolicyRow;
}

export interface TogetherOptions {
  readonly ranks?: Ranks | undefined;
  /** Gradients are taken a context at a time and summed in the order of the contexts: the same bits on any number of ranks. */
  readonly deterministic?: boolean | undefined;
  /** What the step is called where a rank does not arrive. */
  readonly phase: string;
  readonly signal?: AbortSignal | undefined;
}

/** As `Policy.step`, whichever rank a row is worked on. Rows, numbers and order must be the same on all ranks. */
export async function stepTogether(
  policy: Policy,
  rows: readonly GroupedRow[],
  numbers: Partial<PolicyStepOptions>,
  { ranks, deterministic = false, phase, signal }: TogetherOptions,
): Promise<PolicyStepStats> {
  if (!deterministic && (!ranks || ranks.world === 1)) {
    return policy.step({ ...numbers, rows: rows.map(({ row }) => row), signal });
  }
  const rank = ranks?.rank ?? 0;
  const groups = [...new Set(rows.map(({ group }) => group))].sort((left, right) => left - right);
  const rowsOf = (group: number) => rows.filter((row) => row.group === group).map(({ row }) => row);
  const sizes = groups.map((group) => rowsOf(group).reduce((sum, { tokens }) => sum + tokens.length, 0));
  const owners = balanced(sizes, ranks?.world ?? 1);
  const mine = groups.filter((_, index) => owners[index] === rank);
  // A loss that is not finite on one rank is so for all: they skip the step together.
  const accumulate = (some: readonly PolicyRow[]) =>
    policy.accumulate({ ...numbers, rows: some, signal }).catch((error: unknown) => {
      if (!isOverflow(error)) throw error;
      return new Float64Array(SUMS).fill(Number.NaN);
    });
  // A part is a context, or all that a rank has.
  const parts: Float64Array[] = [];
  if (deterministic) {
    for (const group of mine) {
      parts.push(await accumulate(rowsOf(group)));
      await policy.keepGradient();
    }
  } else {
    const own = rows.filter(({ group }) => mine.includes(group)).map(({ row }) => row);
    parts.push(await accumulate(own));
  }
  const all = ranks ? await ranks.gather(`${phase}, figures`, parts) : [parts];
  const order = deterministic ? owners : all.map((_, index) => index);
  const sum = () => policy.sumGradient(ranks?.handle ?? null, deterministic ? owners : undefined);
  // Every rank takes in one sum, or the gradient of every context.
  const bytes = policy.gradientBytes * (deterministic ? owners.length : 1);
  if (ranks) await ranks.reduce(`${phase}, gradients`, bytes, sum);
  else await sum().promise;
  return policy.applyGradient(numbers, total(all, order));
}

/** The last of the sums is a largest value. */
function total(all: readonly (readonly Float64Array[])[], order: readonly number[]): Float64Array {
  const parts = inOrder(all, order);
  const sums = new Float64Array(parts[0]!.length);
  const last = sums.length - 1;
  for (const part of parts) {
    part.forEach((value, index) => {
      if (index < last) sums[index]! += value;
      else if (!(value <= sums[index]!)) sums[index] = value;
    });
  }
  return sums;
}
