/** The optimizer steps of an update, and the figures that every algorithm reports about them. */
import { average } from '../average.js';
import type { PolicyStepStats } from '../binding.js';
import { isOverflow } from '../errors.js';
import type { Policy, PolicyStepOptions } from '../policy.js';
import { stepTogether } from '../ranks/policy-step.js';
import type { Rollout, SettledContext, UpdateStatistics } from './algorithm.js';
import { actions, type FirstPass, minibatches, type RolloutRow, toPolicyRow } from './rollout-rows.js';
import type { UpdateOptions } from './update-options.js';

export interface StepsTaken {
  readonly steps: readonly { readonly stats: PolicyStepStats; readonly epoch: number }[];
  /** Steps whose loss or gradient was not finite: they changed nothing. */
  readonly skipped: number;
  /** The policy had moved further than `klStop`. */
  readonly stoppedEarly: boolean;
}

/** What a step gives; undefined where its loss or gradient is not finite, and nothing was changed. */
export async function unlessOverflow<T>(step: Promise<T>): Promise<T | undefined> {
  try {
    return await step;
  } catch (error) {
    if (isOverflow(error)) return undefined;
    throw error;
  }
}

/**
 * Epochs of minibatches, one optimizer step each, until the policy has moved too far: a step's statistics are those
 * before it, so the step that first sees k3 of KL(old ‖ new) beyond `klStop` is the last. A step whose loss or gradient
 * is not finite is skipped. `objective` gives the scalars of a step.
 */
export async function takeSteps(
  policy: Policy,
  rows: readonly RolloutRow[],
  options: UpdateOptions,
  context: SettledContext,
  objective: (batch: readonly RolloutRow[]) => Partial<PolicyStepOptions>,
): Promise<StepsTaken> {
  const steps: { stats: PolicyStepStats; epoch: number }[] = [];
  let skipped = 0;
  for (let epoch = 0; epoch < options.epochs; epoch++) {
    for (const batch of minibatches(rows, options.minibatch, context, epoch)) {
      const numbers = {
        temperature: context.temperature,
        entropyCoefficient: options.entropyCoefficient,
        learningRate: options.learningRate,
        weightDecay: options.weightDecay,
        maxGradNorm: options.maxGradNorm,
        ...objective(batch),
      };
      const grouped = batch.map((row) => ({ group: row.rollout.group, row: toPolicyRow(row) }));
      const phase = `step ${steps.length + skipped} of round ${context.round}`;
      const stats = await unlessOverflow(stepTogether(policy, grouped, numbers, { ...context, phase }));
      if (stats === undefined) {
        skipped++;
        continue;
      }
      steps.push({ stats, epoch });
      if (stats.klOld3 > (options.klStop ?? Number.POSITIVE_INFINITY))
        return { steps, skipped, stoppedEarly: true };
    }
  }
  return { steps, skipped, stoppedEarly: false };
}

/** What an update reports; means over steps are weighted by tokens, NaN where a figure does not apply. */
export function updateStatistics(about: {
  readonly rollouts: readonly Rollout[];
  readonly pass: FirstPass;
  readonly taken: StepsTaken;
  readonly klCoefficient: number;
  /** Of the advantages, before whitening. */
  readonly advantage?: { readonly mean: number; readonly deviation: number };
}): UpdateStatistics {
  const { rollouts, pass, klCoefficient, advantage } = about;
  const { steps, skipped, stoppedEarly } = about.taken;
  const tokens = steps.reduce((sum, { stats }) => sum + stats.tokens, 0);
  const mean = (name: keyof PolicyStepStats) =>
    steps.reduce((sum, { stats }) => sum + stats[name] * stats.tokens, 0) / tokens;
  const largest = (name: keyof PolicyStepStats) =>
    steps.reduce((most, { stats }) => Math.max(most, stats[name]), 0);
  const rewards = rollouts.map(({ reward }) => reward);
  return {
    steps: steps.length,
    stepsSkipped: skipped,
    epochs: new Set(steps.map(({ epoch }) => epoch)).size,
    stoppedEarly,
    tokens: pass.rows.reduce((sum, { rollout }) => sum + actions(rollout), 0),
    rewardMean: average(rewards),
    rewardDeviation: deviation(rewards),
    advantageMean: advantage?.mean ?? Number.NaN,
    advantageDeviation: advantage?.deviation ?? Number.NaN,
    loss: mean('loss'),
    policyLoss: mean('policyLoss'),
    klLoss: mean('klLoss'),
    valueLoss: mean('valueLoss'),
    entropy: mean('entropy'),
    klCoefficient,
    klReference: pass.klReference,
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
    samplerGap: pass.samplerGap,
    importanceWeighted: pass.rows.some((row) => row.importance !== undefined),
    // Of the very first step: old log-probs and the step's own must be the same numbers.
    trainerGap: steps[0]?.stats.maxLogprobGap ?? Number.NaN,
  };
}

export function deviation(values: readonly number[]): number {
  const mean = average(values);
  return Math.sqrt(average(values.map((value) => (value - mean) ** 2)));
}
