/**
 * The outer loop of SEAL: the policy writes edits, each edit changes a copy of the model, the copy is tested, and the
 * test is the reward that trains the policy to write better edits.
 */
import type { Algorithm } from './algorithm/algorithm.js';
import { type AlgorithmName, algorithmNamed } from './algorithm/named.js';
import type { PpoOptions } from './algorithm/ppo.js';
import { applyEdits, type EditedFork, type InnerOptions } from './edit/apply.js';
import {
  checkWriteOptions,
  toRollouts,
  type WriteOptions,
  type WrittenEdit,
  writeDefaults,
  writeEdits,
} from './edit/write.js';
import {
  type EditIdentity,
  judgeEdit,
  learnable,
  type RoundResult,
  rewardSummary,
  settleRewards,
  updateOrSkip,
} from './edit-result.js';
import { makeError } from './errors.js';
import type { Fork } from './fork.js';
import type { GuardFigures, GuardOptions } from './guard/guards.js';
import { RoundGuard } from './guard/round-guard.js';
import type { Policy } from './policy.js';
import { deriveKey } from './random.js';
import { gatherTrials, ownTrials } from './ranks/trials.js';
import { BaselineCache } from './reward/baseline.js';
import { rewardForks } from './reward/evaluate.js';
import type { AskOptions } from './reward/measure.js';
import { askOptions, payingOnly, type RewardOptions, rewardUnder, weightsOf } from './reward/options.js';
import { PhaseClock, type RoundListeners, wholeNumber } from './round.js';
import { type LabelSettings, retentionTokens, roundContexts } from './round-contexts.js';
import { sealWeights, type WeightSealOptions } from './seal-weights.js';
import { hooksOf, type Task, type TaskContext } from './task/task.js';

export interface SealOptions extends RoundListeners {
  policy: Policy;
  task: Task;
  /** Rounds are numbered from 0; the loop ends before `rounds`. */
  rounds: number;
  /** First round, when a run is resumed. The results are those of an uninterrupted run. */
  startRound?: number;
  seed?: number | bigint;
  contextsPerRound?: number;
  /** At least 2: the baseline of an edit is the mean reward of the others of its context. */
  editsPerContext?: number;
  /** Inner trainings of each edit, by different keys; the reward is their mean. More make it less noisy. */
  repeats?: number;
  edit?: Partial<WriteOptions>;
  /** What edits are stacked on and compared with: the present policy (as published), or the base model. */
  adaptFrom?: 'policy' | 'base';
  adapt?: InnerOptions;
  reward?: Partial<RewardOptions>;
  /** Majority votes of the parent's own samples as answers (SRT, arXiv 2505.21444); those of the task by default. */
  labels?: LabelSettings;
  /** Guards against reward hacking; on by default. */
  guards?: Partial<GuardOptions>;
  /** Figures of the guards in the rounds before `startRound`, when a run is resumed. */
  guardHistory?: readonly GuardFigures[];
  /** PPO by default: a name, options of PPO, or a ready algorithm such as `grpo({ … })`. */
  algorithm?: AlgorithmName | Partial<PpoOptions> | Algorithm;
}

type Settings = ReturnType<typeof settle>;

/**
 * Runs rounds of SEAL, one at a time, and yields each round's result after its policy update; ends early when a guard's alarm
 * says so. Round r is a pure
 * function of (policy and algorithm state before it, options, r): nothing is drawn from the clock. The policy is
 * changed in place; forks and deltas of a round are closed before it is yielded. With a `head` the edits are weight
 * changes and the head is what learns (`sealWeights`).
 *
 * Throws `OPTION_INVALID` for settings out of range, `INPUT_INVALID` for a context that cannot be examined, `REWARD_UNKNOWN` for
 * a round of which no two rewards of a context are known, and `ABORTED` when `signal` fires.
 */
export async function* seal(
  options: SealOptions | WeightSealOptions,
): AsyncGenerator<RoundResult, void, void> {
  if ('head' in options) {
    yield* sealWeights(options);
    return;
  }
  const settings = settle(options);
  for (let round = options.startRound ?? 0; round < options.rounds; round++) {
    const result = await playRound(round, options, settings);
    yield result;
    if (result.halted) return;
  }
}

function settle(options: SealOptions) {
  const hooks = hooksOf(options.task);
  const edit = { ...writeDefaults(hooks), ...options.edit };
  const { model } = options.policy;
  checkWriteOptions(edit, { model, augmentations: hooks.augmentations }, options.adapt);
  wholeNumber('rounds', options.rounds, 0);
  wholeNumber('startRound', options.startRound ?? 0, 0);
  if (!(edit.temperature > 0)) {
    throw makeError('OPTION_INVALID', `edit.temperature is ${edit.temperature}; expected a positive number`);
  }
  return {
    seed: options.seed ?? 0,
    contexts: wholeNumber('contextsPerRound', options.contextsPerRound ?? 5, 1),
    samples: wholeNumber('editsPerContext', options.editsPerContext ?? 5, 2),
    repeats: wholeNumber('repeats', options.repeats ?? 1, 1),
    edit: { ...edit, maxTokens: wholeNumber('edit.maxTokens', edit.maxTokens, 1) },
    reward: rewardUnder(hooks, options.reward),
    hooks,
    guard: new RoundGuard(options.guards, options.guardHistory),
    baselines: new BaselineCache(),
    earlierBaselines: new BaselineCache(),
    algorithm: algorithmOf(options.algorithm ?? 'ppo', edit.maxTokens),
  };
}

