/**
 * Group-relative policy optimisation (Shao et al. 2024, arXiv 2402.03300) over sampled self-edits, top to bottom. No
 * value head: an edit is judged by the other edits of its context,
 *
 *   A_i = (R_i − mean_group R) / (σ_group + 10⁻⁴),
 *
 * σ the sample standard deviation; every token of the edit has the advantage A_i, and the objective is PPO's clipped
 * one. `scale: 'none'` leaves σ out (Liu et al. 2025, arXiv 2503.20783: dividing by σ weighs contexts whose edits
 * hardly differ as much as others).
 *
 * Two choices differ from the paper: sums over tokens are divided by a constant and not by each edit's own length,
 * which would favour long bad edits (same source); and the KL in the loss is k2, since the gradient of the paper's k3
 * is that of the opposite KL.
 */
import { average } from '../average.js';
import type { Policy } from '../policy.js';
import { groupRelative } from './advantages.js';
import type { Algorithm, Rollout, SettledContext, UpdateStatistics } from './algorithm.js';
import { steeredByKl } from './kl-controller.js';
import { editRewards, firstPass } from './rollout-rows.js';
import {
  checkName,
  checkOptions,
  GRADIENT_DEFAULTS,
  normalizerOf,
  type PolicyGradientOptions,
} from './update-options.js';
import { deviation, takeSteps, updateStatistics } from './update-steps.js';

export interface GrpoOptions extends PolicyGradientOptions {
  /** 'group': divide by the standard deviation of the context's rewards. 'none': do not. */
  scale: 'group' | 'none';
  clipLow: number;
  clipHigh: number;
}

export const GRPO_DEFAULTS: Readonly<GrpoOptions> = {
  ...GRADIENT_DEFAULTS,
  scale: 'group',
  clipLow: 0.2,
  clipHigh: 0.2,
};

/** GRPO with the given options over `GRPO_DEFAULTS`. Its only state is the KL coefficient. */
export function grpo(given: Partial<GrpoOptions> = {}): Algorithm {
  const options = checkOptions('grpo', { ...GRPO_DEFAULTS, ...given });
  checkName('grpo.scale', options.scale, ['group', 'none']);
  checkName('grpo.klIn', options.klIn, ['loss', 'reward']);
  return steeredByKl('grpo', options, (policy, rollouts, context, klCoefficient) =>
    update(policy, rollouts, context, { ...options, klCoefficient }),
  );
}

async function update(
  policy: Policy,
  rollouts: readonly Rollout[],
  context: SettledContext,
  options: GrpoOptions,
): Promise<UpdateStatistics> {
  const inReward = options.klIn === 'reward';
  const pass = await firstPass(policy, rollouts, context, options);
  const rewards = editRewards(pass.rows, inReward ? options.klCoefficient : 0);
  const groups = pass.rows.map(({ rollout }) => rollout.group);
  const advantages = groupRelative(rewards, groups, options.scale === 'group');
  pass.rows.forEach((row, index) => {
    row.advantagesA.fill(advantages[index]!);
  });
  const taken = await takeSteps(policy, pass.rows, options, context, () => ({
    loss: 'ppo',
    clipLow: options.clipLow,
    clipHigh: options.clipHigh,
    klCoefficient: inReward ? 0 : options.klCoefficient,
    normalizer: normalizerOf(options),
  }));
  const advantage = { mean: average(advantages), deviation: deviation(advantages) };
  return updateStatistics({ rollouts, pass, taken, klCoefficient: options.klCoefficient, advantage });
}
