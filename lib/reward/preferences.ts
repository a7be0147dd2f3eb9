/** Human preferences as a reward: choices and ratings of edits become one score an edit. */
import { makeError } from '../errors.js';
import { type AnchorOutcome, bradleyTerry, type PairOutcome } from './bradley-terry.js';
import type { Preference } from './preference-file.js';
import { type Interval, wilson } from './statistics.js';
import type { RewardTerm } from './terms.js';

export interface PreferenceOptions {
  /** The edits there are. What is said of others is counted and not used; without a list, all are known. */
  readonly edits?: readonly { readonly context: string; readonly text: string }[];
  /** Standard deviation of the prior of a score, in log-odds. 2. */
  readonly priorDeviation?: number;
}

/** An edit and what people think of it. */
export interface RatedEdit {
  readonly context: string;
  readonly text: string;
  /** Log-odds of being chosen over an edit of average worth. */
  readonly score: number;
  /** Its standard error (see `bradleyTerry`). */
  readonly error: number;
  readonly wins: number;
  readonly losses: number;
  readonly ties: number;
  readonly ratings: readonly number[];
}

export interface Preferences {
  /** In the order in which the records first name them. */
  readonly edits: readonly RatedEdit[];
  /** Score of the edit with this text in the context with this id; NaN where nobody has rated it. */
  score(context: string, text: string): number;
  /** Edits that records name and `edits` does not hold: their number, and the first in a few words. */
  readonly unknown: { readonly count: number; readonly first?: string };
  /** Share of choices, ties apart, that went to the edit shown first: 1/2 where the place does not matter. */
  readonly firstChosen: Interval | undefined;
}

/**
 * Scores of all rated edits, each context by itself: Bradley–Terry over its choices; a rating r counts as (r − 1) / 4 of a choice
 * against an edit of average worth, so that choices and ratings are on one scale.
 */
export function preferences(records: readonly Preference[], options: PreferenceOptions = {}): Preferences {
  const known = options.edits && new Set(options.edits.map(({ context, text }) => keyOf(context, text)));
  const unknown = new Map<string, string>();
  const byContext = new Map<string, Preference[]>();
  for (const record of records) {
    const strange = textsOf(record).filter((text) => known && !known.has(keyOf(record.context, text)));
    for (const text of strange) unknown.set(keyOf(record.context, text), nameOf(record.context, text));
    if (strange.length > 0) continue;
    const own = byContext.get(record.context);
    if (own) own.push(record);
    else byContext.set(record.context, [record]);
  }
  const edits = [...byContext].flatMap(([context, own]) => rated(context, own, options.priorDeviation));
  const scores = new Map(edits.map(({ context, text, score }) => [keyOf(context, text), score]));
  const [first] = unknown.values();
  const decided = [...byContext.values()]
    .flat()
    .flatMap((record) => (record.kind === 'pair' && record.choice !== 'tie' ? [record] : []));
  return {
    edits,
    score: (context, text) => scores.get(keyOf(context, text)) ?? Number.NaN,
    unknown: { count: unknown.size, ...(first === undefined ? {} : { first }) },
    firstChosen:
      decided.length === 0
        ? undefined
        : wilson(decided.filter(({ choice }) => choice === 'a').length, decided.length),
  };
}

/**
 * The term `preference` of a reward: what people think of an edit, in log-odds. An edit that nobody has rated is unknown: it takes no
 * part in the update.
 */
export function preferenceTerm(score: Preferences['score'], weight = 1): RewardTerm {
  return {
    name: 'preference',
    weight,
    reward: ({ context, edit }) => {
      const found = edit?.kind === 'text' ? score(context.id, edit.text) : Number.NaN;
      if (Number.isNaN(found))
        throw makeError('REWARD_UNKNOWN', `nobody has rated this edit of context "${context.id}"`);
      return found;
    },
  };
}

function rated(
  context: string,
  records: readonly Preference[],
  priorDeviation: number | undefined,
): RatedEdit[] {
  const texts = [...new Set(records.flatMap(textsOf))];
  const indices = new Map(texts.map((text, index) => [text, index]));
  const counts = texts.map(() => ({ wins: 0, losses: 0, ties: 0, ratings: [] as number[] }));
  const pairs: PairOutcome[] = [];
  const anchors: AnchorOutcome[] = [];
  for (const record of records) {
    if (record.kind === 'rating') {
      const item = indices.get(record.edit)!;
      counts[item]!.ratings.push(record.rating);
      anchors.push({ item, outcome: (record.rating - 1) / 4 });
      continue;
    }
    const a = indices.get(record.a)!;
    const b = indices.get(record.b)!;
    const outcome = { a: 1, tie: 0.5, b: 0 }[record.choice];
    pairs.push({ a, b, outcome });
    counts[a]![outcome === 1 ? 'wins' : outcome === 0 ? 'losses' : 'ties']++;
    counts[b]![outcome === 1 ? 'losses' : outcome === 0 ? 'wins' : 'ties']++;
  }
  const prior = priorDeviation === undefined ? {} : { priorDeviation };
  const { scores, errors } = bradleyTerry(texts.length, pairs, { anchors, ...prior });
  return texts.map((text, index) => ({
    context,
    text,
    score: scores[index]!,
    error: errors[index]!,
    ...counts[index]!,
  }));
}

const textsOf = (record: Preference) => (record.kind === 'pair' ? [record.a, record.b] : [record.edit]);

const keyOf = (context: string, text: string) => JSON.stringify([context, text]);

const nameOf = (context: string, text: string) => {
  const line = text.replace(/\s+/g, ' ').trim();
  return `context ${context}: "${line.length > 60 ? `${line.slice(0, 60)}…` : line}"`;
};
