/** What the unedited model scores, computed once for each context and version of the parent. */
import type { Fork } from '../fork.js';
import type { Model } from '../model.js';
import { type Ranks, shared } from '../ranks/ranks.js';
import type { TaskContext } from '../task/task.js';
import { type ContextAnswers, examine, type ForkAnswers } from './ask-forks.js';
import type { AskOptions } from './measure.js';

/** Scores of the unedited model, kept by (context, version of the parent): the version moves with every update. */
export class BaselineCache {
  #version = '';
  readonly #answers = new Map<string, ContextAnswers>();

  /** The answers for `contexts`, asking `parent` only for those not yet known at this `version`; `together`: by all ranks. */
  async get(
    parent: Fork | Model,
    version: string,
    contexts: readonly TaskContext[],
    options: AskOptions,
    own?: ForkAnswers,
    together?: { readonly ranks: Ranks | undefined; readonly phase: string },
  ): Promise<ContextAnswers[]> {
    if (version !== this.#version) this.#answers.clear();
    this.#version = version;
    const unknown = contexts.filter(({ id }, index) => {
      return !this.#answers.has(id) && contexts.findIndex((other) => other.id === id) === index;
    });
    const asked = (mine: readonly TaskContext[]) =>
      examine(
        mine.map((context) => ({ fork: parent, context })),
        options,
        own,
      );
    // What is known is so on all ranks, as each gets all answers.
    const answers =
      together && unknown.length > 0
        ? await shared(together.ranks, together.phase, unknown, asked, questions)
        : await asked(unknown);
    const fresh = new Map(unknown.map(({ id }, index) => [id, answers[index]!]));
    for (const [id, given] of fresh) {
      // A grader that failed is asked again next time.
      if (![...given.paying, ...given.report].some(({ cause }) => cause)) this.#answers.set(id, given);
    }
    return contexts.map(({ id }) => (fresh.get(id) ?? this.#answers.get(id))!);
  }
}

function questions({ paying, report }: TaskContext): number {
  return paying.length + report.length;
}
