import type { Policy } from '../policy.js';
import type { Algorithm, Rollout, SettledContext, UpdateStatistics } from './algorithm.js';

/**
 * Adaptive KL coefficient (Ziegler et al. 2019, section 2.2): β ← β (1 + K e) with e = (KL / target − 1) clipped to
 * ±0.2. Without a target the coefficient stays fixed.
 */
export class KlController {
  #coefficient: number;
  readonly #target: number | undefined;
  readonly #gain: number;

  /** `target` in nats a token; `gain` is K, 0.1 in the paper. */
  constructor(coefficient: number, target?: number, gain = 0.1) {
    this.#coefficient = coefficient;
    this.#target = target;
    this.#gain = gain;
  }

  get coefficient(): number {
    return this.#coefficient;
  }

  set coefficient(value: number) {
    this.#coefficient = value;
  }

  /** Takes note of the KL (nats a token) that was seen in a round. */
  observe(kl: number): void {
    if (this.#target === undefined || !Number.isFinite(kl)) return;
    const error = Math.min(Math.max(kl / this.#target - 1, -0.2), 0.2);
    this.#coefficient *= 1 + this.#gain * error;
  }
}

/**
 * @internal An algorithm whose only state is its KL coefficient. `update` is given the coefficient in force; the
 * controller then moves on by the `klReference` that it reports.
 */
export function steeredByKl(
  name: string,
  { klCoefficient, klTarget }: { readonly klCoefficient: number; readonly klTarget?: number | undefined },
  update: (
    policy: Policy,
    rollouts: readonly Rollout[],
    context: SettledContext,
    klCoefficient: number,
  ) => Promise<UpdateStatistics>,
): Algorithm {
  const controller = new KlController(klCoefficient, klTarget);
  return {
    name,
    state: () => ({ klCoefficient: controller.coefficient }),
    restore: (state) => {
      controller.coefficient = state.klCoefficient ?? klCoefficient;
    },
    update: async (policy, rollouts, { seed = 0, round = 0, temperature = 1, ...rest } = {}) => {
      const context = { seed, round, temperature, ...rest };
      const statistics = await update(policy, rollouts, context, controller.coefficient);
      controller.observe(Number(statistics.klReference));
      return statistics;
    },
  };
}
