/** The sections of a configuration for edits that are weight changes (docs/weight-edits.md). */
import { z } from 'zod';
import { WEIGHT_GRADIENT_DEFAULTS } from '../algorithm/weight-gradient.js';
import { WEIGHT_PPO_DEFAULTS } from '../algorithm/weight-ppo.js';
import { EDIT_TEMPLATES } from '../edit/prompts.js';
import { SPACES } from '../edit/spaces.js';
import { DEFAULT_TARGETS } from '../targets.js';

const atLeast1 = z.int().min(1);
const positive = z.number().positive();
const notNegative = z.number().min(0);
const modules = z.array(z.string().min(1)).min(1);

const choice = z.strictObject({
  space: z.enum(SPACES),
  targets: modules.default([...DEFAULT_TARGETS]),
  size: atLeast1.optional(),
});

/** The edit head; its inner loop (modulated) is that of `adapt`, but for the targets. */
const weights = z.strictObject({
  space: z
    .union([z.enum(SPACES), z.array(choice).min(1)], {
      error: `one of ${SPACES.join(', ')}, or a list of {space, targets, size}`,
    })
    .default('modulated'),
  /** For a space given by its name. */
  targets: modules.default([...DEFAULT_TARGETS]),
  size: atLeast1.optional(),
  basis: z.enum(['fixed', 'learnt']).default('fixed'),
  rate: notNegative.default(0.03),
  selection: z.enum(['gradient', 'fisher']).default('gradient'),
  /** What the policy reads. */
  prompt: z.enum(EDIT_TEMPLATES as [string, ...string[]]).default('none'),
  /** KL that the noise is calibrated to; 0 leaves it alone. */
  noiseKl: notNegative.default(0.02),
  /** Weight of KL(edited ‖ unedited) in the loss of the gradient path; `reward.beta` by default. */
  lambda: notNegative.optional(),
});

const weightPpo = z.strictObject({
  epochs: atLeast1.default(WEIGHT_PPO_DEFAULTS.epochs),
  minibatch: atLeast1.default(WEIGHT_PPO_DEFAULTS.minibatch),
  whiten: z.boolean().default(WEIGHT_PPO_DEFAULTS.whiten),
  clipLow: notNegative.default(WEIGHT_PPO_DEFAULTS.clipLow),
  clipHigh: notNegative.default(WEIGHT_PPO_DEFAULTS.clipHigh),
  learningRate: positive.default(WEIGHT_PPO_DEFAULTS.learningRate),
  weightDecay: notNegative.default(WEIGHT_PPO_DEFAULTS.weightDecay),
  maxGradNorm: notNegative.default(WEIGHT_PPO_DEFAULTS.maxGradNorm),
  klCoefficient: notNegative.default(WEIGHT_PPO_DEFAULTS.klCoefficient),
  klStop: positive.default(WEIGHT_PPO_DEFAULTS.klStop),
});

const weightGradient = z.strictObject({
  steps: atLeast1.default(WEIGHT_GRADIENT_DEFAULTS.steps),
  learningRate: positive.default(WEIGHT_GRADIENT_DEFAULTS.learningRate),
  weightDecay: notNegative.default(WEIGHT_GRADIENT_DEFAULTS.weightDecay),
  maxGradNorm: notNegative.default(WEIGHT_GRADIENT_DEFAULTS.maxGradNorm),
  klCoefficient: notNegative.default(WEIGHT_GRADIENT_DEFAULTS.klCoefficient),
});

export const weightSections = {
  weights: weights.prefault({}),
  weightPpo: weightPpo.prefault({}),
  weightGradient: weightGradient.prefault({}),
};
