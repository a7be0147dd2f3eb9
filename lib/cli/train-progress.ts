/** What a run shows while it works: a line a round, and how long the rest will take. */

import { METHODS } from '../compare.js';
import type { RoundResult } from '../edit-result.js';
import type { Phase } from '../round.js';
import type { RunConfig } from '../run/config.js';
import type { TrainEvent } from '../run/train.js';
import { durationText, type Meter } from './meter.js';
import type { Session } from './session.js';

const PHASES: readonly Phase[] = ['write', 'baseline', 'adapt', 'evaluate', 'update'];

export class TrainProgress {
  /** Whether the run folder is there and its work has begun. */
  begun = false;
  readonly #session: Session;
  readonly #config: RunConfig;
  /** Share of a round that each phase takes; guessed until the first round has shown it. */
  #shares: Readonly<Record<Phase, number>> = {
    write: 0.35,
    baseline: 0.05,
    adapt: 0.3,
    evaluate: 0.2,
    update: 0.1,
  };
  #seconds: number | undefined;
  #firstRound = 0;
  #meter: Meter | undefined;

  constructor(session: Session, config: RunConfig) {
    this.#session = session;
    this.#config = config;
  }

  show(event: TrainEvent): void {
    switch (event.type) {
      case 'warning':
        this.#session.note(`warning: ${event.message}`);
        break;
      case 'begin':
        this.begun = true;
        this.#firstRound = event.firstRound;
        this.#session.note(begins(event, this.#config));
        this.#meter = this.#session.meter({ label: 'train' });
        break;
      case 'phase':
        this.#update(event.round, event.phase, 0);
        break;
      case 'progress': {
        const { done, total } = event.progress;
        this.#update(event.round, event.phase, total > 0 ? done / total : 0);
        break;
      }
      case 'round':
        this.#learn(event.result);
        this.#session.note(roundText(event.result, this.#config.rounds));
        for (const { message } of event.result.guards.alarms) this.#session.note(`  guard: ${message}`);
        break;
      case 'method': {
        const index = METHODS.indexOf(event.method);
        if (index === 0) this.#meter = this.#session.meter({ label: 'compare', unit: 'methods' });
        this.#meter?.update(index, METHODS.length, { status: event.method });
        break;
      }
      case 'comparison':
        this.#session.endMeter();
    }
  }

  #update(round: number, phase: Phase, part: number): void {
    const { rounds } = this.#config;
    const before = PHASES.slice(0, PHASES.indexOf(phase)).reduce((sum, name) => sum + this.#shares[name], 0);
    const done = round - this.#firstRound + before + this.#shares[phase] * part;
    const total = rounds - this.#firstRound;
    const left = this.#seconds === undefined ? undefined : this.#seconds * (total - done);
    this.#meter?.update(done, total, { status: `round ${round + 1}/${rounds}: ${phase}`, left });
  }

  /** The round just finished is the best guess for the next ones. */
  #learn({ timings }: RoundResult): void {
    const seconds = PHASES.reduce((sum, phase) => sum + timings[phase], 0);
    if (!(seconds > 0)) return;
    this.#seconds = seconds;
    this.#shares = Object.fromEntries(PHASES.map((phase) => [phase, timings[phase] / seconds])) as Record<
      Phase,
      number
    >;
  }
}

function begins(event: Extract<TrainEvent, { type: 'begin' }>, config: RunConfig): string {
  const { contextsPerRound, editsPerContext } = config;
  const resumed = event.firstRound > 0 ? `, resumed after round ${event.firstRound}` : '';
  return (
    `run ${event.run}: ${event.rounds} rounds of ${contextsPerRound} contexts × ${editsPerContext} edits, ` +
    `${config.algorithm}, model ${config.model}, seed ${config.seed}${resumed}`
  );
}

/** One line a round: reward, invalid edits, edits left out of the update, seconds. */
function roundText({ round, reward, edits, update, skipped, timings }: RoundResult, rounds: number): string {
  const seconds = PHASES.reduce((sum, phase) => sum + timings[phase], 0);
  const reasons = Object.entries(reward.invalidBy).map(([reason, count]) => `${count} ${reason}`);
  const invalid =
    reward.invalid > 0 ? `, ${reward.invalid} of ${edits.length} edits invalid (${reasons.join(', ')})` : '';
  const { overflowed } = update;
  const unknown = reward.unknown > 0 ? `, ${reward.unknown} of unknown reward` : '';
  const left = overflowed ? `, ${overflowed} left out of the update (overflow)` : '';
  const skips = update.stepsSkipped ? `, ${update.stepsSkipped} steps skipped (not finite)` : '';
  const none = skipped === undefined ? '' : `, no update: ${skipped}`;
  const spent = PHASES.map((phase) => `${phase} ${timings[phase].toFixed(1)}`).join(', ');
  return (
    `round ${round + 1}/${rounds}: reward mean ${reward.mean.toFixed(4)}, best ${reward.best.toFixed(4)}${invalid}${unknown}${left}${skips}${none}, ` +
    `${durationText(seconds)} (s: ${spent})`
  );
}
