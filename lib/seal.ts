/**
 * The outer loop of SEAL: the policy writes edits, each edit changes a copy of the model, the copy is tested, and the
 * test is the reward that trains the policy to write better edits.
 */
import type { Algorithm, UpdateStatistics } from './algorithm/algorithm.js';
import { type AlgorithmName, algorithmNamed } from './algorithm/named.js';
import type { PpoOptions } from './algorithm/ppo.js';
import { average } from './algorithm/update-steps.js';
import { applyEdits, type EditedFork, type InnerOptions } from './edit/apply.js';
import type { Directives } from './edit/directives.js';
import type { TrainingDocument } from './edit/documents.js';
import { countInvalid, type InvalidCounts, type InvalidReason } from './edit/edit.js';
import {
  checkWriteOptions,
  toRollouts,
  WRITE_DEFAULTS,
  type WriteOptions,
  type WrittenEdit,
  writeEdits,
} from './edit/write.js';
import { makeError } from './errors.js';
import type { Fork } from './fork.js';
import type { Policy } from './policy.js';
import { deriveKey, permutation } from './random.js';
import {
  askOptions,
  BaselineCache,
  type ContextAnswers,
  type ForkReward,
  type RewardOptions,
  rewardForks,
  rewardOptions,
  scoresOf,
} from './reward/evaluate.js';
import type { MeasureName } from './reward/measure.js';
import { floorReward, meanReward, type RewardParts } from './reward/shape.js';
import { type Phase, PhaseClock, type RoundListeners, wholeNumber } from './round.js';
import { sealWeights, type WeightSealOptions } from './seal-weights.js';
import type { Task } from './task/task.js';

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
  /** PPO by default: a name, options of PPO, or a ready algorithm such as `grpo({ … })`. */
  algorithm?: AlgorithmName | Partial<PpoOptions> | Algorithm;
}

/** Mean scores of the edited and the unedited model by one measure. */
export interface ScorePair {
  readonly edited: number;
  readonly unedited: number;
}

/** One edit and what became of it. */
export interface EditResult {
  readonly round: number;
  /** Id and title of the context, and the index of the edit within it. */
  readonly context: string;
  readonly title: string;
  readonly sample: number;
  readonly text: string;
  readonly documents: readonly TrainingDocument[];
  /** Length of a weight edit's vector. */
  readonly vectorNorm?: number;
  /** How the edit wanted to be trained, where it said so. */
  readonly directives?: Directives;
  readonly invalid?: InvalidReason;
  /** What was wrong with it, in words. */
  readonly detail?: string;
  readonly reward: number;
  /** Standard deviation of the reward over repeated inner trainings; NaN for one. */
  readonly spread: number;
  readonly parts: RewardParts;
  /** Mean score by measure, on the questions that pay and on those that only report. */
  readonly scores: {
    readonly paying: Readonly<Partial<Record<MeasureName, ScorePair>>>;
    readonly report: Readonly<Partial<Record<MeasureName, ScorePair>>>;
  };
  /** Tokens written, and why writing ended. */
  readonly tokens: number;
  readonly finish: 'length' | 'stop' | 'context';
  /** Loss of the first and the last step of the inner training; NaN without one. */
  readonly loss: { readonly first: number; readonly last: number };
}

export interface RoundResult {
  readonly round: number;
  readonly edits: readonly EditResult[];
  readonly update: UpdateStatistics;
  readonly reward: {
    readonly mean: number;
    readonly best: number;
    readonly invalid: number;
    readonly invalidBy: InvalidCounts;
  };
  /** Seconds by phase. */
  readonly timings: Readonly<Record<Phase, number>>;
}

type Settings = ReturnType<typeof settle>;

/**
 * Runs rounds of SEAL, one at a time, and yields each round's result after its policy update. Round r is a pure
 * function of (policy and algorithm state before it, options, r): nothing is drawn from the clock. The policy is
 * changed in place; forks and deltas of a round are closed before it is yielded. With a `head` the edits are weight
 * changes and the head is what learns (`sealWeights`).
 *
 * Throws `OPTION_INVALID` for settings out of range and `ABORTED` when `signal` fires.
 */
export async function* seal(
  options: SealOptions | WeightSealOptions,
): AsyncGenerator<RoundResult, void, void> {
  if ('head' in options) {
    yield* sealWeights(options);
    return;
  }
  const settings = settle(options);
  const baselines = new BaselineCache();
  for (let round = options.startRound ?? 0; round < options.rounds; round++) {
    yield await playRound(round, options, settings, baselines);
  }
}

function settle(options: SealOptions) {
  const edit = { ...WRITE_DEFAULTS, ...options.edit };
  const { model } = options.policy;
  checkWriteOptions(edit, { model, augmentations: options.task.augmentations }, options.adapt);
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
    reward: rewardOptions(options.reward),
    algorithm: algorithmOf(options.algorithm ?? 'ppo', edit.maxTokens),
  };
}

