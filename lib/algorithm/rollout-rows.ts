/** From rollouts to the rows of an optimizer step: the trainer's own first pass, KL in the reward, minibatches. */
import { makeError } from '../errors.js';
import type { Fork } from '../fork.js';
import type { Model } from '../model.js';
import type { Policy, PolicyRow } from '../policy.js';
import { deriveKey, permutation } from '../random.js';
import { shared } from '../ranks/ranks.js';
import { score } from '../score.js';
import type { Rollout, SettledContext } from './algorithm.js';

/** A rollout under update. Arrays named `…A` have one entry an action, the others one a token. */
export interface RolloutRow {
  readonly rollout: Rollout;
  /** Log-probs of the policy that the update begins with. */
  readonly oldLogprobs: Float32Array;
  /** Log-probs of the frozen base model. */
  readonly referenceLogprobs: Float32Array | undefined;
  readonly importance: Float32Array | undefined;
  /** Advantages, or the weights of a weighted likelihood. */
  advantagesA: Float64Array;
  /** Only with a value head. */
  values?: Float32Array;
  returnsA?: Float64Array;
}

export interface FirstPass {
  readonly rows: RolloutRow[];
  /** Largest difference between the sampler's log-probs and the first pass. */
  readonly samplerGap: number;
  /** k1 estimate of KL(policy ‖ base model), nats a token; NaN without a reference pass. */
  readonly klReference: number;
}

/** Number of actions. */
export function actions(rollout: Rollout): number {
  return rollout.tokens.length - rollout.promptLength;
}

/**
 * The trainer's own detached pass over the rollouts: old log-probs, and those of the frozen base unless the KL
 * coefficient is 0. The sampler's log-probs come from other kernels (and perhaps another precision), so they are not
 * the old ones; where they are off by `importanceGap` or more, each token is weighted by min(exp(old − sampler), cap).
 */
export async function firstPass(
  policy: Policy,
  rollouts: readonly Rollout[],
  context: SettledContext,
  options: {
    readonly klCoefficient: number;
    readonly importanceGap?: number;
    readonly importanceCap?: number;
  },
): Promise<FirstPass> {
  const bad = rollouts.findIndex(({ reward }) => !Number.isFinite(reward));
  if (bad >= 0) {
    throw makeError('INPUT_INVALID', `reward ${bad} is ${rollouts[bad]!.reward}; expected a finite number`);
  }
  const acting = rollouts.filter((rollout) => actions(rollout) > 0);
  if (acting.length === 0) {
    throw makeError(
      'INPUT_INVALID',
      `${rollouts.length} rollouts without a single sampled token; expected at least one edit`,
    );
  }
  const fork = policy.fork();
  const scored = (by: Fork | Model, what: string) =>
    shared(
      context.ranks,
      `${what} of round ${context.round}`,
      acting,
      (mine) =>
        score(
          mine.map(({ tokens }) => ({ fork: by, tokens })),
          { temperature: context.temperature, signal: context.signal },
        ),
      ({ tokens }) => tokens.length,
    );
  const old = await scored(fork, 'log-probs').finally(() => fork.close());
  const reference =
    options.klCoefficient === 0 ? undefined : await scored(policy.model, 'reference log-probs');

  let samplerGap = 0;
  acting.forEach((rollout, index) => {
    for (let a = 0; a < actions(rollout); a++) {
      const gap = Math.abs(old[index]![rollout.promptLength + a]! - rollout.samplerLogprobs[a]!);
      if (!(gap <= samplerGap)) samplerGap = gap;
    }
  });
  if (!Number.isFinite(samplerGap)) {
    throw makeError(
      'LOSS_NOT_FINITE',
      "the policy's log-probs of its own edits are not finite; the update was not made",
    );
  }
  const { importanceGap = Number.POSITIVE_INFINITY, importanceCap = 1 } = options;
  const weighted = samplerGap >= importanceGap;
  const rows = acting.map((rollout, index): RolloutRow => {
    const oldLogprobs = old[index]!;
    return {
      rollout,
      oldLogprobs,
      referenceLogprobs: reference?.[index],
      importance: weighted ? importanceWeights(rollout, oldLogprobs, importanceCap) : undefined,
      advantagesA: new Float64Array(actions(rollout)),
    };
  });
  return { rows, samplerGap, klReference: meanGapToReference(rows) };
}

