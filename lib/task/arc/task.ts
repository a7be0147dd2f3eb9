/**
 * Few-shot adaptation on ARC as a task (SEAL, arXiv 2506.10943, section 4.2): the context of an edit are the demonstrations
 * of one ARC task, the edit chooses how a copy is trained on problems made of them, and the copy is tested on the test inputs.
 */
import type { TextEdit } from '../../edit/edit.js';
import { makeError } from '../../errors.js';
import type { CallOptions } from '../../native-job.js';
import { deriveKey } from '../../random.js';
import type { ContextAnswers, ForkExam } from '../../reward/ask-forks.js';
import type { Answered } from '../../reward/measure.js';
import { passesOver } from '../passes.js';
import type { Question, Task, TaskContext } from '../task.js';
import { ARC_EDIT_DEFAULTS, ARC_TEMPLATE, type ArcEditOptions, arcEdit } from './edit.js';
import { ARC_MEASURES, gradeProblems } from './grade.js';
import { gridText } from './grids.js';
import { VIEW_DEFAULTS, type ViewOptions, viewsOf } from './predict.js';
import { demonstrationsText, type ProblemView, type SolvedProblem } from './problems.js';
import type { ArcPair, ArcTask } from './read.js';
import { checkTransform, SAME_COLOURS } from './transforms.js';

export interface ArcOptions extends Omit<ArcEditOptions, 'layers' | 'opening'>, ViewOptions {
  /** Seed of training problems, views and orders. */
  seed: number | bigint;
  /** Tasks that no round of training shows. */
  evaluation: readonly ArcTask[];
  /**
   * Demonstrations of each training task that are neither shown nor trained on: they ask questions that report and do not
   * pay. At least two others must be left. 0, as published.
   */
  heldOut: number;
  /** Description of the task, for `{task}`. */
  description: string;
  /** Texts for the KL that keeps capabilities. None by default: then `reward.beta` must be 0. */
  retentionTexts: readonly string[];
}

export const ARC_DEFAULTS: Readonly<ArcOptions> = {
  ...ARC_EDIT_DEFAULTS,
  ...VIEW_DEFAULTS,
  seed: 0,
  evaluation: [],
  heldOut: 0,
  description: 'What you choose will be used to train a model that must then solve the test of this puzzle.',
  retentionTexts: [],
};

/** The few-shot task, with its own reading of edits and its own examination. */
export interface ArcTaskKit extends Task {
  readonly template: typeof ARC_TEMPLATE;
  readonly measures: readonly string[];
  parse(text: string, context: Pick<TaskContext, 'id'>, reading?: ArcReading, opening?: string): TextEdit;
  ask(
    rows: readonly ForkExam[],
    options?: CallOptions & { readonly measures?: readonly string[] },
  ): Promise<ContextAnswers[]>;
}

/** What is known when an edit is read. */
export type ArcReading = Partial<Pick<ArcEditOptions, 'layers'>> & {
  readonly directives?: ArcEditOptions['bounds'] | undefined;
};

interface Entry {
  readonly shown: readonly ArcPair[];
  readonly key: bigint;
}

/**
 * The task over ARC tasks with solutions; the tests of those trained on pay, as published. Equal options give equal contexts,
 * documents and views. A context's `id` and `title` are the ARC id. `solved` and `attempt1` are all or nothing: each question
 * of a context has the product over all questions beside it, so that their mean is 0 or 1 a task.
 * Errors: `INPUT_INVALID` (no tasks, a task twice, without solutions, with too few demonstrations), `OPTION_INVALID`.
 */
