/**
 * Proximal policy optimisation (Schulman et al. 2017) over sampled self-edits, top to bottom: first pass, rewards a
 * token, advantages, whitening, minibatches, steps. The clipped objective and its gradient are native (`Policy.step`).
 *
 * An edit of T tokens has one terminal reward. With λ < 1 the first tokens would see λ^(T−1) of it, so λ is 1; and the
 * baseline is the mean reward of the other edits of the same context, unless a value head is asked for.
 */
import { makeError } from '../errors.js';
import type { Policy } from '../policy.js';
import { deriveKey, permutation } from '../random.js';
import { score } from '../score.js';
import { generalizedAdvantages, leaveOneOut, whiten } from './advantages.js';
import type { Algorithm, Rollout, UpdateContext, UpdateStatistics } from './algorithm.js';
import { KlController } from './kl-controller.js';
import { checkPpoOptions, PPO_DEFAULTS, type PpoOptions } from './ppo-options.js';

export { PPO_DEFAULTS, type PpoOptions } from './ppo-options.js';

/** The context with its defaults filled in. */
type Settled = Required<Omit<UpdateContext, 'signal'>> & Pick<UpdateContext, 'signal'>;

/** A row of the rollout buffer. Arrays named `…A` have one entry an action, the others one a token. */
interface Row {
  readonly rollout: Rollout;
  readonly oldLogprobs: Float32Array;
  readonly referenceLogprobs: Float32Array | undefined;
  readonly values: Float32Array | undefined;
  readonly importance: Float32Array | undefined;
  advantagesA: Float64Array;
  returnsA: Float64Array | undefined;
}

/** PPO with the given options over `PPO_DEFAULTS`. Its only state is the KL coefficient. */
export function ppo(given: Partial<PpoOptions> = {}): Algorithm {
  const options = checkPpoOptions({ ...PPO_DEFAULTS, ...given });
  const controller = new KlController(options.klCoefficient, options.klTarget);
  return {
    name: 'ppo',
    state: () => ({ klCoefficient: controller.coefficient }),
    restore: (state) => {
      controller.coefficient = state.klCoefficient ?? options.klCoefficient;
    },
    update: (policy, rollouts, { seed = 0, round = 0, temperature = 1, signal } = {}) =>
      update(policy, rollouts, { seed, round, temperature, signal }, options, controller),
  };
}