function importanceWeights(rollout: Rollout, oldLogprobs: Float32Array, cap: number): Float32Array {
  const weights = new Float32Array(rollout.tokens.length).fill(1);
  for (let a = 0; a < actions(rollout); a++) {
    const t = rollout.promptLength + a;
    weights[t] = Math.min(Math.exp(oldLogprobs[t]! - rollout.samplerLogprobs[a]!), cap);
  }
  return weights;
}

function meanGapToReference(rows: readonly RolloutRow[]): number {
  let sum = 0;
  let count = 0;
  for (const { rollout, oldLogprobs, referenceLogprobs } of rows) {
    for (let t = rollout.promptLength; t < rollout.tokens.length; t++) {
      sum += oldLogprobs[t]! - (referenceLogprobs?.[t] ?? Number.NaN);
    }
    count += actions(rollout);
  }
  return sum / count;
}

/**
 * Rewards a row and action: r_t = −w (log p_old − log p_ref)_t with w = `klWeight`, and the reward of the edit on its
 * last action.
 */
export function actionRewards(rows: readonly RolloutRow[], klWeight: number): Float64Array[] {
  return rows.map(({ rollout, oldLogprobs, referenceLogprobs }) => {
    const rewardsA = new Float64Array(actions(rollout));
    for (let a = 0; a < rewardsA.length && klWeight !== 0; a++) {
      const t = rollout.promptLength + a;
      rewardsA[a] = -klWeight * (oldLogprobs[t]! - referenceLogprobs![t]!);
    }
    rewardsA[rewardsA.length - 1]! += rollout.reward;
    return rewardsA;
  });
}

/** Rewards of whole edits, the KL taken from them. */
export function editRewards(rows: readonly RolloutRow[], klWeight: number): number[] {
  return actionRewards(rows, klWeight).map((rewardsA) => rewardsA.reduce((sum, reward) => sum + reward, 0));
}

/** Rows in keyed order, in ⌈n / size⌉ minibatches whose sizes differ by at most one. */
export function minibatches(
  rows: readonly RolloutRow[],
  size: number,
  context: SettledContext,
  epoch: number,
): RolloutRow[][] {
  const batches = keyedBatches(rows.length, size, context, epoch);
  return batches.map((batch) => Array.from(batch, (index) => rows[index]!));
}

/** The indices 0 … count − 1 in keyed order, in ⌈count / size⌉ runs whose lengths differ by at most one. */
export function keyedBatches(
  count: number,
  size: number,
  { seed, round }: Pick<SettledContext, 'seed' | 'round'>,
  epoch: number,
): Int32Array[] {
  const order = permutation(deriveKey(seed, 'minibatch', [round, epoch]), count);
  const runs = Math.ceil(count / size);
  return Array.from({ length: runs }, (_, run) =>
    order.subarray(Math.floor((run * count) / runs), Math.floor(((run + 1) * count) / runs)),
  );
}

export function toPolicyRow(row: RolloutRow): PolicyRow {
  const { rollout, oldLogprobs, referenceLogprobs, importance, values } = row;
  const perToken = (perAction: Float64Array) => {
    const full = new Float32Array(rollout.tokens.length);
    full.set(perAction, rollout.promptLength);
    return full;
  };
  return {
    tokens: rollout.tokens,
    promptLength: rollout.promptLength,
    oldLogprobs,
    advantages: perToken(row.advantagesA),
    ...(referenceLogprobs ? { referenceLogprobs } : {}),
    ...(importance ? { importance } : {}),
    ...(row.returnsA && values ? { returns: perToken(row.returnsA), oldValues: values } : {}),
  };
}
