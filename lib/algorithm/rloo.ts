/**
 * REINFORCE with a leave-one-out baseline (Ahmadian et al. 2024, arXiv 2402.14740) over sampled self-edits, top to
 * bottom. The KL to the base model is part of the reward, an edit is one action,
 *
 *   R_i = r_i − β Σ_t (log p_old − log p_ref)_t,   A_i = R_i − mean of the other R of its context,
 *   ∇J = E[A_i ∇ log p(edit_i)],
 *
 * and nothing is clipped or whitened. The default is one pass over the rollouts. Steps after the first are no longer
 * taken from the policy that sampled: each token is then weighted by p / p_old, which is 1 in the first step.
 */
import { average } from '../average.js';
import type { Policy } from '../policy.js';
import { leaveOneOut } from './advantages.js';
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

export type RlooOptions = PolicyGradientOptions;

export const RLOO_DEFAULTS: Readonly<RlooOptions> = { ...GRADIENT_DEFAULTS, epochs: 1, klIn: 'reward' };

/** RLOO with the given options over `RLOO_DEFAULTS`. Its only state is the KL coefficient. */
export function rloo(given: Partial<RlooOptions> = {}): Algorithm {
  const options = checkOptions('rloo', { ...RLOO_DEFAULTS, ...given });
  checkName('rloo.klIn', options.klIn, ['loss', 'reward']);
  return steeredByKl('rloo', options, (policy, rollouts, context, klCoefficient) =>
    update(policy, rollouts, context, { ...options, klCoefficient }),
  );
}

async function update(
  policy: Policy,
  rollouts: readonly Rollout[],
  context: SettledContext,
  options: RlooOptions,
): Promise<UpdateStatistics> {
  const inReward = options.klIn === 'reward';
  const pass = await firstPass(policy, rollouts, context, options);
  const rewards = editRewards(pass.rows, inReward ? options.klCoefficient : 0);
  const groups = pass.rows.map(({ rollout }) => rollout.group);
  const advantages = leaveOneOut(rewards, groups);
  pass.rows.forEach((row, index) => {
    row.advantagesA.fill(advantages[index]!);
  });
  const taken = await takeSteps(policy, pass.rows, options, context, () => ({
    // The surrogate without its clip: its gradient is A p / p_old ∇ log p.
    loss: 'ppo',
    clipLow: Number.POSITIVE_INFINITY,
    clipHigh: Number.POSITIVE_INFINITY,
    klCoefficient: inReward ? 0 : options.klCoefficient,
    normalizer: normalizerOf(options),
  }));
  const advantage = { mean: average(advantages), deviation: deviation(advantages) };
  return updateStatistics({ rollouts, pass, taken, klCoefficient: options.klCoefficient, advantage });
}