async function update(
  policy: Policy,
  rollouts: readonly Rollout[],
  context: Settled,
  options: PpoOptions,
  controller: KlController,
): Promise<UpdateStatistics> {
  // The coefficient in force during this update; the controller moves on at the end.
  const klCoefficient = controller.coefficient;
  const { rows, samplerGap } = await firstPass(policy, rollouts, context, options);
  const klReference = meanOverActions(
    rows,
    (row, t) => row.oldLogprobs[t]! - (row.referenceLogprobs?.[t] ?? Number.NaN),
  );
  const advantage = setAdvantages(rows, options, klCoefficient);

  const steps: { stats: Awaited<ReturnType<Policy['step']>>; epoch: number }[] = [];
  let stopped = false;
  for (let epoch = 0; epoch < options.epochs && !stopped; epoch++) {
    for (const batch of minibatches(rows, options.minibatch, context, epoch)) {
      const stats = await policy.step({
        rows: batch.map(toPolicyRow),
        temperature: context.temperature,
        clipLow: options.clipLow,
        clipHigh: options.clipHigh,
        klCoefficient: options.klIn === 'loss' ? klCoefficient : 0,
        entropyCoefficient: options.entropyCoefficient,
        valueCoefficient: options.valueCoefficient,
        valueClip: options.valueClip,
        normalizer: options.normalizer ?? options.minibatch * options.maxTokens,
        learningRate: options.learningRate,
        valueLearningRate: options.valueLearningRate,
        weightDecay: options.weightDecay,
        maxGradNorm: options.maxGradNorm,
        signal: context.signal,
      });
      steps.push({ stats, epoch });
      if (stats.klOld3 > options.klStop) {
        stopped = true;
        break;
      }
    }
  }
  controller.observe(klReference);

  const tokens = steps.reduce((sum, { stats }) => sum + stats.tokens, 0);
  type Figure = keyof (typeof steps)[number]['stats'];
  const mean = (name: Figure) =>
    steps.reduce((sum, { stats }) => sum + stats[name] * stats.tokens, 0) / tokens;
  const largest = (name: Figure) => steps.reduce((most, { stats }) => Math.max(most, stats[name]), 0);
  return {
    steps: steps.length,
    epochs: new Set(steps.map(({ epoch }) => epoch)).size,
    stoppedEarly: stopped,
    tokens: rows.reduce((sum, { rollout }) => sum + actions(rollout), 0),
    rewardMean: average(rollouts.map(({ reward }) => reward)),
    rewardDeviation: deviation(rollouts.map(({ reward }) => reward)),
    advantageMean: advantage.mean,
    advantageDeviation: advantage.deviation,
    loss: mean('loss'),
    policyLoss: mean('policyLoss'),
    klLoss: mean('klLoss'),
    valueLoss: mean('valueLoss'),
    entropy: mean('entropy'),
    klCoefficient,
    klReference,
    klReference1: mean('klReference1'),
    klReference3: mean('klReference3'),
    klOld1: mean('klOld1'),
    klOld3: mean('klOld3'),
    klOldLargest: largest('klOld3'),
    clipFraction: mean('clipFraction'),
    // Of the first step, before the value head has seen these returns.
    explainedVariance: steps[0]?.stats.explainedVariance ?? Number.NaN,
    gradNorm: mean('gradNorm'),
    gradNormLargest: largest('gradNorm'),
    samplerGap,
    importanceWeighted: rows.some((row) => row.importance !== undefined),
    // Of the very first step: old log-probs and the step's own must be the same numbers.
    trainerGap: steps[0]?.stats.maxLogprobGap ?? Number.NaN,
  };
}

/**
 * The trainer's own detached pass over the rollouts: old log-probs, those of the frozen base, values. The sampler's
 * log-probs come from other kernels (and perhaps another precision), so they are not the old ones; where they are off
 * by `importanceGap` or more, each token is weighted by min(exp(old − sampler), cap).
 */
async function firstPass(
  policy: Policy,
  rollouts: readonly Rollout[],
  context: Settled,
  options: PpoOptions,
): Promise<{ rows: Row[]; samplerGap: number }> {
  const acting = rollouts.filter((rollout) => actions(rollout) > 0);
  if (acting.length === 0) {
    throw makeError(
      'INPUT_INVALID',
      `none of ${rollouts.length} edits has a token; expected at least one action`,
    );
  }
  const scoring = { temperature: context.temperature, signal: context.signal };
  const fork = policy.fork();
  const old = await score(
    acting.map(({ tokens }) => ({ fork, tokens })),
    scoring,
  ).finally(() => fork.close());
  const reference =
    options.klCoefficient === 0
      ? undefined
      : await score(
          acting.map(({ tokens }) => ({ fork: policy.model, tokens })),
          scoring,
        );
  const values =
    options.baseline === 'value' ? await policy.values(acting.map(({ tokens }) => tokens)) : undefined;

  let samplerGap = 0;
  acting.forEach((rollout, index) => {
    for (let a = 0; a < actions(rollout); a++) {
      const gap = Math.abs(old[index]![rollout.promptLength + a]! - rollout.samplerLogprobs[a]!);
      if (!(gap <= samplerGap)) samplerGap = gap;
    }
  });
  if (!Number.isFinite(samplerGap)) {
    throw makeError(
      'LOSS_NOT_FINITE',
      "the policy's log-probs of its own edits are not finite; the update was not made",
    );
  }
  const weighted = samplerGap >= options.importanceGap;
  const rows = acting.map((rollout, index): Row => {
    const oldLogprobs = old[index]!;
    return {
      rollout,
      oldLogprobs,
      referenceLogprobs: reference?.[index],
      values: values?.[index],
      importance: weighted ? importanceWeights(rollout, oldLogprobs, options.importanceCap) : undefined,
      advantagesA: new Float64Array(actions(rollout)),
      returnsA: undefined,
    };
  });
  return { rows, samplerGap };
}

