import { checkName, checkOptions, GRADIENT_DEFAULTS, type PolicyGradientOptions } from './update-options.js';

/** Settings of PPO; the defaults suit one terminal reward an edit. */
export interface PpoOptions extends PolicyGradientOptions {
  /** 'group': leave-one-out mean of the context's other edits. 'value': the policy's value head, with GAE. */
  baseline: 'group' | 'value';
  discount: number;
  lambda: number;
  /** Scale advantages to unit variance, each sequence counting once. */
  whiten: boolean;
  clipLow: number;
  clipHigh: number;
  valueLearningRate: number;
  valueCoefficient: number;
  valueClip: number;
}

export const PPO_DEFAULTS: Readonly<PpoOptions> = {
  ...GRADIENT_DEFAULTS,
  baseline: 'group',
  discount: 1,
  lambda: 1,
  whiten: true,
  clipLow: 0.2,
  clipHigh: 0.2,
  valueLearningRate: 1e-3,
  valueCoefficient: 0.5,
  valueClip: 0.2,
};

/** @internal Throws `OPTION_INVALID` for a setting out of range. */
export function checkPpoOptions(options: PpoOptions): PpoOptions {
  checkName('ppo.baseline', options.baseline, ['group', 'value']);
  checkName('ppo.klIn', options.klIn, ['loss', 'reward']);
  return checkOptions('ppo', options);
}
