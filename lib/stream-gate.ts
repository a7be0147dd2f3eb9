/** Whether an edit of a stream is worth what it costs: decisions on numbers that were measured elsewhere. */
import { makeError } from './errors.js';

export interface GateOptions {
  /**
   * An edit passes when cost ≤ λ · gain. With 1 and β = 0 the earlier contexts together may lose no more than the new
   * one gains: the sum of scores never falls.
   */
  lambda: number;
  /** Multiples of the edit's delta, tried in this order until one passes; none: the edit is refused. */
  scales: readonly number[];
  /** Weight of KL(after ‖ before the edit) on the retention texts, nats a token, in the cost. */
  beta: number;
}

export const GATE_DEFAULTS: Readonly<GateOptions> = { lambda: 1, scales: [1, 0.5, 0.25], beta: 0 };

/** What one edit did at one scale. */
export interface GateAttempt {
  readonly scale: number;
  /** Rise of the mean score on the context's own paying questions. */
  readonly gain: number;
  /** Sum over the earlier contexts of the drop on their paying questions (a rise counts as 0), and β · KL. */
  readonly cost: number;
  /** NaN where it was not measured. */
  readonly kl: number;
  readonly passed: boolean;
}

/** Defaults filled in and checked. Throws `OPTION_INVALID`. */
export function gateOptions(given: Partial<GateOptions> = {}): GateOptions {
  const options = { ...GATE_DEFAULTS, ...given };
  for (const name of ['lambda', 'beta'] as const) {
    if (options[name] >= 0 && Number.isFinite(options[name])) continue;
    throw makeError('OPTION_INVALID', `gate ${name} is ${options[name]}; expected a number of at least 0`);
  }
  const { scales } = options;
  if (scales.length > 0 && scales.every((scale) => scale > 0 && Number.isFinite(scale))) return options;
  const found = `gate scales are [${scales.join(', ')}]`;
  throw makeError('OPTION_INVALID', `${found}; expected at least one, each a number above 0`);
}

/** One attempt, judged: an unknown gain or cost does not pass, nor does an edit that brings nothing. */
export function judge(
  measured: {
    readonly scale: number;
    readonly gain: number;
    readonly drops: readonly number[];
    readonly kl: number;
  },
  { lambda, beta }: GateOptions,
): GateAttempt {
  const { scale, gain, drops, kl } = measured;
  const lost = drops.reduce((sum, drop) => sum + drop, 0);
  const cost = beta === 0 ? lost : lost + beta * kl;
  return { scale, gain, cost, kl, passed: gain > 0 && cost <= lambda * gain };
}

/** Index of the largest number, the first of equals; undefined where none is finite. */
export function best(values: readonly number[]): number | undefined {
  let index: number | undefined;
  for (const [at, value] of values.entries()) {
    if (Number.isFinite(value) && (index === undefined || value > values[index]!)) index = at;
  }
  return index;
}
