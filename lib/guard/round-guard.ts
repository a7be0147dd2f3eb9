/** The guards of a loop, round by round. */
import type { UpdateStatistics } from '../algorithm/algorithm.js';
import type { EditResult, RoundResult } from '../edit-result.js';
import type { VoteFigures } from '../reward/collapse.js';
import type { TaskContext } from '../task/task.js';
import {
  alarmsOf,
  type GuardFigures,
  type GuardOptions,
  guardFigures,
  guardOptions,
  withUpdate,
} from './guards.js';

/** @internal Keeps what the guards must remember from round to round. */
export class RoundGuard {
  readonly #options: GuardOptions;
  readonly #history: GuardFigures[];

  constructor(given?: Partial<GuardOptions>, history: readonly GuardFigures[] = []) {
    this.#options = guardOptions(given);
    this.#history = [...history];
  }

  /** After the edits of a round are judged; `groups[i]` is the index of edit i's context. `halts`: nothing may be learnt from them. */
  begin(
    edits: readonly EditResult[],
    groups: readonly number[],
    contexts: readonly TaskContext[],
    weights: readonly (readonly [string, number])[],
    votes?: VoteFigures,
  ): { halts: boolean; end(update: UpdateStatistics): Pick<RoundResult, 'guards' | 'halted'> } {
    const { onAlarm } = this.#options;
    const before = guardFigures(
      { edits, groups, contexts, weights, ...(votes ? { votes } : {}) },
      this.#history,
      this.#options,
    );
    const halts = onAlarm !== 'report' && alarmsOf(before, this.#options, this.#history).length > 0;
    return {
      halts,
      end: (update) => {
        const figures = withUpdate(before, update);
        const alarms = alarmsOf(figures, this.#options, this.#history);
        this.#history.push(figures);
        return {
          guards: { figures, alarms },
          ...(onAlarm !== 'report' && alarms.length > 0 ? { halted: onAlarm } : {}),
        };
      },
    };
  }
}