function algorithmOf(given: NonNullable<SealOptions['algorithm']>, maxTokens: number): Algorithm {
  if (typeof given === 'string') return algorithmNamed(given, { maxTokens });
  return 'update' in given ? given : algorithmNamed('ppo', { maxTokens, ...given });
}

async function playRound(round: number, options: SealOptions, settings: Settings): Promise<RoundResult> {
  const { policy, task, signal, ranks, deterministic } = options;
  const clock = new PhaseClock(round, options);
  const { seed, samples, repeats, algorithm, reward, hooks } = settings;
  const retention = retentionTokens(round, options, settings);
  const base = options.adaptFrom === 'base';
  const inner = { ...options.adapt, ...(deterministic ? { deterministic } : {}) };
  const writer = policy.fork();
  const parent = base ? policy.model.fork() : policy.fork();
  let forks: EditedFork[] = [];
  try {
    const about = () => roundContexts(parent, task, round, options.labels, { ...settings, signal });
    const { contexts, earlier, votes } = await (options.labels ? clock.run('baseline', about) : about());
    const written = await clock.run('write', (call) =>
      writeEdits(writer, contexts, { ...settings.edit, ...call, task: hooks, samples, seed, round, ranks }),
    );
    const { baseline, earlierBaselines } = await clock.run('baseline', async (call) => {
      const version = base ? 'base' : `policy ${policy.version}`;
      const asking = askOptions(reward, policy.model.tokenizer, call);
      const of = (cache: BaselineCache, some: readonly TaskContext[], how: AskOptions) =>
        cache.get(parent, version, some, how, reward.examine, {
          ranks,
          phase: `baselines of round ${round}`,
        });
      return {
        baseline: await of(settings.baselines, contexts, asking),
        earlierBaselines: await of(settings.earlierBaselines, earlier, payingOnly(asking, reward)),
      };
    });
    // Every edit is trained `repeats` times. The key leaves out the edit: edits of one context start from the same
    // values, so that luck with them cancels where their rewards are compared.
    const trials = written.flatMap((item) =>
      Array.from({ length: item.edit.invalid ? 0 : repeats }, (_, repeat) => ({
        ...item,
        item,
        seed: deriveKey(seed, 'adapt', [round, item.group, repeat]),
      })),
    );
    const mine = ownTrials(trials, ranks);
    forks = await clock.run('adapt', (call) => applyEdits(parent, mine.trials, { ...inner, ...call }));
    const tested = await clock.run('evaluate', async (call) => {
      const known = mine.trials.map(({ group }) => baseline[group]!);
      const given = { ...reward, ...call, baselines: known, earlier, earlierBaselines };
      const rewarded = await rewardForks(parent, mine.trials, forks, retention, given);
      // The parent's answers are known everywhere.
      const own = rewarded.map(({ baseline: _, ...rest }, index) => ({ ...rest, loss: forks[index]!.loss }));
      return gatherTrials(own, mine.owners, ranks, round);
    });
    const judged = written.map((item) => {
      const own = trials.flatMap((trial, index) =>
        trial.item === item ? [{ ...tested[index]!, baseline: baseline[item.group]! }] : [],
      );
      return judgeEdit(identityOf(round, item), baseline[item.group]!, own, reward);
    });
    const edits = settleRewards(judged, reward);
    const groups = written.map(({ group }) => group);
    const guard = settings.guard.begin(edits, groups, contexts, weightsOf(reward), votes);
    const { update, skipped } = await clock.run('update', async () => {
      if (guard.halts) return { update: {} };
      const context = { seed, round, temperature: settings.edit.temperature, signal, ranks, deterministic };
      const kept = learnable(edits, groups, round);
      const rollouts = toRollouts(
        kept.map((index) => written[index]!),
        kept.map((index) => edits[index]!),
      );
      return updateOrSkip(() => algorithm.update(policy, rollouts, context));
    });
    return {
      round,
      edits,
      update,
      ...(skipped === undefined ? {} : { skipped }),
      reward: rewardSummary(edits),
      ...guard.end(update),
      timings: clock.timings,
      ...(await clock.ranks(() => policy.fingerprint())),
    };
  } finally {
    await closeRound(forks, writer, parent);
  }
}

async function closeRound(forks: readonly EditedFork[], ...parents: readonly Fork[]): Promise<void> {
  for (const fork of forks) await fork.close();
  for (const parent of parents) await parent.close();
}

function identityOf(
  round: number,
  { context, sample, edit, samplerLogprobs, finish }: WrittenEdit,
): EditIdentity {
  return {
    round,
    context: context.id,
    title: context.title,
    sample,
    text: edit.text,
    documents: edit.documents,
    ...(edit.directives ? { directives: edit.directives } : {}),
    ...(edit.invalid ? { invalid: edit.invalid } : {}),
    ...(edit.detail ? { detail: edit.detail } : {}),
    tokens: samplerLogprobs.length,
    finish,
  };
}
