/**
 * What an edit costs: the drop in score on the questions of earlier contexts. As a part of the reward of a later edit,
 * reward − λ · forgetting, it keeps what earlier edits taught (SCoL, arXiv 2605.07076).
 */
import { average } from '../average.js';
import { makeError } from '../errors.js';
import type { Fork } from '../fork.js';
import type { Model } from '../model.js';
import type { CallOptions } from '../native-job.js';
import type { TaskContext } from '../task/task.js';
import { askApart, type ContextAnswers } from './ask-forks.js';
import { askOptions, examinedOptions, type RewardOptions } from './options.js';
import { dropsOf, meanScore } from './scores.js';

export interface ForgettingOptions extends Partial<RewardOptions>, CallOptions {
  /** A context that got better counts as 0, so that it does not make up for one that got worse. true. */
  clipDrops?: boolean;
  /** What `parent` answers to the earlier contexts, in their order, where it is known. */
  baselines?: readonly Pick<ContextAnswers, 'paying'>[];
}

/**
 * For each fork the mean over the earlier contexts of how much less it scores on their paying questions than `parent`
 * does, by `measure`; 0 without earlier contexts. Report questions are not asked. NaN where a score is unknown,
 * or not finite.
 * Errors: `INPUT_INVALID` for an earlier context without a paying question, or baselines that do not fit.
 */
export async function forgettingOf(
  forks: readonly (Fork | Model)[],
  parent: Fork | Model,
  earlier: readonly TaskContext[],
  given: ForgettingOptions = {},
): Promise<number[]> {
  const { clipDrops = true, baselines, signal, onProgress, ...rest } = given;
  const options = examinedOptions(rest);
  const without = earlier.findIndex(({ paying }) => paying.length === 0);
  if (without >= 0) {
    throw makeError(
      'INPUT_INVALID',
      `earlier context ${without} has no paying question; expected at least one`,
    );
  }
  if (baselines && baselines.length !== earlier.length) {
    const found = `${baselines.length} baselines for ${earlier.length} earlier contexts`;
    throw makeError('INPUT_INVALID', `${found}; expected one a context`);
  }
  if (earlier.length === 0) return forks.map(() => 0);
  const contexts = earlier.map((context) => ({ ...context, report: [] }));
  const asked = (baselines ? forks : [parent, ...forks]).flatMap((fork) =>
    contexts.map((context) => ({ fork, context })),
  );
  // One measure is enough: what is only reported would cost a generation an earlier context.
  const asking = askOptions({ ...options, report: [] }, modelOf(parent).tokenizer, { signal, onProgress });
  const answers = [...(baselines ?? []), ...(await askApart(asked, asking, options.examine))];
  const scores = answers.map(({ paying }) => meanScore(paying, options.measure));
  const before = scores.slice(0, earlier.length);
  return forks.map((_, index) => {
    const after = scores.slice((index + 1) * earlier.length, (index + 2) * earlier.length);
    return average(dropsOf(before, after, clipDrops));
  });
}

function modelOf(fork: Fork | Model): Model {
  return 'model' in fork ? fork.model : fork;
}
