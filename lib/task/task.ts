import type { Augmentation } from './augmentations.js';

/** A question about a context, with the answers that count as right (the first is the reference). */
export interface Question {
  /** Stable within its task, for journals and caches. */
  readonly id: string;
  readonly question: string;
  readonly answers: readonly string[];
}

/** One context of a task: what an edit is written from, and how the edited model is tested. */
export interface TaskContext {
  readonly id: string;
  readonly title: string;
  readonly context: string;
  /** Description of the task, for the `{task}` of an edit prompt. */
  readonly task: string;
  /** Questions whose score pays reward. */
  readonly paying: readonly Question[];
  /** Questions that only report; none of them is also paying. */
  readonly report: readonly Question[];
}

/** A stream of contexts. Everything it returns is a pure function of its construction and its arguments. */
export interface Task {
  readonly name: string;
  /** The contexts of round `round` (from 0), `count` of them. */
  contexts(round: number, count: number): readonly TaskContext[];
  /** Contexts that no round of training shows. All their questions are in `report`. */
  readonly evaluation: readonly TaskContext[];
  /** Texts that no edit has seen, for the KL that keeps capabilities. */
  readonly retention: readonly string[];
  /** What an edit may ask for by its directives. */
  readonly augmentations?: Readonly<Record<string, Augmentation>>;
}
