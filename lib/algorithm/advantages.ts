/** Advantages of rollouts with one terminal reward. No tensors: a few thousand numbers a round. */
import { makeError } from '../errors.js';

/**
 * Leave-one-out baseline of each group (Kool et al. 2019; RLOO, Ahmadian et al. 2024):
 * A_i = R_i − mean of the other rewards of its group. Unbiased, as no reward is part of its own baseline.
 */
export function leaveOneOut(rewards: readonly number[], groups: readonly number[]): number[] {
  const moments = groupMoments(rewards, groups);
  return rewards.map((reward, index) => {
    const { sum, count, equal } = moments.get(groups[index]!)!;
    return equal ? 0 : reward - (sum - reward) / (count - 1);
  });
}

/**
 * GRPO's advantages (Shao et al. 2024): A_i = R_i − mean of its group, divided by σ + 10⁻⁴ of its group when `scale`, σ
 * being the sample standard deviation.
 */
export function groupRelative(
  rewards: readonly number[],
  groups: readonly number[],
  scale: boolean,
): number[] {
  const moments = groupMoments(rewards, groups);
  return rewards.map((reward, index) => {
    const { mean, deviation, equal } = moments.get(groups[index]!)!;
    return equal ? 0 : (reward - mean) / (scale ? deviation + 1e-4 : 1);
  });
}

/**
 * Rewards that differ by rounding alone are equal: AdamW takes a step of full size from any gradient, so the noise would
 * move the policy.
 */
function differs(deviation: number, mean: number): boolean {
  return deviation > 1e-6 * Math.max(1, Math.abs(mean));
}

/** Sum, mean and sample standard deviation of each group; throws `OPTION_INVALID` for a group of one. */
function groupMoments(rewards: readonly number[], groups: readonly number[]) {
  const members = new Map<number, number[]>();
  rewards.forEach((reward, index) => {
    const group = groups[index]!;
    members.set(group, [...(members.get(group) ?? []), reward]);
  });
  return new Map(
    Array.from(members, ([group, own]) => {
      if (own.length < 2) {
        throw makeError('OPTION_INVALID', 'the group baseline needs at least 2 edits a context; found 1');
      }
      const sum = own.reduce((total, reward) => total + reward, 0);
      const mean = sum / own.length;
      const squares = own.reduce((total, reward) => total + (reward - mean) ** 2, 0);
      const deviation = Math.sqrt(squares / (own.length - 1));
      return [group, { sum, mean, count: own.length, deviation, equal: !differs(deviation, mean) }];
    }),
  );
}

/**
 * Generalised advantage estimation (Schulman et al. 2016) over the actions of one episode that ends:
 * δ_t = r_t + γ V_{t+1} − V_t with V after the last action 0, A_t = δ_t + γ λ A_{t+1}; returns are A_t + V_t.
 */
export function generalizedAdvantages(
  rewards: Float64Array,
  values: Float64Array,
  discount: number,
  lambda: number,
): { advantages: Float64Array; returns: Float64Array } {
  const advantages = new Float64Array(rewards.length);
  const returns = new Float64Array(rewards.length);
  let nextValue = 0;
  let nextAdvantage = 0;
  for (let t = rewards.length - 1; t >= 0; t--) {
    const delta = rewards[t]! + discount * nextValue - values[t]!;
    nextAdvantage = delta + discount * lambda * nextAdvantage;
    nextValue = values[t]!;
    advantages[t] = nextAdvantage;
    returns[t] = nextAdvantage + nextValue;
  }
  return { advantages, returns };
}

/**
 * Scales advantages in place to mean 0 and variance 1, each sequence counting once whatever its length:
 * μ = mean_i mean_t A_it, σ² = mean_i mean_t (A_it − μ)². Advantages that are all equal become 0.
 */
export function whiten(sequences: readonly Float64Array[]): { mean: number; deviation: number } {
  const filled = sequences.filter((sequence) => sequence.length > 0);
  const average = (of: (value: number) => number) => {
    let total = 0;
    for (const sequence of filled) {
      let sum = 0;
      for (const value of sequence) sum += of(value);
      total += sum / sequence.length;
    }
    return total / filled.length;
  };
  const mean = average((value) => value);
  const deviation = Math.sqrt(average((value) => (value - mean) ** 2));
  const scale = differs(deviation, mean) ? 1 / deviation : 0;
  for (const sequence of filled) {
    for (let t = 0; t < sequence.length; t++) sequence[t] = scale === 0 ? 0 : (sequence[t]! - mean) * scale;
  }
  return { mean, deviation };
}
