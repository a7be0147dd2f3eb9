/**
 * The alarm of majority votes. A model that is paid for agreeing with itself can do so by one answer to every question (SRT, arXiv
 * 2505.21444, section 5): agreement goes to 1 while the answers to different questions become the same.
 */
import { makeError } from '../errors.js';
import { wholeNumber } from '../round.js';
import { entropyOf, type Vote } from './majority.js';

/** Figures of the votes of one round. */
export interface VoteFigures {
  /** Different questions that were voted on and got a label. */
  readonly questions: number;
  /** Different labels among them. */
  readonly labels: number;
  /** Mean share of samples that agree with their label. */
  readonly agreement: number;
  /**
   * Entropy of the labels over the questions, divided by the log of the number of questions: 1 where each question has a label of
   * its own, 0 where all have the same; NaN for fewer than two questions.
   */
  readonly diversity: number;
  /** Label of most questions, and their share. */
  readonly commonest: { readonly label: string; readonly share: number } | undefined;
}

/** Figures of a round. The same question to several forks is one question. */
export function voteFigures(
  votes: readonly (Pick<Vote, 'agreement' | 'groups'> & { readonly question: string })[],
): VoteFigures {
  const voted = votes.filter(({ groups }) => groups.length > 0);
  const counts = new Map<string, number>();
  for (const { groups } of voted) {
    const { normalized } = groups[0]!;
    counts.set(normalized, (counts.get(normalized) ?? 0) + 1);
  }
  const questions = new Set(voted.map(({ question }) => question)).size;
  const shares = [...counts.values()].map((count) => count / voted.length);
  const [label, most] = [...counts].reduce((best, entry) => (entry[1] > best[1] ? entry : best), ['', 0]);
  return {
    questions,
    labels: counts.size,
    agreement:
      votes.length === 0 ? Number.NaN : votes.reduce((sum, vote) => sum + vote.agreement, 0) / votes.length,
    diversity: questions < 2 ? Number.NaN : entropyOf(shares) / Math.log(questions),
    commonest: most === 0 ? undefined : { label, share: most / voted.length },
  };
}

export interface CollapseOptions {
  /** Agreement from which a round is suspect. 0.9. */
  agreement?: number;
  /** A suspect round has less than this share of the reference's diversity. 0.5. */
  diversity?: number;
  /** Diversity to compare with, such as that of gold labels: 1 where every question has an answer of its own. The first round's. */
  reference?: number;
  /** Suspect rounds in a row, at the end, that raise the alarm. 2. */
  rounds?: number;
  /** Rounds with fewer different questions say nothing. 5. */
  questions?: number;
}

/** Defaults of `collapseAlarm`. */
export const COLLAPSE_DEFAULTS: Readonly<Required<Omit<CollapseOptions, 'reference'>>> = {
  agreement: 0.9,
  diversity: 0.5,
  rounds: 2,
  questions: 5,
};

/**
 * What the figures of all rounds so far, oldest first, say: undefined while all is well, else the alarm in words. Without a
 * `reference` it compares with the first round that has enough questions: a task of few answers (yes or no) raises none by itself,
 * a model that has collapsed before is not noticed, and a first round of noise makes a later narrow set of answers look like a fall.
 * Throws `OPTION_INVALID`.
 */
export function collapseAlarm(
  history: readonly VoteFigures[],
  given: CollapseOptions = {},
): string | undefined {
  const options = { ...COLLAPSE_DEFAULTS, ...given };
  for (const name of ['agreement', 'diversity', 'reference'] as const) {
    const value = options[name] ?? 0;
    if (value >= 0 && value <= 1) continue;
    throw makeError('OPTION_INVALID', `${name} is ${value}; expected a share in [0, 1]`);
  }
  wholeNumber('rounds', options.rounds, 1);
  wholeNumber('questions', options.questions, 2);
  const telling = history.filter(({ questions }) => questions >= options.questions);
  const reference = options.reference ?? telling[0]?.diversity ?? Number.NaN;
  const suspects = telling.slice(-options.rounds);
  const last = suspects.at(-1);
  if (!last || suspects.length < options.rounds) return undefined;
  const suspect = ({ agreement, diversity }: VoteFigures) =>
    agreement >= options.agreement && diversity < options.diversity * reference;
  if (!suspects.every(suspect)) return undefined;
  const share = (value: number) => `${Math.round(100 * value)} %`;
  return (
    `the votes collapse: ${share(last.agreement)} agree, while the diversity of the labels is ` +
    `${last.diversity.toFixed(2)} after ${reference.toFixed(2)} (${last.labels} labels for ${last.questions} questions; ` +
    `"${last.commonest!.label}" for ${share(last.commonest!.share)})`
  );
}
