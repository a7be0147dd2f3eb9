/**
 * The outer loop of SEAL: the policy writes edits, each edit changes a copy of the model, the copy is tested, and the
 * test is the reward that trains the policy to write better edits.
 */
import type { Algorithm, UpdateStatistics } from './algorithm/algorithm.js';
import { type PpoOptions, ppo } from './algorithm/ppo.js';
import { applyEdits, type EditedFork, type InnerOptions } from './edit/apply.js';
import type { InvalidReason } from './edit/edit.js';
import { WRITE_DEFAULTS, type WriteOptions, type WrittenEdit, writeEdits } from './edit/write.js';
import { makeError } from './errors.js';
import type { Fork } from './fork.js';
import type { Policy } from './policy.js';
import { deriveKey, permutation } from './random.js';
import {
  askForks,
  askOptions,
  BaselineCache,
  type ContextAnswers,
  meanDivergence,
  type RewardOptions,
  rewardOptions,
} from './reward/evaluate.js';
import type { Answered, MeasureName } from './reward/measure.js';
import { floorReward, meanReward, type RewardParts, type ShapedReward, shapeReward } from './reward/shape.js';
import type { Task, TaskContext } from './task/task.js';

/** The parts of a round, in order. */
export type Phase = 'write' | 'baseline' | 'adapt' | 'evaluate' | 'divergence' | 'update';

export interface SealOptions {
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
  /** PPO by default, with these options or as a ready algorithm. */
  algorithm?: Partial<PpoOptions> | Algorithm;
  signal?: AbortSignal;
  /** Called when a phase of a round begins. */
  onPhase?: (round: number, phase: Phase) => void;
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
  readonly documents: readonly string[];
  readonly invalid?: InvalidReason;
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
  readonly reward: { readonly mean: number; readonly best: number; readonly invalid: number };
  /** Seconds by phase. */
  readonly timings: Readonly<Record<Phase, number>>;
}

type Settings = ReturnType<typeof settle>;

/**
 * Runs rounds of SEAL, one at a time, and yields each round's result after its policy update. Round r is a pure
 * function of (policy and algorithm state before it, options, r): nothing is drawn from the clock. The policy is
 * changed in place; forks and deltas of a round are closed before it is yielded.
 *
 * Throws `OPTION_INVALID` for settings out of range and `ABORTED` when `signal` fires.
 */
export async function* seal(options: SealOptions): AsyncGenerator<RoundResult, void, void> {
  const settings = settle(options);
  const baselines = new BaselineCache();
  for (let round = options.startRound ?? 0; round < options.rounds; round++) {
    yield await playRound(round, options, settings, baselines);
  }
}

function settle(options: SealOptions) {
  const whole = (name: string, value: number, least: number) => {
    if (Number.isInteger(value) && value >= least) return value;
    throw makeError('OPTION_INVALID', `${name} is ${value}; expected a whole number of at least ${least}`);
  };
  const edit = { ...WRITE_DEFAULTS, ...options.edit };
  whole('rounds', options.rounds, 0);
  whole('startRound', options.startRound ?? 0, 0);
  if (!(edit.temperature > 0)) {
    throw makeError('OPTION_INVALID', `edit.temperature is ${edit.temperature}; expected a positive number`);
  }
  const algorithm = options.algorithm ?? {};
  return {
    seed: options.seed ?? 0,
    contexts: whole('contextsPerRound', options.contextsPerRound ?? 5, 1),
    samples: whole('editsPerContext', options.editsPerContext ?? 5, 2),
    repeats: whole('repeats', options.repeats ?? 1, 1),
    edit: { ...edit, maxTokens: whole('edit.maxTokens', edit.maxTokens, 1) },
    reward: rewardOptions(options.reward),
    algorithm: isAlgorithm(algorithm) ? algorithm : ppo({ maxTokens: edit.maxTokens, ...algorithm }),
  };
}

function isAlgorithm(algorithm: Partial<PpoOptions> | Algorithm): algorithm is Algorithm {
  return 'update' in algorithm;
}

