/**
 * ReST-EM (Singh et al. 2024, arXiv 2312.06585), as SEAL trains its policy: choose good edits among those sampled (the
 * E-step), then fine-tune the policy on them by supervised learning (the M-step), top to bottom.
 *
 *   loss = −(1 / tokens of the minibatch) Σ_t log p(token t | prompt, edit before t)   (+ β k2 to the base model)
 *
 * SEAL keeps the best of an edit's context even if it is no better than no edit, makes a new LoRA a round (rank 64,
 * alpha 128, all seven projections; 2 epochs, learning rate 3e-4, batch 10) and merges it into the weights. Here the
 * policy's own delta goes on training instead of being merged; `freshOptimizer` gives it fresh moments each round, as a
 * new LoRA has (a poor choice where a round has only a few steps: AdamW's first steps are of full size whatever the
 * gradient). Give the policy rank 64 and alpha 128 for the published sizes.
 */
import { average } from '../average.js';
import type { Policy } from '../policy.js';
import type { Algorithm, Rollout, SettledContext, UpdateStatistics } from './algorithm.js';
import { steeredByKl } from './kl-controller.js';
import { actions, firstPass } from './rollout-rows.js';
import { checkName, checkOptions, type UpdateOptions } from './update-options.js';
import { takeSteps, updateStatistics } from './update-steps.js';

export interface RestemOptions extends UpdateOptions {
  /**
   * Which edits are learnt. 'best': the best of each context, the first of several equal ones, even if it is no better
   * than no edit. 'aboveThreshold': all whose reward exceeds `threshold`. Edits that could not be applied never are.
   */
  keep: 'best' | 'aboveThreshold';
  /** For 'aboveThreshold'. A reward of 0 is what the unedited model gets. */
  threshold: number;
  /** Begin each update with zero optimizer moments. */
  freshOptimizer: boolean;
}

/** No `klStop`: it would be measured on the edits that are learnt, whose likelihood is meant to rise. */
export const RESTEM_DEFAULTS: Readonly<RestemOptions> = {
  keep: 'best',
  threshold: 0,
  freshOptimizer: false,
  epochs: 2,
  minibatch: 10,
  learningRate: 3e-4,
  maxGradNorm: 1,
  weightDecay: 0,
  entropyCoefficient: 0,
  klCoefficient: 0,
};

/** ReST-EM with the given options over `RESTEM_DEFAULTS`. Its only state is the KL coefficient. */
export function restem(given: Partial<RestemOptions> = {}): Algorithm {
  const options = checkOptions('restem', { ...RESTEM_DEFAULTS, ...given });
  checkName('restem.keep', options.keep, ['best', 'aboveThreshold']);
  return steeredByKl('restem', options, (policy, rollouts, context, klCoefficient) =>
    update(policy, rollouts, context, { ...options, klCoefficient }),
  );
}

async function update(
  policy: Policy,
  rollouts: readonly Rollout[],
  context: SettledContext,
  options: RestemOptions,
): Promise<UpdateStatistics> {
  const pass = await firstPass(policy, rollouts, context, options);
  const choosable = pass.rows.map((row) => {
    const { group, reward, invalid } = row.rollout;
    return { group, reward, invalid, row };
  });
  const kept = chooseEdits(choosable, options).map(({ row }) => row);
  for (const row of kept) row.advantagesA.fill(1);
  if (options.freshOptimizer) policy.resetOptimizer();
  const taken = await takeSteps(policy, kept, options, context, (batch) => ({
    loss: 'nll',
    klCoefficient: options.klCoefficient,
    normalizer: batch.reduce((sum, { rollout }) => sum + actions(rollout), 0),
  }));
  return {
    ...updateStatistics({ rollouts, pass, taken, klCoefficient: options.klCoefficient }),
    kept: kept.length,
    keptContexts: new Set(kept.map(({ rollout }) => rollout.group)).size,
    keptRewardMean: average(kept.map(({ rollout }) => rollout.reward)),
  };
}

/** What the E-step looks at: a rollout is one. */
export interface Choosable {
  /** Edits of one group compete. */
  readonly group: number;
  /** NaN: unknown, never chosen. */
  readonly reward: number;
  readonly invalid?: unknown;
}

/** The E-step alone: the edits that are learnt, of 'best' the first of several equal ones. Needs no model. */
export function chooseEdits<E extends Choosable>(
  edits: readonly E[],
  { keep, threshold }: Pick<RestemOptions, 'keep' | 'threshold'> = RESTEM_DEFAULTS,
): E[] {
  const valid = edits.filter(({ invalid }) => !invalid);
  if (keep === 'aboveThreshold') return valid.filter(({ reward }) => reward > threshold);
  const best = new Map<number, E>();
  for (const edit of valid) {
    if (edit.reward > (best.get(edit.group)?.reward ?? Number.NEGATIVE_INFINITY)) best.set(edit.group, edit);
  }
  return [...best.values()];
}
