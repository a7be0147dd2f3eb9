/** What a round is about: its contexts checked, the earlier ones that must not be forgotten, and its retention texts. */
import { makeError } from './errors.js';
import type { Fork } from './fork.js';
import type { Policy } from './policy.js';
import { deriveKey, permutation } from './random.js';
import { type VoteFigures, voteFigures } from './reward/collapse.js';
import { BUILT_IN_GRADERS } from './reward/grader.js';
import { type LabelOptions, majorityLabels } from './reward/majority.js';
import { measuresOf, type RewardOptions, weightsOf } from './reward/options.js';
import type { Task, TaskContext } from './task/task.js';

/** How questions without a right answer get one: the model's own votes. */
export interface LabelSettings extends Omit<LabelOptions, 'seed' | 'signal' | 'onProgress'> {}

/** @internal What a round is about: its own contexts, and those that it must not forget. */
export interface RoundContexts {
  readonly contexts: readonly TaskContext[];
  readonly earlier: readonly TaskContext[];
  readonly votes?: VoteFigures;
}

/**
 * @internal The contexts of a round and the earlier ones, checked, with the votes of `voter` as answers where `labels` asks for
 * them. The draws belong to the questions, so that a voter which has not moved gives the same labels again. Throws
 * `REWARD_UNKNOWN` when no question that pays has a label; earlier contexts without one are left out.
 */
export async function roundContexts(
  voter: Fork,
  task: Task,
  round: number,
  labels: LabelSettings | undefined,
  settings: RoundSettings & { readonly signal: AbortSignal | undefined },
): Promise<RoundContexts> {
  const { reward, seed, signal } = settings;
  const contexts = task.contexts(round, settings.contexts);
  const earlier = earlierContexts(task, round, settings);
  if (!labels) return { contexts: checkContexts(contexts, reward), earlier };
  const vote = (some: readonly TaskContext[]) =>
    majorityLabels(voter, some, {
      ...{ form: reward.form, template: reward.question, ...labels },
      seed: deriveKey(seed, 'labels'),
      ...(signal ? { signal } : {}),
    });
  const labelled = await vote(contexts);
  if (labelled.contexts.length === 0 && contexts.length > 0) {
    throw makeError(
      'REWARD_UNKNOWN',
      `the votes gave no label to any of ${labelled.unlabelled} questions; expected an answer that enough samples agree on`,
    );
  }
  const past = await vote(earlier);
  return {
    contexts: checkContexts(labelled.contexts, reward),
    earlier: past.contexts.filter(({ paying }) => paying.length > 0),
    votes: voteFigures(labelled.votes),
  };
}

interface RoundSettings {
  readonly contexts: number;
  readonly reward: RewardOptions;
  readonly seed: number | bigint;
}

/**
 * The contexts of a round, if every one can be examined. Throws `INPUT_INVALID` for none at all, one without a question
 * that pays (where questions pay), a question that both pays and reports, or one without a right answer where a measure
 * needs it. A context may come twice: rounds are cut from an endless stream.
 */
function checkContexts(contexts: readonly TaskContext[], reward: RewardOptions): readonly TaskContext[] {
  if (contexts.length === 0)
    throw makeError('INPUT_INVALID', 'the task gave no context; expected at least 1');
  // A task that examines in its own way knows what it needs.
  const strict = measuresOf(reward).filter(
    (measure) =>
      !reward.examine && (measure === 'likelihood' || BUILT_IN_GRADERS.some(({ name }) => name === measure)),
  );
  for (const { id, title, paying, report } of contexts) {
    const fail = (found: string, expected: string): never => {
      throw makeError('INPUT_INVALID', `context "${id}" (${title}) ${found}; expected ${expected}`);
    };
    if (paying.length === 0 && weightsOf(reward).length > 0)
      fail('has no question that pays', 'at least one');
    const wordings = new Set(paying.map(({ question }) => question.trim()));
    const both = report.find(({ question }) => wordings.has(question.trim()));
    if (both) fail(`has the question "${both.question}" in both sets`, 'it either to pay or to report');
    const bare = [...paying, ...report].find(({ answers }) =>
      answers.every((answer) => answer.trim() === ''),
    );
    if (bare && strict.length > 0) {
      fail(
        `has the question "${bare.question}" without a right answer`,
        `at least one for the measure "${strict[0]}"`,
      );
    }
  }
  return contexts;
}

/**
 * Up to `earlierContexts` contexts of the rounds before this one and not of it, a keyed choice; their paying
 * questions only, as report-only ones never pay. None without λ.
 */
function earlierContexts(
  task: Task,
  round: number,
  { contexts, reward, seed }: RoundSettings,
): TaskContext[] {
  if (!reward.lambda || round === 0) return [];
  const present = new Set(task.contexts(round, contexts).map(({ id }) => id));
  const seen = new Map<string, TaskContext>();
  for (let before = 0; before < round; before++) {
    for (const context of task.contexts(before, contexts)) {
      if (!present.has(context.id)) seen.set(context.id, { ...context, report: [] });
    }
  }
  const all = [...seen.values()].filter(({ paying }) => paying.length > 0);
  const order = permutation(deriveKey(seed, 'earlier', [round]), all.length);
  return Array.from(order.subarray(0, reward.earlierContexts), (index) => all[index]!);
}

/** @internal The retention texts of a round, as tokens: a keyed choice, the same for all its edits. */
export function retentionTokens(
  round: number,
  { policy, task }: { policy: Pick<Policy, 'model'>; task: Task },
  settings: { reward: RewardOptions; seed: number | bigint },
): Int32Array[] {
  const { tokenizer, config } = policy.model;
  const { retention } = task;
  const { beta, retentionTexts } = settings.reward;
  if (beta > 0 && retention.length === 0) {
    throw makeError(
      'OPTION_INVALID',
      'reward.beta is set but the task has no retention texts; expected at least 1',
    );
  }
  const longest = Math.min(settings.reward.retentionTokens, config.maxPositions);
  const order = permutation(deriveKey(settings.seed, 'retention', [round]), retention.length);
  return Array.from(order.subarray(0, retentionTexts), (index) =>
    tokenizer.encode(retention[index]!).subarray(0, longest),
  );
}
