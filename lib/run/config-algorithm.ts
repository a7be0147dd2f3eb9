/** The sections of a configuration that hold the options of the algorithms. */
import { z } from 'zod';
import { GRPO_DEFAULTS } from '../algorithm/grpo.js';
import { PPO_DEFAULTS } from '../algorithm/ppo.js';
import { RESTEM_DEFAULTS } from '../algorithm/restem.js';
import { RLOO_DEFAULTS } from '../algorithm/rloo.js';
import type { PolicyGradientOptions, UpdateOptions } from '../algorithm/update-options.js';

const atLeast1 = z.int().min(1);
const positive = z.number().positive();
const notNegative = z.number().min(0);
const share = z.number().min(0).max(1);

/** What all four have. */
const updates = (defaults: UpdateOptions) => ({
  epochs: atLeast1.default(defaults.epochs),
  minibatch: atLeast1.default(defaults.minibatch),
  learningRate: positive.default(defaults.learningRate),
  maxGradNorm: notNegative.default(defaults.maxGradNorm),
  weightDecay: notNegative.default(defaults.weightDecay),
  entropyCoefficient: notNegative.default(defaults.entropyCoefficient),
  klCoefficient: notNegative.default(defaults.klCoefficient),
  klTarget: positive.optional(),
});

/** What the policy gradients have beyond it. */
const gradients = (defaults: PolicyGradientOptions) => ({
  ...updates(defaults),
  klStop: positive.default(defaults.klStop),
  klIn: z.enum(['loss', 'reward']).default(defaults.klIn),
  importanceGap: notNegative.default(defaults.importanceGap),
  importanceCap: positive.default(defaults.importanceCap),
  normalizer: positive.optional(),
});

const ppo = z.strictObject({
  baseline: z.enum(['group', 'value']).default(PPO_DEFAULTS.baseline),
  discount: share.default(PPO_DEFAULTS.discount),
  lambda: share.default(PPO_DEFAULTS.lambda),
  whiten: z.boolean().default(PPO_DEFAULTS.whiten),
  clipLow: notNegative.default(PPO_DEFAULTS.clipLow),
  clipHigh: notNegative.default(PPO_DEFAULTS.clipHigh),
  valueLearningRate: positive.default(PPO_DEFAULTS.valueLearningRate),
  valueCoefficient: notNegative.default(PPO_DEFAULTS.valueCoefficient),
  valueClip: notNegative.default(PPO_DEFAULTS.valueClip),
  ...gradients(PPO_DEFAULTS),
});

const grpo = z.strictObject({
  scale: z.enum(['group', 'none']).default(GRPO_DEFAULTS.scale),
  clipLow: notNegative.default(GRPO_DEFAULTS.clipLow),
  clipHigh: notNegative.default(GRPO_DEFAULTS.clipHigh),
  ...gradients(GRPO_DEFAULTS),
});

const rloo = z.strictObject(gradients(RLOO_DEFAULTS));

const restem = z.strictObject({
  keep: z.enum(['best', 'aboveThreshold']).default(RESTEM_DEFAULTS.keep),
  threshold: z.number().default(RESTEM_DEFAULTS.threshold),
  freshOptimizer: z.boolean().default(RESTEM_DEFAULTS.freshOptimizer),
  ...updates(RESTEM_DEFAULTS),
  klStop: positive.optional(),
});

export const algorithmSections = {
  ppo: ppo.prefault({}),
  grpo: grpo.prefault({}),
  rloo: rloo.prefault({}),
  restem: restem.prefault({}),
};
