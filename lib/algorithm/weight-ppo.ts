/**
 * Proximal policy optimisation (Schulman et al. 2017) of an edit head over sampled weight edits, top to bottom:
 * advantages, whitening, minibatches, steps. The clipped objective and its gradient are native (`EditHead.step`).
 *
 * An action is a whole vector drawn from a Gaussian, so the ratio needs no model: it is in closed form, taken and clipped
 * apart for every target matrix (one ratio over hundreds of entries would leave the clip range at once). The baseline is the
 * mean reward of the other edits of the context; with mirrored draws the mirror image is among them, which multiplies the
 * gradient by n / (n − 1) and leaves its direction, as every baseline cancels within a mirrored pair.
 */
import { average } from '../average.js';
import type { HeadStepStats } from '../binding.js';
import { makeError } from '../errors.js';
import { leaveOneOut, whiten } from './advantages.js';
import { keyedBatches } from './rollout-rows.js';
import { deviation, unlessOverflow } from './update-steps.js';
import type { WeightAlgorithm } from './weight-algorithm.js';

/** Settings of PPO over weight edits. */
export interface WeightPpoOptions {
  /** Passes over the edits. */
  epochs: number;
  /** Edits of one optimizer step. */
  minibatch: number;
  /** Scale advantages to unit variance. */
  whiten: boolean;
  clipLow: number;
  clipHigh: number;
  /** One step moves an entry of the mean by about this many units of noise. */
  learningRate: number;
  weightDecay: number;
  maxGradNorm: number;
  /** Coefficient of KL(head ‖ untrained head), nats a vector, in the loss. */
  klCoefficient: number;
  /** Stop the update when KL(sampling ‖ head), nats a vector, exceeds this. */
  klStop: number;
}

export const WEIGHT_PPO_DEFAULTS: Readonly<WeightPpoOptions> = {
  epochs: 4,
  minibatch: 32,
  whiten: true,
  clipLow: 0.2,
  clipHigh: 0.2,
  learningRate: 0.05,
  weightDecay: 0,
  maxGradNorm: 1,
  klCoefficient: 0,
  klStop: 1,
};

/** PPO over weight edits with the given options over `WEIGHT_PPO_DEFAULTS`. It has no state. */
export function weightPpo(given: Partial<WeightPpoOptions> = {}): WeightAlgorithm {
  const options = checkOptions({ ...WEIGHT_PPO_DEFAULTS, ...given });
  return {
    name: 'weight-ppo',
    differentiates: false,
    async update(head, edits, rewards, { seed = 0, round = 0, signal } = {}) {
      if (edits.length === 0 || edits.length !== rewards.length) {
        throw makeError(
          'INPUT_INVALID',
          `${edits.length} edits and ${rewards.length} rewards; expected one reward an edit, at least one`,
        );
      }
      const values = rewards.map(({ reward }) => reward);
      const bad = values.findIndex((reward) => !Number.isFinite(reward));
      if (bad >= 0)
        throw makeError('INPUT_INVALID', `reward ${bad} is ${values[bad]}; expected a finite number`);

      const groups = edits.map(({ group }) => group);
      const advantages = leaveOneOut(values, groups).map((advantage) => Float64Array.of(advantage));
      const before = options.whiten
        ? whiten(advantages)
        : { deviation: deviation(advantages.map(([a]) => a!)) };

      const readings = [...new Set(edits.map(({ reading }) => reading))];
      const samples = edits.map(({ reading, edit, mean }, index) => {
        const advantage = advantages[index]![0]!;
        return { reading: readings.indexOf(reading), vector: edit.vector, mean, advantage };
      });
      const steps: HeadStepStats[] = [];
      let skipped = 0;
      let stopped = false;
      for (let epoch = 0; epoch < options.epochs && !stopped; epoch++) {
        for (const batch of keyedBatches(samples.length, options.minibatch, { seed, round }, epoch)) {
          const step = head.step({
            readings,
            samples: Array.from(batch, (index) => samples[index]!),
            oldNoise: edits[0]!.noise,
            clipLow: options.clipLow,
            clipHigh: options.clipHigh,
            klCoefficient: options.klCoefficient,
            learningRate: options.learningRate,
            weightDecay: options.weightDecay,
            maxGradNorm: options.maxGradNorm,
            signal,
          });
          const stats = await unlessOverflow(step);
          if (stats === undefined) {
            skipped++;
            continue;
          }
          steps.push(stats);
          if (stats.klOld > options.klStop) {
            stopped = true;
            break;
          }
        }
      }
      const mean = (name: keyof HeadStepStats) =>
        steps.reduce((sum, stats) => sum + stats[name], 0) / steps.length;
      return {
        steps: steps.length,
        stepsSkipped: skipped,
        stoppedEarly: stopped,
        rewardMean: average(values),
        rewardDeviation: deviation(values),
        advantageDeviation: before.deviation,
        loss: mean('loss'),
        policyLoss: mean('policyLoss'),
        klLoss: mean('klLoss'),
        klStart: steps.at(-1)?.klStart ?? Number.NaN,
        klOldLargest: Math.max(0, ...steps.map(({ klOld }) => klOld)),
        entropy: mean('entropy'),
        clipFraction: mean('clipFraction'),
        gradNorm: mean('gradNorm'),
        // Of the very first step: the head has not moved since it drew the edits.
        trainerGap: steps[0]?.klOld ?? Number.NaN,
      };
    },
  };
}

function checkOptions(options: WeightPpoOptions): WeightPpoOptions {
  for (const name of ['epochs', 'minibatch'] as const) {
    if (Number.isInteger(options[name]) && options[name] >= 1) continue;
    throw makeError(
      'OPTION_INVALID',
      `weightPpo.${name} is ${options[name]}; expected a whole number of at least 1`,
    );
  }
  for (const name of [
    'clipLow',
    'clipHigh',
    'learningRate',
    'weightDecay',
    'maxGradNorm',
    'klCoefficient',
    'klStop',
  ] as const) {
    if (options[name] >= 0) continue;
    throw makeError(
      'OPTION_INVALID',
      `weightPpo.${name} is ${options[name]}; expected a number of at least 0`,
    );
  }
  return options;
}
