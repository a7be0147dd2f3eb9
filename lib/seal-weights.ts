/**
 * The outer loop with edits that are the weight change itself: the edit head writes vectors, each changes a copy of the
 * model, the copy is tested, and the head learns from the rewards (PPO) or from the loss's gradient through the edits.
 */
import { average } from './algorithm/update-steps.js';
import type { WeightAlgorithm } from './algorithm/weight-algorithm.js';
import { type WeightPpoOptions, weightPpo } from './algorithm/weight-ppo.js';
import { applyEdits, type EditedFork } from './edit/apply.js';
import type { Reading, WrittenWeightEdit } from './edit/weight.js';
import type { EditHead } from './edit-head.js';
import { makeError } from './errors.js';
import { deriveKey } from './random.js';
import { answerLoss } from './reward/answer-loss.js';
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
import { PhaseClock, type RoundListeners, wholeNumber } from './round.js';
import { type EditResult, type RoundResult, retentionTokens, type ScorePair } from './seal.js';
import type { Task, TaskContext } from './task/task.js';

export interface WeightSealOptions extends RoundListeners {
  /** The head and, through it, the policy that reads. */
  head: EditHead;
  task: Task;
  /** Rounds are numbered from 0; the loop ends before `rounds`. */
  rounds: number;
  startRound?: number;
  seed?: number | bigint;
  contextsPerRound?: number;
  /** At least 2; an even number makes mirrored pairs. */
  editsPerContext?: number;
  /** What edits are applied to and compared with: the present policy, or the base model. */
  adaptFrom?: 'policy' | 'base';
  reward?: Partial<RewardOptions>;
  /** KL that the noise is calibrated to before every round's edits are drawn; 0 leaves the noise alone. 0.02. */
  noiseKl?: number;
  /** λ of the gradient path's loss; the reward's β by default. */
  lambda?: number;
  /** PPO by default, with these options or as a ready algorithm. */
  algorithm?: Partial<WeightPpoOptions> | WeightAlgorithm;
}

type Settings = ReturnType<typeof settle>;

/**
 * Runs rounds of weight edits and yields each round's result after the head's update, in the form of `seal`'s: an edit has
 * no text and no documents, but the size of its vector. Only the head is changed. Throws as `seal`.
 */
export async function* sealWeights(options: WeightSealOptions): AsyncGenerator<RoundResult, void, void> {
  const settings = settle(options);
  const baselines = new BaselineCache();
  for (let round = options.startRound ?? 0; round < options.rounds; round++) {
    yield await playRound(round, options, settings, baselines);
  }
}

function settle(options: WeightSealOptions) {
  wholeNumber('rounds', options.rounds, 0);
  wholeNumber('startRound', options.startRound ?? 0, 0);
  const reward = rewardOptions(options.reward);
  const { noiseKl = 0.02, lambda = reward.beta, algorithm = {} } = options;
  for (const [name, value] of Object.entries({ noiseKl, lambda })) {
    if (value >= 0 && Number.isFinite(value)) continue;
    throw makeError('OPTION_INVALID', `${name} is ${value}; expected a number of at least 0`);
  }
  const textless = options.task.retention.length === 0 || reward.retentionTexts === 0;
  if (noiseKl > 0 && textless) {
    throw makeError('OPTION_INVALID', 'noiseKl is set but there are no retention texts; expected at least 1');
  }
  const ready = 'update' in algorithm ? algorithm : weightPpo(algorithm);
  if (ready.differentiates && lambda > 0 && textless) {
    throw makeError(
      'OPTION_INVALID',
      `lambda is ${lambda} but there are no retention texts; expected at least 1`,
    );
  }
  return {
    seed: options.seed ?? 0,
    contexts: wholeNumber('contextsPerRound', options.contextsPerRound ?? 5, 1),
    samples: wholeNumber('editsPerContext', options.editsPerContext ?? 4, 2),
    reward,
    noiseKl,
    lambda,
    algorithm: ready,
  };
}