async function playRound(
  round: number,
  options: SealOptions,
  settings: Settings,
  baselines: BaselineCache,
): Promise<RoundResult> {
  const { policy, task, signal } = options;
  const { tokenizer } = policy.model;
  const timings: Record<Phase, number> = {
    write: 0,
    baseline: 0,
    adapt: 0,
    evaluate: 0,
    divergence: 0,
    update: 0,
  };
  const timed = async <T>(phase: Phase, work: () => Promise<T>): Promise<T> => {
    options.onPhase?.(round, phase);
    const start = performance.now();
    const result = await work();
    timings[phase] += (performance.now() - start) / 1000;
    return result;
  };
  const contexts = task.contexts(round, settings.contexts);
  const asking = askOptions(settings.reward, tokenizer, signal);
  const base = options.adaptFrom === 'base';
  const version = base ? 'base' : `policy ${policy.version}`;
  const writer = policy.fork();
  const parent = base ? policy.model.fork() : policy.fork();
  let forks: EditedFork[] = [];
  try {
    const draw = { seed: settings.seed, round, signal };
    const written = await timed('write', () =>
      writeEdits({ fork: writer, tokenizer }, contexts, settings.samples, settings.edit, draw),
    );
    const baseline = await timed('baseline', () => baselines.get(parent, version, contexts, asking));
    // Every edit is trained `repeats` times. The key leaves out the edit: edits of one context start from the same
    // values, so that luck with them cancels where their rewards are compared.
    const trials = written.flatMap((item) =>
      item.edit.invalid
        ? []
        : Array.from({ length: settings.repeats }, (_, repeat) => ({
            item,
            documents: item.edit.documents,
            seed: deriveKey(settings.seed, 'adapt', [round, item.group, repeat]),
          })),
    );
    forks = await timed('adapt', () => applyEdits(parent, tokenizer, trials, options.adapt, signal));
    const answers = await timed('evaluate', () =>
      askForks(
        forks.map(({ fork }, index) => ({ fork, context: contexts[trials[index]!.item.group]! })),
        asking,
      ),
    );
    const kl = await timed('divergence', () =>
      meanDivergence(
        forks.map(({ fork }) => fork),
        parent,
        retentionTokens(round, options, settings),
        signal,
      ),
    );
    const outcomes = new Map<WrittenEdit, Trial[]>();
    trials.forEach(({ item }, index) => {
      const trial = { fork: forks[index]!, answers: answers[index]!, kl: kl[index]! };
      outcomes.set(item, [...(outcomes.get(item) ?? []), trial]);
    });
    const edits = written.map((item) =>
      judge(
        round,
        item,
        contexts[item.group]!,
        baseline[item.group]!,
        outcomes.get(item) ?? [],
        settings.reward,
      ),
    );
    const update = await timed('update', () =>
      settings.algorithm.update(
        policy,
        written.map(({ group, tokens, promptLength, logprobs }, index) => ({
          group,
          tokens,
          promptLength,
          samplerLogprobs: logprobs,
          reward: edits[index]!.reward,
        })),
        { ...draw, temperature: settings.edit.temperature, signal },
      ),
    );
    const rewards = edits.map(({ reward }) => reward);
    return {
      round,
      edits,
      update,
      reward: {
        mean: rewards.reduce((sum, value) => sum + value, 0) / rewards.length,
        best: Math.max(...rewards),
        invalid: edits.filter(({ invalid }) => invalid).length,
      },
      timings,
    };
  } finally {
    await closeRound(forks, writer, parent);
  }
}

async function closeRound(forks: readonly EditedFork[], ...parents: readonly Fork[]): Promise<void> {
  for (const fork of forks) await fork.close();
  for (const parent of parents) await parent.close();
}

/** The retention texts of a round, as tokens: a keyed choice, the same for all its edits. */
function retentionTokens(round: number, options: SealOptions, settings: Settings): Int32Array[] {
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

interface Trial {
  readonly fork: EditedFork;
  readonly answers: ContextAnswers;
  readonly kl: number;
}

/** What became of one edit, from all its trials; none when it was invalid. */
function judge(
  round: number,
  item: WrittenEdit,
  context: TaskContext,
  baseline: ContextAnswers,
  trials: readonly Trial[],
  options: RewardOptions,
): EditResult {
  const unedited = scoresOf(baseline.paying, options.measure);
  const shaped = trials.map(({ answers, kl }) =>
    shapeReward({ edited: scoresOf(answers.paying, options.measure), unedited, kl }, options),
  );
  const diverged = shaped.length > 0 && shaped.every(({ parts }) => !Number.isFinite(parts.gain));
  const outcome: ShapedReward & { spread: number } =
    shaped.length > 0 ? meanReward(shaped) : { ...floorReward(unedited, options), spread: Number.NaN };
  const invalid = item.edit.invalid ?? (diverged ? 'diverged' : undefined);
  const loss = trials[0]?.fork.loss;
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
    context: context.id,
    title: context.title,
    sample: item.sample,
    text: item.edit.text,
    documents: item.edit.documents,
    ...(invalid ? { invalid } : {}),
    reward: outcome.reward,
    spread: outcome.spread,
    parts: outcome.parts,
    scores: { paying: pairs('paying'), report: pairs('report') },
    tokens: item.logprobs.length,
    finish: item.finish,
    loss: { first: loss?.[0] ?? Number.NaN, last: loss?.[loss.length - 1] ?? Number.NaN },
  };
}

function scoresOf(answers: readonly Answered[], measure: MeasureName): number[] {
  return answers.map(({ scores }) => scores[measure] ?? Number.NaN);
}

function average(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
