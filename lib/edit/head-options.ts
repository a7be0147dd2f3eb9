/** Options of the edit head's calls. */
import { join } from 'node:path';
import type { HeadStepSpec } from '../binding.js';
import { makeError } from '../errors.js';
import type { Fork } from '../fork.js';
import type { CallOptions } from '../native-job.js';
import { cacheFolder } from '../pull.js';
import type { InnerOptions } from './apply.js';
import { type EditTemplate, editTemplate, type PromptForm } from './prompts.js';
import { oneOf, type SpaceOptions } from './spaces.js';
import type { Reading } from './weight.js';

export interface EditHeadOptions extends SpaceOptions {
  /** Whether the basis of lowRank and gradient spaces is trained by gradients through the edit. `fixed`. */
  basis?: 'fixed' | 'learnt';
  /** Learning rate of the gradient space's step. 0.03. */
  rate?: number;
  /** How a sparse support is chosen. `gradient`. */
  selection?: 'gradient' | 'fisher';
  /** The inner loop of the modulated space; its targets are the head's. */
  adapt?: Omit<InnerOptions, 'targets'>;
  /** What the policy reads. `none`: the task description and the context. */
  prompt?: string | EditTemplate;
  form?: PromptForm;
  /** Where singular factors are kept between runs; null: nowhere. `spectral` in the cache folder of `pull` by default. */
  cacheDir?: string | null;
  seed?: number | bigint;
}

export interface ReadContextOptions extends CallOptions {
  /** What the edits are to change; the inner loop and gradients start from it. The present policy by default. */
  parent?: Fork;
  seed?: number | bigint;
  round?: number;
}

export interface WriteWeightOptions extends ReadContextOptions {
  /** Edits for each context. 1. */
  samples?: number;
  /** Edits 2 i and 2 i + 1 of a context are mirror images in the mean. true. */
  antithetic?: boolean;
  /** The mean edit itself, one a context, instead of samples. */
  mean?: boolean;
}

/** One optimizer step; see `HeadStepSpec` in docs/weight-edits.md. Arrays that are left out are empty. */
export interface HeadStep extends Partial<Omit<HeadStepSpec, 'features' | 'vectors' | 'oldMeans'>> {
  readings: readonly Pick<Reading, 'features'>[];
  samples?: readonly { reading: number; vector: Float32Array; mean: Float32Array; advantage: number }[];
  signal?: AbortSignal | undefined;
}

export const HEAD_STEP_DEFAULTS = {
  clipLow: 0.2,
  clipHigh: 0.2,
  klCoefficient: 0,
  learningRate: 0.05,
  beta1: 0.9,
  beta2: 0.999,
  epsilon: 1e-8,
  weightDecay: 0,
  maxGradNorm: 1,
  dryRun: false,
} as const;

/** @internal The options with their defaults, but for spaces and seed. */
export type HeadSettings = Required<Omit<EditHeadOptions, keyof SpaceOptions | 'seed'>>;

/** @internal Throws `OPTION_INVALID`. */
export function headSettings(options: EditHeadOptions): HeadSettings {
  const { basis = 'fixed', rate = 0.03, selection = 'gradient', prompt = 'none', form = 'auto' } = options;
  if (!(rate >= 0 && Number.isFinite(rate))) {
    throw makeError('OPTION_INVALID', `rate is ${rate}; expected a number of at least 0`);
  }
  oneOf('basis', basis, ['fixed', 'learnt']);
  oneOf('selection', selection, ['gradient', 'fisher']);
  const { adapt = {}, cacheDir = join(cacheFolder(), 'spectral') } = options;
  return { basis, rate, selection, prompt: editTemplate(prompt), form, adapt, cacheDir };
}
