/**
 * What a task is: contexts to write edits from, and how the edited models are examined. Tasks of one's own need no more
 * than the four fields of `Task` that are not optional.
 */
import type { TextEdit } from '../edit/edit.js';
import type { ReadOptions } from '../edit/parse.js';
import type { EditTemplate } from '../edit/prompts.js';
import type { ForkAnswers } from '../reward/ask-forks.js';
import type { QuestionTemplate } from '../reward/question.js';
import type { Augmentation } from './augmentations.js';

/** A question about a context, with the answers that count as right (the first is the reference). */
export interface Question {
  /** Stable within its task, for journals and caches. */
  readonly id: string;
  readonly question: string;
  /** May be empty for graders that need none. */
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

/** What a task may do in its own way. */
export interface TaskHooks {
  /** Wording of the edit prompt, where the caller names none. */
  readonly template?: EditTemplate;
  /** Wording of questions, where the caller gives none. */
  readonly question?: QuestionTemplate;
  /** What an edit may ask for by its directives. */
  readonly augmentations?: Readonly<Record<string, Augmentation>>;
  /** Turns what was written into an edit; `parseEdit` where absent. `opening`: what the prompt put into the model's mouth. */
  parse?(text: string, context: TaskContext, reading: ReadOptions, opening: string): TextEdit;
  /** Examines forks, each on its context; `askForks` where absent. */
  readonly ask?: ForkAnswers;
  /** Measures that `ask` gives beyond the built-in ones. */
  readonly measures?: readonly string[];
}

/** A stream of contexts. Everything it returns is a pure function of its construction and its arguments. */
export interface Task extends TaskHooks {
  readonly name: string;
  /** The contexts of round `round` (from 0), `count` of them. */
  contexts(round: number, count: number): readonly TaskContext[];
  /** Contexts that no round of training shows. All their questions are in `report`. */
  readonly evaluation: readonly TaskContext[];
  /** Texts that no edit has seen, for the KL that keeps capabilities. */
  readonly retention: readonly string[];
}

/** The hooks of a task, which may be a class. */
export function hooksOf(task: TaskHooks): TaskHooks {
  const { template, question, augmentations, measures } = task;
  return {
    ...(template ? { template } : {}),
    ...(question ? { question } : {}),
    ...(augmentations ? { augmentations } : {}),
    ...(task.parse ? { parse: task.parse.bind(task) } : {}),
    ...(task.ask ? { ask: task.ask.bind(task) } : {}),
    ...(measures ? { measures } : {}),
  };
}
