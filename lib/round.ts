/** What the loops of both kinds of edits share: checked counts, and the time of each phase of a round. */
import { makeError } from './errors.js';
import type { CallOptions, Progress } from './native-job.js';
import type { Ranks, RankTraffic } from './ranks/ranks.js';

/** The parts of a round, in order. */
export type Phase = 'write' | 'baseline' | 'adapt' | 'evaluate' | 'update';

/** Who wants to know how a round goes. */
export interface RoundListeners {
  signal?: AbortSignal;
  /** Called when a phase of a round begins. */
  onPhase?: (round: number, phase: Phase) => void;
  /** Progress within a phase, in the unit of the call under way; at most once a step. */
  onProgress?: (round: number, phase: Phase, progress: Progress) => void;
  /** The processes that run the loop together; all call it with the same task and options, and get the same results. */
  ranks?: Ranks;
  /** Gradients are summed in the order of the contexts, so that the number of ranks does not show in any bit. false. */
  deterministic?: boolean;
}

/** What a phase of a round cost, by rank: `seconds` of it were work, the others waiting for ranks and exchanging with them. */
export interface RankPhase extends RankTraffic {
  readonly seconds: number;
}
export type RankTimings = Readonly<Record<Phase, RankPhase>>;

/** Of a round that several ranks made. */
export interface RoundRanks {
  readonly world: number;
  /** SHA-256 of the policy (and the edit head) after the round, the same on all ranks. */
  readonly policy: string;
  /** An entry a rank. */
  readonly phases: readonly RankTimings[];
}

/** @internal Throws `OPTION_INVALID` unless `value` is a whole number of at least `least`. */
export function wholeNumber(name: string, value: number, least: number): number {
  if (Number.isInteger(value) && value >= least) return value;
  throw makeError('OPTION_INVALID', `${name} is ${value}; expected a whole number of at least ${least}`);
}

const PHASES: readonly Phase[] = ['write', 'baseline', 'adapt', 'evaluate', 'update'];
const IDLE: RankPhase = { seconds: 0, waited: 0, exchanged: 0, gathered: 0, reduced: 0, collectives: 0 };

/** @internal Runs the phases of a round and keeps their seconds. */
export class PhaseClock {
  readonly timings: Record<Phase, number> = { write: 0, baseline: 0, adapt: 0, evaluate: 0, update: 0 };
  readonly #phases: Partial<Record<Phase, RankPhase>> = {};
  readonly #round: number;
  readonly #listeners: RoundListeners;

  constructor(round: number, listeners: RoundListeners) {
    this.#round = round;
    this.#listeners = listeners;
  }

  /** `work` gets the signal and the progress of this phase. */
  async run<T>(phase: Phase, work: (call: CallOptions) => Promise<T>): Promise<T> {
    const { signal, onPhase, onProgress, ranks } = this.#listeners;
    onPhase?.(this.#round, phase);
    const start = performance.now();
    const forward = onProgress && ((progress: Progress) => onProgress(this.#round, phase, progress));
    ranks?.takeTraffic();
    const result = await work({ signal, onProgress: forward });
    const seconds = (performance.now() - start) / 1000;
    this.timings[phase] += seconds;
    if (ranks) this.#add(phase, seconds, ranks.takeTraffic());
    return result;
  }

  #add(phase: Phase, seconds: number, traffic: RankTraffic): void {
    const sum = this.#phases[phase] ?? IDLE;
    this.#phases[phase] = {
      seconds: sum.seconds + seconds - traffic.waited - traffic.exchanged,
      waited: sum.waited + traffic.waited,
      exchanged: sum.exchanged + traffic.exchanged,
      gathered: sum.gathered + traffic.gathered,
      reduced: sum.reduced + traffic.reduced,
      collectives: sum.collectives + traffic.collectives,
    };
  }

  /** Compares the policies of all ranks after the round. Throws `RANKS_DIVERGED`. */
  async ranks(fingerprint: () => Promise<string>): Promise<{ ranks?: RoundRanks }> {
    const { ranks } = this.#listeners;
    if (!ranks) return {};
    const phases = Object.fromEntries(
      PHASES.map((phase) => [phase, this.#phases[phase] ?? IDLE]),
    ) as RankTimings;
    const own = { policy: await fingerprint(), phases };
    const all = await ranks.gather(`end of round ${this.#round}`, own);
    const [{ policy }] = all as [typeof own];
    const other = all.findIndex((one) => one.policy !== policy);
    if (other >= 0) {
      throw makeError(
        'RANKS_DIVERGED',
        `rank ${other} of ${ranks.world}: the policy after round ${this.#round} is ${all[other]!.policy.slice(0, 12)}…, that ` +
          `of rank 0 ${policy.slice(0, 12)}…; expected equal ones: all ranks need the same task, options and kind of device`,
      );
    }
    return { ranks: { world: ranks.world, policy, phases: all.map((one) => one.phases) } };
  }
}