async function playRound(
  round: number,
  options: WeightSealOptions,
  settings: Settings,
  baselines: BaselineCache,
): Promise<RoundResult> {
  const { head, task, signal } = options;
  const { policy } = head;
  const { seed, samples, reward, algorithm } = settings;
  const clock = new PhaseClock(round, options);
  const contexts = task.contexts(round, settings.contexts);
  const retention = retentionTokens(round, { policy, task }, settings);
  const base = options.adaptFrom === 'base';
  const parent = base ? policy.model.fork() : policy.fork();
  let readings: Reading<TaskContext>[] = [];
  let written: WrittenWeightEdit<TaskContext>[] = [];
  let forks: EditedFork[] = [];
  try {
    const baseline = await clock.run('baseline', (call) => {
      const version = base ? 'base' : `policy ${policy.version}`;
      return baselines.get(parent, version, contexts, askOptions(reward, policy.model.tokenizer, call));
    });
    // The inner loop, or the gradients, that the edits are made of.
    readings = await clock.run('adapt', (call) => head.read(contexts, { parent, seed, round, ...call }));
    const { noiseKl } = await clock.run('write', async (call) => {
      const keyed = { parent, kl: settings.noiseKl, seed: deriveKey(seed, 'noise', [round]), signal };
      const calibration = settings.noiseKl > 0 ? await head.calibrate(readings, retention, keyed) : undefined;
      written = await head.write(readings, { samples, seed, round, ...call });
      return { noiseKl: calibration?.kl ?? Number.NaN };
    });
    forks = await applyEdits(parent, written);
    const rewarded = await clock.run('evaluate', (call) => {
      const known = written.map(({ group }) => baseline[group]!);
      return rewardForks(parent, written, forks, retention, { ...reward, ...call, baselines: known });
    });
    const edits = written.map((item, index) => judge(round, item, rewarded[index]!, reward));
    const update = await clock.run('update', () => {
      const loss = {
        parent,
        retention,
        lambda: settings.lambda,
        form: reward.form,
        question: reward.question,
      };
      const objective = algorithm.differentiates ? answerLoss(head, { ...loss, signal }) : undefined;
      return algorithm.update(head, written, edits, { seed, round, objective, signal });
    });
    const rewards = edits.map((edit) => edit.reward);
    return {
      round,
      edits,
      update: { ...update, noiseKl, noise: average([...head.noise]) },
      reward: { mean: average(rewards), best: Math.max(...rewards), ...invalidOf(edits) },
      timings: clock.timings,
    };
  } finally {
    for (const fork of forks) await fork.close();
    for (const edit of written) await edit.close();
    for (const reading of readings) await reading.close();
    await parent.close();
  }
}

function judge(
  round: number,
  { context, sample, edit }: WrittenWeightEdit<TaskContext>,
  { reward, parts, answers, baseline, diverged }: ForkReward,
  options: RewardOptions,
): EditResult {
  const pairs = (side: keyof ContextAnswers) => {
    const scores: Partial<Record<MeasureName, ScorePair>> = {};
    for (const measure of new Set([options.measure, ...options.report])) {
      const edited = average(scoresOf(answers[side], measure));
      scores[measure] = { edited, unedited: average(scoresOf(baseline[side], measure)) };
    }
    return scores;
  };
  return {
    round,
    context: context.id,
    title: context.title,
    sample,
    text: '',
    documents: [],
    vectorNorm: Math.hypot(...edit.vector),
    ...(diverged ? { invalid: 'diverged' as const } : {}),
    reward,
    spread: Number.NaN,
    parts,
    scores: { paying: pairs('paying'), report: pairs('report') },
    tokens: 0,
    finish: 'stop',
    loss: { first: Number.NaN, last: Number.NaN },
  };
}

function invalidOf(edits: readonly EditResult[]): Pick<RoundResult['reward'], 'invalid' | 'invalidBy'> {
  const invalid = edits.filter((edit) => edit.invalid).length;
  return { invalid, invalidBy: invalid > 0 ? { diverged: invalid } : {} };
}
