/** What the loops of both kinds of edits share: checked counts, and the time of each phase of a round. */
import { makeError } from './errors.js';
import type { CallOptions, Progress } from './native-job.js';

/** The parts of a round, in order. */
export type Phase = 'write' | 'baseline' | 'adapt' | 'evaluate' | 'update';

/** Who wants to know how a round goes. */
export interface RoundListeners {
  signal?: AbortSignal;
  /** Called when a phase of a round begins. */
  onPhase?: (round: number, phase: Phase) => void;
  /** Progress within a phase, in the unit of the call under way; at most once a step. */
  onProgress?: (round: number, phase: Phase, progress: Progress) => void;
}

/** @internal Throws `OPTION_INVALID` unless `value` is a whole number of at least `least`. */
export function wholeNumber(name: string, value: number, least: number): number {
  if (Number.isInteger(value) && value >= least) return value;
  throw makeError('OPTION_INVALID', `${name} is ${value}; expected a whole number of at least ${least}`);
}

/** @internal Runs the phases of a round and keeps their seconds. */
export class PhaseClock {
  readonly timings: Record<Phase, number> = { write: 0, baseline: 0, adapt: 0, evaluate: 0, update: 0 };
  readonly #round: number;
  readonly #listeners: RoundListeners;

  constructor(round: number, listeners: RoundListeners) {
    this.#round = round;
    this.#listeners = listeners;
  }

  /** `work` gets the signal and the progress of this phase. */
  async run<T>(phase: Phase, work: (call: CallOptions) => Promise<T>): Promise<T> {
    const { signal, onPhase, onProgress } = this.#listeners;
    onPhase?.(this.#round, phase);
    const start = performance.now();
    const forward = onProgress && ((progress: Progress) => onProgress(this.#round, phase, progress));
    const result = await work({ signal, onProgress: forward });
    this.timings[phase] += (performance.now() - start) / 1000;
    return result;
  }
}
