/**
 * Proximal policy optimisation (Schulman et al. 2017) over sampled self-edits, top to bottom: first pass, rewards a
 * token, advantages, whitening, minibatches, steps. The clipped objective and its gradient are native (`Policy.step`).
 *
 * An edit of T tokens has one terminal reward. With λ < 1 the first tokens would see λ^(T−1) of it, so λ is 1; and the
 * baseline is the mean reward of the other edits of the same context, unless a value head is asked for.
 */
import { average } from '../average.js';
import type { Policy } from '../policy.js';
import { shared } from '../ranks/ranks.js';
import { generalizedAdvantages, leaveOneOut, whiten } from './advantages.js';
import type { Algorithm, Rollout, SettledContext, UpdateStatistics } from './algorithm.js';
import { steeredByKl } from './kl-controller.js';
import { checkPpoOptions, PPO_DEFAULTS, type PpoOptions } from './ppo-options.js';
import { actionRewards, editRewards, firstPass, type RolloutRow } from './rollout-rows.js';
import { normalizerOf } from './update-options.js';
import { deviation, takeSteps, updateStatistics } from './update-steps.js';

export { PPO_DEFAULTS, type PpoOptions } from './ppo-options.js';

/** PPO with the given options over `PPO_DEFAULTS`. Its only state is the KL coefficient. */
export function ppo(given: Partial<PpoOptions> = {}): Algorithm {
  const options = checkPpoOptions({ ...PPO_DEFAULTS, ...given });
  return steeredByKl('ppo', options, (policy, rollouts, context, klCoefficient) =>
    update(policy, rollouts, context, { ...options, klCoefficient }),
  );
}

async function update(
  policy: Policy,
  rollouts: readonly Rollout[],
  context: SettledContext,
  options: PpoOptions,
): Promise<UpdateStatistics> {
  const pass = await firstPass(policy, rollouts, context, options);
  if (options.baseline === 'value') {
    const values = await shared(
      context.ranks,
      `values of round ${context.round}`,
      pass.rows.map(({ rollout }) => rollout.tokens),
      (mine) => policy.values(mine),
      ({ length }) => length,
    );
    pass.rows.forEach((row, index) => {
      row.values = values[index]!;
    });
  }
  const advantage = setAdvantages(pass.rows, options);
  const taken = await takeSteps(policy, pass.rows, options, context, () => ({
    loss: 'ppo',
    clipLow: options.clipLow,
    clipHigh: options.clipHigh,
    klCoefficient: options.klIn === 'loss' ? options.klCoefficient : 0,
    valueCoefficient: options.valueCoefficient,
    valueClip: options.valueClip,
    valueLearningRate: options.valueLearningRate,
    normalizer: normalizerOf(options),
  }));
  return updateStatistics({ rollouts, pass, taken, klCoefficient: options.klCoefficient, advantage });
}

/** Fills the advantages (and returns) of all rows; the mean and deviation are those before whitening. */
function setAdvantages(rows: readonly RolloutRow[], options: PpoOptions) {
  const klWeight = options.klIn === 'reward' ? options.klCoefficient : 0;
  if (options.baseline === 'group') {
    const groups = rows.map(({ rollout }) => rollout.group);
    const advantages = leaveOneOut(editRewards(rows, klWeight), groups);
    rows.forEach((row, index) => {
      row.advantagesA.fill(advantages[index]!);
    });
  } else {
    const rewards = actionRewards(rows, klWeight);
    rows.forEach((row, index) => {
      const valuesA = Float64Array.from(row.values!.subarray(row.rollout.promptLength));
      const estimate = generalizedAdvantages(rewards[index]!, valuesA, options.discount, options.lambda);
      row.advantagesA = estimate.advantages;
      row.returnsA = estimate.returns;
    });
  }
  const advantages = rows.map(({ advantagesA }) => advantagesA);
  if (options.whiten) return whiten(advantages);
  const flat = advantages.map((sequence) => average([...sequence]));
  return { mean: average(flat), deviation: deviation(flat) };
}
