/** Edits in sequence: what each one gives its own context, and what the later ones take from the earlier. */
import { Delta } from './delta.js';
import type { WeightEdit } from './edit/weight.js';
import { makeError } from './errors.js';
import { sequenceFigures } from './forgetting-matrix.js';
import type { Fork } from './fork.js';
import { askForks } from './reward/ask-forks.js';
import { askOptions, type RewardOptions, rewardOptions } from './reward/options.js';
import { meanScore } from './reward/scores.js';
import type { TaskContext } from './task/task.js';

/** What an edit of a sequence may be; it is closed at the end when it can be. */
export type SequenceEdit =
  | Delta
  | Pick<WeightEdit, 'delta'>
  | { readonly edit: Pick<WeightEdit, 'delta'>; close(): Promise<void> };

export interface SequenceOptions {
  /** What the first edit is applied to; not changed. */
  parent: Fork;
  /** One a step; all their questions are asked after every step. */
  contexts: readonly TaskContext[];
  /** Makes the edit of context `index`, given the fork with all earlier edits. */
  edit: (fork: Fork, context: TaskContext, index: number) => Promise<SequenceEdit>;
  /** How questions are asked, and by which measure they are scored. */
  reward?: Partial<RewardOptions>;
  signal?: AbortSignal;
}

export interface SequenceResult {
  /** scores[i][j]: mean score on context j's questions after the first i edits; row 0 is the unedited model. */
  readonly scores: readonly (readonly number[])[];
  /** Mean over contexts of the score right after the own edit less that of the unedited model. */
  readonly immediate: number;
  /** The same at the end of the sequence. */
  readonly retained: number;
  /** immediate − retained: what later edits took away. */
  readonly forgotten: number;
}

/**
 * Applies one edit a context, each on top of all earlier ones, and scores every context after every edit.
 * Errors: `INPUT_INVALID` without contexts or for a context without questions; those of `ask`.
 */
export async function measureSequence(options: SequenceOptions): Promise<SequenceResult> {
  const { parent, signal } = options;
  const reward = rewardOptions(options.reward);
  const asking = askOptions(reward, parent.model.tokenizer, { signal });
  const contexts = options.contexts.map((context) => {
    return { ...context, paying: [], report: [...context.paying, ...context.report] };
  });
  const empty = contexts.findIndex(({ report }) => report.length === 0);
  if (contexts.length === 0 || empty >= 0) {
    const what = contexts.length === 0 ? 'the sequence has no context' : `context ${empty} has no question`;
    throw makeError('INPUT_INVALID', `${what}; expected at least one`);
  }
  const fork = parent.fork();
  const made: SequenceEdit[] = [];
  try {
    const scores: number[][] = [];
    for (let edits = 0; edits <= contexts.length; edits++) {
      if (edits > 0) {
        const next = await options.edit(fork, options.contexts[edits - 1]!, edits - 1);
        made.push(next);
        fork.apply('edit' in next ? next.edit : next);
      }
      const answers = await askForks(
        contexts.map((context) => ({ fork, context })),
        asking,
      );
      scores.push(answers.map(({ report }) => meanScore(report, reward.measure)));
    }
    return { scores, ...sequenceFigures(scores) };
  } finally {
    await fork.close();
    for (const edit of made) if (edit instanceof Delta || 'close' in edit) await edit.close();
  }
}
