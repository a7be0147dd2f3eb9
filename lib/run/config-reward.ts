/** The sections of a configuration about rewards, and the guards against hacking them. */
import { z } from 'zod';
import { GUARD_DEFAULTS, type GuardName } from '../guard/guards.js';
import { JUDGE_DEFAULTS } from '../reward/judge.js';
import { MEASURES } from '../reward/measure.js';
import { REWARD_DEFAULTS } from '../reward/options.js';

const count = z.int().min(0);
const atLeast1 = z.int().min(1);
const positive = z.number().positive();
const notNegative = z.number().min(0);
const name = z.string().min(1);

const judge = z.strictObject({
  endpoint: name,
  model: name,
  apiKeyVariable: name.optional(),
  form: z.enum(['verdict', 'rubric']).default(JUDGE_DEFAULTS.form),
  parameters: z.record(z.string(), z.unknown()).default({ ...JUDGE_DEFAULTS.parameters }),
  concurrency: atLeast1.default(JUDGE_DEFAULTS.concurrency),
  timeoutMs: atLeast1.default(JUDGE_DEFAULTS.timeoutMs),
  retries: count.default(JUDGE_DEFAULTS.retries),
  /** Relative to the configuration's folder. */
  cache: name.optional(),
});

const reward = z.strictObject({
  /** What pays: a measure, or weights of several; `{}` where only `functions` pay. */
  measure: z
    .union([name, z.record(name, z.number())], {
      error: `a measure (${MEASURES.join(', ')}), or a mapping of measures to weights`,
    })
    .default(REWARD_DEFAULTS.measure as string),
  report: z.array(name).default([...REWARD_DEFAULTS.report]),
  beta: notNegative.default(REWARD_DEFAULTS.beta),
  floor: z.number().default(REWARD_DEFAULTS.floor),
  /** λ: weight of what earlier contexts lose, and how many of them each edit is tested on. */
  lambda: notNegative.default(REWARD_DEFAULTS.lambda!),
  earlierContexts: count.default(REWARD_DEFAULTS.earlierContexts),
  lengthPenalty: notNegative.default(REWARD_DEFAULTS.lengthPenalty!),
  lengthFree: count.default(REWARD_DEFAULTS.lengthFree!),
  cutOffPenalty: notNegative.default(REWARD_DEFAULTS.cutOffPenalty!),
  repeatPenalty: notNegative.default(REWARD_DEFAULTS.repeatPenalty!),
  clip: z
    .tuple([z.number(), z.number()])
    .refine(([least, most]) => least < most, 'two numbers, the smaller one first')
    .optional(),
  whiten: z.boolean().default(REWARD_DEFAULTS.whiten),
  patience: positive.default(REWARD_DEFAULTS.patience),
  /** Reward functions of one's own: modules, relative to the configuration's folder, that export a function. */
  functions: z
    .array(
      z.strictObject({
        name,
        module: name,
        export: name.default('default'),
        weight: z.number().default(1),
        concurrency: atLeast1.default(8),
      }),
    )
    .default([]),
  /** A large model as grader; makes the measure `judge`. */
  judge: judge.optional(),
  /** Choices and ratings of `selfedit rate`, relative to the configuration's folder; makes the term `preference`. */
  preferences: z.strictObject({ file: name, weight: z.number().default(1) }).optional(),
  retentionTexts: count.default(REWARD_DEFAULTS.retentionTexts),
  retentionTokens: z.int().min(2).default(REWARD_DEFAULTS.retentionTokens),
  form: z.enum(['auto', 'base', 'chat']).default(REWARD_DEFAULTS.form),
  maxAnswerTokens: atLeast1.default(REWARD_DEFAULTS.maxAnswerTokens),
  stop: z.array(z.string().min(1)).default([...REWARD_DEFAULTS.stop]),
});

const limit = (guard: GuardName) =>
  z
    .union([positive, z.literal(false)], { error: 'a number above 0, or false' })
    .default(GUARD_DEFAULTS[guard]);

const guards = z.strictObject({
  onAlarm: z.enum(['report', 'stop', 'rollback']).default(GUARD_DEFAULTS.onAlarm),
  overlap: limit('overlap'),
  sameContext: limit('sameContext'),
  otherContext: limit('otherContext'),
  gap: limit('gap'),
  window: atLeast1.default(GUARD_DEFAULTS.window),
  collapse: limit('collapse'),
  policyKl: limit('policyKl'),
  editKl: limit('editKl'),
});

/** Answers by the model's own majority votes; off when absent. */
const labels = z.strictObject({
  samples: atLeast1.default(32),
  temperature: positive.default(1),
  maxTokens: atLeast1.default(64),
  openBook: z.boolean().default(false),
  replace: z.enum(['missing', 'paying']).default('missing'),
  leastAgreement: z.number().min(0).max(1).default(0),
});

export const rewardSections = {
  reward: reward.prefault({}),
  labels: labels.optional(),
  guards: guards.prefault({}),
};
