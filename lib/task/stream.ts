/** Contexts of a task, cut into streams. */
import { makeError } from '../errors.js';
import type { Task, TaskContext } from './task.js';

/**
 * `sequences` streams of `length` contexts each, all different: the contexts of round 0 in the task's own order. A pure
 * function of the task. Errors: `INPUT_INVALID` when the task has too few contexts, `OPTION_INVALID`.
 */
export function sequencesOf(
  task: Task,
  { sequences, length }: { readonly sequences: number; readonly length: number },
): TaskContext[][] {
  for (const [name, value] of Object.entries({ sequences, length })) {
    if (Number.isInteger(value) && value >= 1) continue;
    throw makeError('OPTION_INVALID', `${name} is ${value}; expected a whole number of at least 1`);
  }
  const contexts = task.contexts(0, sequences * length);
  const distinct = new Set(contexts.map(({ id }) => id)).size;
  if (distinct < sequences * length) {
    const needed = `${sequences} streams of ${length} need ${sequences * length}`;
    throw makeError('INPUT_INVALID', `task "${task.name}" has ${distinct} different contexts; ${needed}`);
  }
  return Array.from({ length: sequences }, (_, index) =>
    contexts.slice(index * length, (index + 1) * length),
  );
}
