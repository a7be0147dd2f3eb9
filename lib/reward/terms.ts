/** Terms of a reward beyond graded answers: any function of the edit and of the model that it made. */
import type { SelfEdit } from '../edit/edit.js';
import { makeError } from '../errors.js';
import type { Fork } from '../fork.js';
import type { TaskContext } from '../task/task.js';
import type { ContextAnswers } from './ask-forks.js';
import { mapConcurrently, withinTime } from './time-limit.js';

/** What a reward function may look at. The forks are the loop's: do not close or change them, and do not keep them. */
export interface RewardSubject {
  readonly context: TaskContext;
  /** Absent where `rewardForks` was given none. */
  readonly edit?: SelfEdit;
  /** The edited model, and the model that it was made from. */
  readonly fork: Fork;
  readonly parent: Fork;
  /** What both answered to the questions of the context, with their scores. */
  readonly answers: ContextAnswers;
  readonly baseline: ContextAnswers;
}

/** A term of the reward: `weight` times what the function gives is added. */
export interface RewardTerm {
  readonly name: string;
  /** 1 by default. */
  readonly weight?: number;
  /** Calls under way at once; 8. */
  readonly concurrency?: number;
  /** The value for one edit, now or later. NaN (or undefined): unknown, which leaves the edit out of the update. */
  reward(
    subject: RewardSubject,
    call: { readonly signal: AbortSignal },
  ): Promise<number | undefined> | number | undefined;
}

/** Values of all terms for one edit, by name; and why one is unknown. */
export interface TermValues {
  readonly values: Readonly<Record<string, number>>;
  readonly cause?: string;
}

/** Throws `OPTION_INVALID` for a term that is no function, two of one name, or a weight that is not finite. */
export function checkTerms(terms: readonly RewardTerm[]): void {
  for (const [index, { name, weight = 1, concurrency = 1, reward }] of terms.entries()) {
    const label = `reward term ${typeof name === 'string' && name !== '' ? `"${name}"` : index}`;
    if (typeof name !== 'string' || name === '' || typeof reward !== 'function') {
      throw makeError('OPTION_INVALID', `${label} lacks a name or a function; expected {name, reward}`);
    }
    if (!Number.isFinite(weight)) {
      throw makeError('OPTION_INVALID', `the weight of ${label} is ${weight}; expected a finite number`);
    }
    if (!(Number.isInteger(concurrency) && concurrency >= 1)) {
      throw makeError('OPTION_INVALID', `the concurrency of ${label} is ${concurrency}; expected at least 1`);
    }
    if (terms.findIndex((other) => other.name === name) < index) {
      throw makeError('OPTION_INVALID', `there are two of ${label}; expected different names`);
    }
  }
}

/**
 * The values of every term for every subject. A function that throws, gives something other than a finite number, or
 * does not end within `seconds` leaves the value unknown (NaN); the others do not notice. Throws `ABORTED`.
 */
export async function valuesOfTerms(
  terms: readonly RewardTerm[],
  subjects: readonly RewardSubject[],
  { signal, seconds }: { readonly signal?: AbortSignal | undefined; readonly seconds: number },
): Promise<TermValues[]> {
  const columns: { value: number; cause?: string }[][] = [];
  for (const term of terms) {
    const column = await mapConcurrently(subjects, term.concurrency ?? 8, async (subject) => {
      const name = `reward "${term.name}"`;
      try {
        const work = (inner: AbortSignal) => term.reward(subject, { signal: inner });
        const value = await withinTime(name, seconds, work, signal);
        if (typeof value === 'number' && Number.isFinite(value)) return { value };
        const found = typeof value === 'number' ? value : typeof value;
        return { value: Number.NaN, cause: `${name} gave ${found}; expected a finite number` };
      } catch (error) {
        if (signal?.aborted) throw makeError('ABORTED', `${name}: stopped by its signal`, error);
        return { value: Number.NaN, cause: `${name} failed: ${(error as Error)?.message ?? String(error)}` };
      }
    });
    columns.push(column);
  }
  return subjects.map((_, row) => {
    const values = Object.fromEntries(terms.map(({ name }, term) => [name, columns[term]![row]!.value]));
    const cause = columns.map((column) => column[row]!.cause).find((found) => found !== undefined);
    return { values, ...(cause === undefined ? {} : { cause }) };
  });
}