export function arc(tasks: readonly ArcTask[], given: Partial<ArcOptions> = {}): ArcTaskKit {
  const options = { ...ARC_DEFAULTS, ...given };
  checkOptions(options);
  if (tasks.length === 0) throw makeError('INPUT_INVALID', 'there are no ARC tasks; expected at least one');
  const all = [...tasks, ...options.evaluation];
  const twice = all.find(({ id }, index) => all.findIndex((other) => other.id === id) !== index);
  if (twice) {
    throw makeError('INPUT_INVALID', `ARC task ${twice.id} is there twice; expected each task in one role`);
  }
  const entries = new Map<string, Entry>();
  const problems = new Map<string, { problem: SolvedProblem; views: readonly ProblemView[] }>();
  const contexts = all.map((task, index): TaskContext => {
    const trained = index < tasks.length;
    const shown = task.demonstrations.slice(0, task.demonstrations.length - (trained ? options.heldOut : 0));
    if (trained && options.heldOut > 0 && shown.length < 2) {
      throw makeError(
        'INPUT_INVALID',
        `ARC task ${task.id} has ${task.demonstrations.length} demonstrations; expected at least 2 besides the ${options.heldOut} held out`,
      );
    }
    const key = deriveKey(options.seed, 'arc', [index]);
    entries.set(task.id, { shown, key });
    const ask = (id: string, { input, output }: ArcPair): Question => {
      const views = viewsOf(shown.length, deriveKey(key, 'views'), options);
      problems.set(id, { problem: { demonstrations: shown, input, output }, views });
      const { gap } = options.form;
      return { id, question: gridText(input, gap), answers: [gridText(output, gap)] };
    };
    const tests = task.tests.map(({ input, output }, at) => {
      if (output) return ask(`${task.id}.${at}`, { input, output });
      throw makeError('INPUT_INVALID', `ARC task ${task.id} has no solution of test ${at}; expected one`);
    });
    const held = task.demonstrations
      .slice(shown.length)
      .map((pair, at) => ask(`${task.id}.train.${shown.length + at}`, pair));
    return {
      id: task.id,
      title: task.id,
      context: demonstrationsText(shown, options.form),
      task: options.description,
      paying: trained ? tests : [],
      report: trained ? held : tests,
    };
  });
  const training = contexts.slice(0, tasks.length);

  return {
    name: 'arc',
    template: ARC_TEMPLATE,
    measures: ARC_MEASURES,
    evaluation: contexts.slice(tasks.length),
    retention: options.retentionTexts,
    contexts: passesOver(training, options.seed, 'arc-pass'),
    parse: (text, { id }, { directives, layers } = {}, opening = '') => {
      const entry = found(entries, id, 'context');
      const bounds = { ...options.bounds, ...directives };
      return arcEdit(text, entry.shown, entry.key, { ...options, bounds, layers, opening });
    },
    ask: async (rows, { measures, signal, onProgress } = {}) => {
      const asked = rows.flatMap(({ fork, context }) =>
        [...context.paying, ...context.report].map(({ id }) => ({
          fork,
          ...found(problems, id, 'question'),
        })),
      );
      const call = { signal, onProgress, form: options.form, ...(measures ? { measures } : {}) };
      const answers = await gradeProblems(asked, call);
      let next = 0;
      const take = (count: number) => {
        next += count;
        return allOrNothing(answers.slice(next - count, next));
      };
      return rows.map(({ context }) => ({
        paying: take(context.paying.length),
        report: take(context.report.length),
      }));
    },
  };
}

// A task counts as solved when all its test inputs are.
function allOrNothing(answers: readonly Answered[]): Answered[] {
  return answers.map((answer) => {
    const scores = { ...answer.scores };
    for (const measure of ['solved', 'attempt1'] as const) {
      if (scores[measure] === undefined) continue;
      scores[measure] = Math.min(...answers.map((other) => other.scores[measure]!));
    }
    return { ...answer, scores };
  });
}

function found<T>(known: ReadonlyMap<string, T>, id: string, noun: string): T {
  const value = known.get(id);
  if (value !== undefined) return value;
  throw makeError('INPUT_INVALID', `${noun} "${id}" is none of this ARC task; expected one that it gave`);
}

function checkOptions(options: ArcOptions): void {
  for (const [name, least] of [
    ['heldOut', 0],
    ['copies', 1],
    ['mostSteps', 1],
  ] as const) {
    const value = options[name];
    if (Number.isInteger(value) && value >= least) continue;
    throw makeError('OPTION_INVALID', `${name} is ${value}; expected a whole number of at least ${least}`);
  }
  if (options.symmetries.length === 0) {
    throw makeError('OPTION_INVALID', 'symmetries are empty; expected at least one');
  }
  for (const symmetry of options.symmetries) checkTransform({ symmetry, colours: SAME_COLOURS });
  const { leaveOut = [1], permutations = 0, most = 1 } = options.examples;
  const fault = [...leaveOut, most].find((count) => !(Number.isInteger(count) && count >= 1));
  if (fault === undefined && leaveOut.length > 0 && Number.isInteger(permutations) && permutations >= 0)
    return;
  throw makeError(
    'OPTION_INVALID',
    `examples are ${JSON.stringify(options.examples)}; expected whole numbers, leaveOut and most from 1, permutations from 0`,
  );
}
