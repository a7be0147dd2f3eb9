/**
 * The outer loop with edits that are the weight change itself: the edit head writes vectors, each changes a copy of the
 * model, the copy is tested, and the head learns from the rewards (PPO) or from the loss's gradient through the edits.
 */
import { createHash } from 'node:crypto';
import type { WeightAlgorithm } from './algorithm/weight-algorithm.js';
import { type WeightPpoOptions, weightPpo } from './algorithm/weight-ppo.js';
import { average } from './average.js';
import { applyEdits, type EditedFork } from './edit/apply.js';
import type { Reading, WrittenWeightEdit } from './edit/weight.js';
import type { EditHead } from './edit-head.js';
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
import type { GuardFigures, GuardOptions } from './guard/guards.js';
import { RoundGuard } from './guard/round-guard.js';
import { deriveKey } from './random.js';
import { blocks } from './ranks/shares.js';
import { gatherTrials } from './ranks/trials.js';
import { answerLoss } from './reward/answer-loss.js';
import { BaselineCache } from './reward/baseline.js';
import { rewardForks } from './reward/evaluate.js';
import type { AskOptions } from './reward/measure.js';
import { askOptions, payingOnly, type RewardOptions, rewardUnder, weightsOf } from './reward/options.js';
import { PhaseClock, type RoundListeners, wholeNumber } from './round.js';
import { type LabelSettings, retentionTokens, roundContexts } from './round-contexts.js';
import { hooksOf, type Task, type TaskContext } from './task/task.js';

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
  /** Majority votes of the parent's own samples as answers (SRT, arXiv 2505.21444); those of the task by default. */
  labels?: LabelSettings;
  /** Guards against reward hacking, those that need no text; on by default. */
  guards?: Partial<GuardOptions>;
  /** Figures of the guards in the rounds before `startRound`, when a run is resumed. */
  guardHistory?: readonly GuardFigures[];
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
  for (let round = options.startRound ?? 0; round < options.rounds; round++) {
    const result = await playRound(round, options, settings);
    yield result;
    if (result.halted) return;
  }
}

function settle(options: WeightSealOptions) {
  wholeNumber('rounds', options.rounds, 0);
  wholeNumber('startRound', options.startRound ?? 0, 0);
  const reward = rewardUnder(hooksOf(options.task), options.reward);
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
    /** λ of the loss, which weighs a KL. */
    lambda,
    guard: new RoundGuard(options.guards, options.guardHistory),
    baselines: new BaselineCache(),
    earlierBaselines: new BaselineCache(),
    algorithm: ready,
  };
}

async function playRound(
  round: number,
  options: WeightSealOptions,
  settings: Settings,
): Promise<RoundResult> {
  const { head, task, signal, ranks } = options;
  const { policy } = head;
  const { seed, samples, reward, algorithm } = settings;
  const clock = new PhaseClock(round, options);
  const retention = retentionTokens(round, { policy, task }, settings);
  const base = options.adaptFrom === 'base';
  const parent = base ? policy.model.fork() : policy.fork();
  let readings: Reading<TaskContext>[] = [];
  let written: WrittenWeightEdit<TaskContext>[] = [];
  let forks: EditedFork[] = [];
  try {
    const { contexts, earlier, votes, baseline, earlierBaselines } = await clock.run(
      'baseline',
      async (call) => {
        const about = await roundContexts(parent, task, round, options.labels, { ...settings, signal });
        const version = base ? 'base' : `policy ${policy.version}`;
        const asking = askOptions(reward, policy.model.tokenizer, call);
        const of = (cache: BaselineCache, some: readonly TaskContext[], how: AskOptions) =>
          cache.get(parent, version, some, how, reward.examine, {
            ranks,
            phase: `baselines of round ${round}`,
          });
        return {
          ...about,
          baseline: await of(settings.baselines, about.contexts, asking),
          earlierBaselines: await of(settings.earlierBaselines, about.earlier, payingOnly(asking, reward)),
        };
      },
    );
    // The inner loop, or the gradients, that the edits are made of.
    readings = await clock.run('adapt', (call) => head.read(contexts, { parent, seed, round, ...call }));
    const { noiseKl } = await clock.run('write', async (call) => {
      const keyed = { parent, kl: settings.noiseKl, seed: deriveKey(seed, 'noise', [round]), signal };
      const calibration = settings.noiseKl > 0 ? await head.calibrate(readings, retention, keyed) : undefined;
      written = await head.write(readings, { samples, seed, round, ...call });
      return { noiseKl: calibration?.kl ?? Number.NaN };
    });
    // Reading and writing are the same everywhere; testing, which costs most, is shared.
    const owners = blocks(written.length, ranks?.world ?? 1);
    const mine = written.filter((_, index) => owners[index] === (ranks?.rank ?? 0));
    forks = await applyEdits(parent, mine);
    const rewarded = await clock.run('evaluate', async (call) => {
      const baselines = mine.map(({ group }) => baseline[group]!);
      const given = { ...reward, ...call, baselines, earlier, earlierBaselines };
      const own = await rewardForks(parent, mine, forks, retention, given);
      return gatherTrials(
        own.map(({ baseline: _, ...rest }) => rest),
        owners,
        ranks,
        round,
      );
    });
    const judged = written.map((item, index) => {
      const before = baseline[item.group]!;
      return judgeEdit(identityOf(round, item), before, [{ ...rewarded[index]!, baseline: before }], reward);
    });
    const edits = settleRewards(judged, reward);
    const groups = written.map(({ group }) => group);
    const guard = settings.guard.begin(edits, groups, contexts, weightsOf(reward), votes);
    const { update, skipped } = await clock.run('update', async () => {
      if (guard.halts) return { update: {} };
      const { lambda } = settings;
      const loss = { parent, retention, lambda, form: reward.form, question: reward.question };
      const objective = algorithm.differentiates ? answerLoss(head, { ...loss, signal }) : undefined;
      // The gradient of a loss needs no reward.
      const kept = algorithm.differentiates ? [...edits.keys()] : learnable(edits, groups, round);
      const some = kept.map((index) => written[index]!);
      const earned = kept.map((index) => edits[index]!);
      return updateOrSkip(() => algorithm.update(head, some, earned, { seed, round, objective, signal }));
    });
    return {
      round,
      edits,
      update: { ...update, noiseKl, noise: average([...head.noise]) },
      ...(skipped === undefined ? {} : { skipped }),
      reward: rewardSummary(edits),
      ...guard.end(update),
      timings: clock.timings,
      ...(await clock.ranks(async () => fingerprintOf(head.parameters()))),
    };
  } finally {
    for (const fork of forks) await fork.close();
    for (const edit of written) await edit.close();
    for (const reading of readings) await reading.close();
    await parent.close();
  }
}

function fingerprintOf(values: Float32Array): string {
  return createHash('sha256').update(values).digest('hex');
}

function identityOf(round: number, { context, sample, edit }: WrittenWeightEdit<TaskContext>): EditIdentity {
  return {
    round,
    context: context.id,
    title: context.title,
    sample,
    text: '',
    documents: [],
    vectorNorm: Math.hypot(...edit.vector),
    tokens: 0,
    finish: 'stop',
  };
}
