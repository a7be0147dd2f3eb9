/** What the guards saw in a run, for its closing table. */
import { GUARDS, type GuardName, type GuardOptions, type RoundGuards } from './guards.js';

/** One guard over all rounds of a run. */
export interface GuardSummary {
  readonly guard: GuardName;
  /** Largest value of any round; NaN where it was never measured. */
  readonly largest: number;
  readonly limit: number | false;
  /** Rounds, from 0, in which it gave alarm. */
  readonly alarms: readonly number[];
}

/** Over the rounds of a run, in order; null in a journal is NaN. */
export function summarizeGuards(
  rounds: readonly { readonly round: number; readonly guards?: RoundGuards }[],
  options: GuardOptions,
): GuardSummary[] {
  return GUARDS.map((guard) => {
    const values = rounds.flatMap(({ guards }) => {
      const value: number | null | undefined = guards?.figures[guard];
      return typeof value === 'number' && !Number.isNaN(value) ? [value] : [];
    });
    const alarms = rounds.flatMap(({ round, guards }) =>
      guards?.alarms.some((alarm) => alarm.guard === guard) ? [round] : [],
    );
    const largest = values.length > 0 ? Math.max(...values) : Number.NaN;
    return { guard, largest, limit: options[guard], alarms };
  });
}

const NAMES: Readonly<Record<GuardName, string>> = {
  overlap: 'paying questions held by edits',
  sameContext: 'likeness of edits of one context',
  otherContext: 'likeness of edits of different contexts',
  gap: 'growth of paying over report-only gain',
  collapse: 'lost diversity of majority votes',
  policyKl: 'KL(policy ‖ base), nats a token',
  editKl: 'KL(edited ‖ unedited), nats a token',
};

/** Lines for the closing table: every guard with its largest value, its limit and where it gave alarm. */
export function guardLines(summary: readonly GuardSummary[]): string[] {
  const width = Math.max(...Object.values(NAMES).map((name) => name.length));
  return summary.map(({ guard, largest, limit, alarms }) => {
    // From a file it is null.
    const value = Number.isFinite(largest) ? largest.toPrecision(3) : 'not measured';
    const bound = limit === false ? 'off' : `limit ${limit}`;
    const rounds = alarms.map((round) => round + 1).join(', ');
    const alarm = alarms.length > 0 ? `ALARM in round ${rounds}` : '';
    return `  ${NAMES[guard].padEnd(width)}  ${value.padEnd(12)}  ${bound.padEnd(10)}  ${alarm}`.trimEnd();
  });
}