function algorithmOf(given: NonNullable<SealOptions['algorithm']>, maxTokens: number): Algorithm {
  if (typeof given === 'string') return algorithmNamed(given, { maxTokens });
  return 'update' in given ? given : algorithmNamed('ppo', { maxTokens, ...given });
}

async function playRound(
  round: number,
  options: SealOptions,
  settings: Settings,
  baselines: BaselineCache,
): Promise<RoundResult> {
  const { policy, task, signal } = options;
  const clock = new PhaseClock(round, options);
  const { seed, samples, repeats, algorithm, reward } = settings;
  const contexts = task.contexts(round, settings.contexts);
  const retention = retentionTokens(round, options, settings);
  const base = options.adaptFrom === 'base';
  const writer = policy.fork();
  const parent = base ? policy.model.fork() : policy.fork();
  let forks: EditedFork[] = [];
  try {
    const written = await clock.run('write', (call) =>
      writeEdits(writer, contexts, {
        ...settings.edit,
        ...call,
        samples,
        seed,
        round,
        augmentations: task.augmentations,
      }),
    );
    const baseline = await clock.run('baseline', (call) => {
      const version = base ? 'base' : `policy ${policy.version}`;
      return baselines.get(parent, version, contexts, askOptions(reward, policy.model.tokenizer, call));
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
    forks = await clock.run('adapt', (call) => applyEdits(parent, trials, { ...options.adapt, ...call }));
    const rewarded = await clock.run('evaluate', (call) => {
      const known = trials.map(({ group }) => baseline[group]!);
      return rewardForks(parent, trials, forks, retention, { ...reward, ...call, baselines: known });
    });
    const edits = written.map((item) => {
      const own = trials.flatMap((trial, index) =>
        trial.item === item ? [{ ...rewarded[index]!, loss: forks[index]!.loss }] : [],
      );
      return judge(round, item, baseline[item.group]!, own, reward);
    });
    const rewards = edits.map((edit) => edit.reward);
    const update = await clock.run('update', () => {
      const context = { seed, round, temperature: settings.edit.temperature, signal };
      return algorithm.update(policy, toRollouts(written, edits), context);
    });
    return {
      round,
      edits,
      update,
      reward: {
        mean: average(rewards),
        best: Math.max(...rewards),
        invalid: edits.filter(({ invalid }) => invalid).length,
        invalidBy: countInvalid(edits),
      },
      timings: clock.timings,
    };
  } finally {
    await closeRound(forks, writer, parent);
  }
}

async function closeRound(forks: readonly EditedFork[], ...parents: readonly Fork[]): Promise<void> {
  for (const fork of forks) await fork.close();
  for (const parent of parents) await parent.close();
}

/** @internal The retention texts of a round, as tokens: a keyed choice, the same for all its edits. */
export function retentionTokens(
  round: number,
  options: Pick<SealOptions, 'policy' | 'task'>,
  settings: Pick<Settings, 'reward' | 'seed'>,
): Int32Array[] {
  const { tokenizer, config } = options.policy.model;
  const { retention } = options.task;
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

type Trial = ForkReward & { readonly loss: Float32Array };

/** What became of one edit, from all its trials; none when it was invalid. */
function judge(
  round: number,
  item: WrittenEdit,
  baseline: ContextAnswers,
  trials: readonly Trial[],
  options: RewardOptions,
): EditResult {
  const diverged = trials.length > 0 && trials.every(({ parts }) => !Number.isFinite(parts.gain));
  const outcome =
    trials.length > 0
      ? meanReward(trials)
      : { ...floorReward(scoresOf(baseline.paying, options.measure), options), spread: Number.NaN };
  const invalid = item.edit.invalid ?? (diverged ? 'diverged' : undefined);
  const loss = trials[0]?.loss;
  const pairs = (side: 'paying' | 'report') => {
    const scores: Partial<Record<MeasureName, ScorePair>> = {};
    for (const measure of new Set([options.measure, ...options.report])) {
      const edited = trials.flatMap(({ answers }) => scoresOf(answers[side], measure));
      scores[measure] = { edited: average(edited), unedited: average(scoresOf(baseline[side], measure)) };
    }
    return scores;
  };
  return {
    round,
    context: item.context.id,
    title: item.context.title,
    sample: item.sample,
    text: item.edit.text,
    documents: item.edit.documents,
    ...(item.edit.directives ? { directives: item.edit.directives } : {}),
    ...(invalid ? { invalid } : {}),
    ...(item.edit.detail ? { detail: item.edit.detail } : {}),
    reward: outcome.reward,
    spread: outcome.spread,
    parts: outcome.parts,
    scores: { paying: pairs('paying'), report: pairs('report') },
    tokens: item.samplerLogprobs.length,
    finish: item.finish,
    loss: { first: loss?.[0] ?? Number.NaN, last: loss?.[loss.length - 1] ?? Number.NaN },
  };
}
