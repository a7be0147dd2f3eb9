/**
 * Trains an edit head by the gradient that flows through the applied edit, top to bottom: loss of each sampled edit and
 * its gradient with respect to the vector, mean over the samples of a context, one optimizer step; then fresh samples.
 * Vectors are mean + noise, so dLoss/dmean is the mean of dLoss/dvector: the gradient of the loss smoothed by the noise.
 * That is the quantity whose optimum PPO looks for too, from rewards alone. Edits that overflow, in the loss or already in the
 * test that was to reward them, are left out of the means and counted (`overflowed`); a step that has no other edit is left
 * out (`stepsSkipped`) and changes nothing.
 */
import { average } from '../average.js';
import { makeError } from '../errors.js';
import { deriveKey } from '../random.js';
import { unlessOverflow } from './update-steps.js';
import type { WeightAlgorithm } from './weight-algorithm.js';

/** Settings of the gradient path. */
export interface WeightGradientOptions {
  /** Optimizer steps an update; every one but the first draws as many edits anew, from the same material. */
  steps: number;
  /** One step moves an entry of the mean by about this many units of noise. */
  learningRate: number;
  weightDecay: number;
  maxGradNorm: number;
  /** Coefficient of KL(head ‖ untrained head), nats a vector, in the loss. */
  klCoefficient: number;
}

export const WEIGHT_GRADIENT_DEFAULTS: Readonly<WeightGradientOptions> = {
  steps: 1,
  learningRate: 0.05,
  weightDecay: 0,
  maxGradNorm: 1,
  klCoefficient: 0,
};

/** The gradient path with the given options over `WEIGHT_GRADIENT_DEFAULTS`. It has no state. */
export function weightGradient(given: Partial<WeightGradientOptions> = {}): WeightAlgorithm {
  const options = checkOptions({ ...WEIGHT_GRADIENT_DEFAULTS, ...given });
  return {
    name: 'weight-gradient',
    differentiates: true,
    async update(head, edits, rewards, { seed = 0, round = 0, signal, objective } = {}) {
      if (!objective) throw makeError('INPUT_INVALID', 'the gradient path needs an objective; found none');
      if (edits.length === 0) throw makeError('INPUT_INVALID', 'there is no edit to learn from');
      const readings = [...new Set(edits.map(({ reading }) => reading))];
      const samples = edits.length / readings.length;
      const trace = [];
      let overflowed = 0;
      for (let step = 0; step < options.steps; step++) {
        // The key tells the steps of an update apart; the first one learns from the edits that were rewarded.
        const keyed = { samples, seed: deriveKey(seed, 'resample', [step]), round, signal };
        const drawn = step === 0 ? edits : await head.write(readings, keyed);
        const tested = step === 0 ? drawn.filter((_, index) => !rewards[index]?.invalid) : drawn;
        overflowed += drawn.length - tested.length;
        if (tested.length === 0) continue;
        try {
          const { losses, gradients, basis, figures } = await objective(tested);
          const kept = [...tested.keys()].filter((index) => gradients[index]);
          overflowed += tested.length - kept.length;
          if (kept.length === 0) continue;
          const total = new Float32Array(readings.length * head.size);
          for (const index of kept) {
            const row = readings.indexOf(tested[index]!.reading) * head.size;
            gradients[index]!.forEach((value, entry) => {
              total[row + entry]! += value / kept.length;
            });
          }
          const moved = head.step({
            readings,
            gradient: total,
            ...(basis && basis.length > 0
              ? { basisGradient: basis.map((value) => value / kept.length) }
              : {}),
            klCoefficient: options.klCoefficient,
            learningRate: options.learningRate,
            weightDecay: options.weightDecay,
            maxGradNorm: options.maxGradNorm,
            signal,
          });
          const stats = await unlessOverflow(moved);
          if (stats) trace.push({ stats, loss: average(kept.map((index) => losses[index]!)), figures });
        } finally {
          if (drawn !== edits) for (const edit of drawn) await edit.close();
        }
      }
      const [first, last] = [trace[0], trace.at(-1)];
      return {
        steps: trace.length,
        stepsSkipped: options.steps - trace.length,
        overflowed,
        rewardMean: rewards.length > 0 ? average(rewards.map(({ reward }) => reward)) : Number.NaN,
        loss: first?.loss ?? Number.NaN,
        lossLast: last?.loss ?? Number.NaN,
        ...first?.figures,
        klLoss: last?.stats.klLoss ?? Number.NaN,
        klStart: last?.stats.klStart ?? Number.NaN,
        entropy: last?.stats.entropy ?? Number.NaN,
        gradNorm: average(trace.map(({ stats }) => stats.gradNorm)),
      };
    },
  };
}

function checkOptions(options: WeightGradientOptions): WeightGradientOptions {
  if (!(Number.isInteger(options.steps) && options.steps >= 1)) {
    throw makeError(
      'OPTION_INVALID',
      `weightGradient.steps is ${options.steps}; expected a whole number of at least 1`,
    );
  }
  for (const name of ['learningRate', 'weightDecay', 'maxGradNorm', 'klCoefficient'] as const) {
    if (options[name] >= 0 && Number.isFinite(options[name])) continue;
    throw makeError(
      'OPTION_INVALID',
      `weightGradient.${name} is ${options[name]}; expected a number of at least 0`,
    );
  }
  return options;
}