/** Fills the advantages (and returns) of all rows; the mean and deviation are those before whitening. */
function setAdvantages(rows: Row[], options: PpoOptions, klCoefficient: number) {
  const klWeight = options.klIn === 'reward' ? klCoefficient : 0;
  // r_t = −β (log p_old − log p_ref)_t, and the reward of the edit on its last action.
  const rewards = rows.map((row) => {
    const { rollout } = row;
    const perAction = new Float64Array(actions(rollout));
    for (let a = 0; a < perAction.length && klWeight !== 0; a++) {
      const t = rollout.promptLength + a;
      perAction[a] = -klWeight * (row.oldLogprobs[t]! - row.referenceLogprobs![t]!);
    }
    perAction[perAction.length - 1]! += rollout.reward;
    return perAction;
  });
  if (options.baseline === 'group') {
    const totals = rewards.map((perAction) => perAction.reduce((sum, reward) => sum + reward, 0));
    const advantages = leaveOneOut(
      totals,
      rows.map(({ rollout }) => rollout.group),
    );
    rows.forEach((row, index) => {
      row.advantagesA.fill(advantages[index]!);
    });
  } else {
    rows.forEach((row, index) => {
      const valuesA = Float64Array.from(row.values!.subarray(row.rollout.promptLength));
      const estimate = generalizedAdvantages(rewards[index]!, valuesA, options.discount, options.lambda);
      row.advantagesA = estimate.advantages;
      row.returnsA = estimate.returns;
    });
  }
  const advantages = rows.map(({ advantagesA }) => advantagesA);
  if (options.whiten) return whiten(advantages);
  const flat = advantages.map((sequence) => average([...sequence]));
  return { mean: average(flat), deviation: deviation(flat) };
}

/** Rows in keyed order, in ⌈n / size⌉ minibatches whose sizes differ by at most one. */
function minibatches(rows: readonly Row[], size: number, context: Settled, epoch: number): Row[][] {
  const order = permutation(deriveKey(context.seed, 'minibatch', [context.round, epoch]), rows.length);
  const count = Math.ceil(rows.length / size);
  return Array.from({ length: count }, (_, batch) => {
    const from = Math.floor((batch * rows.length) / count);
    const to = Math.floor(((batch + 1) * rows.length) / count);
    return Array.from(order.subarray(from, to), (index) => rows[index]!);
  });
}

function toPolicyRow(row: Row) {
  const { rollout, oldLogprobs, referenceLogprobs, importance, values } = row;
  const perToken = (perAction: Float64Array) => {
    const full = new Float32Array(rollout.tokens.length);
    full.set(perAction, rollout.promptLength);
    return full;
  };
  return {
    tokens: rollout.tokens,
    promptLength: rollout.promptLength,
    oldLogprobs,
    advantages: perToken(row.advantagesA),
    ...(referenceLogprobs ? { referenceLogprobs } : {}),
    ...(importance ? { importance } : {}),
    ...(row.returnsA && values ? { returns: perToken(row.returnsA), oldValues: values } : {}),
  };
}

function importanceWeights(rollout: Rollout, oldLogprobs: Float32Array, cap: number): Float32Array {
  const weights = new Float32Array(rollout.tokens.length).fill(1);
  for (let a = 0; a < actions(rollout); a++) {
    const t = rollout.promptLength + a;
    weights[t] = Math.min(Math.exp(oldLogprobs[t]! - rollout.samplerLogprobs[a]!), cap);
  }
  return weights;
}

function actions(rollout: Rollout): number {
  return rollout.tokens.length - rollout.promptLength;
}

function meanOverActions(rows: readonly Row[], of: (row: Row, token: number) => number): number {
  let sum = 0;
  let count = 0;
  for (const row of rows) {
    for (let t = row.rollout.promptLength; t < row.rollout.tokens.length; t++) sum += of(row, t);
    count += actions(row.rollout);
  }
  return sum / count;
}

function average(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

function deviation(values: readonly number[]): number {
  const mean = average(values);
  return Math.sqrt(average(values.map((value) => (value - mean) ** 2)));
}
