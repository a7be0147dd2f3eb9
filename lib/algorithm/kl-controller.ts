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
