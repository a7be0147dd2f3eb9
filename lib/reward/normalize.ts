/**
 * Answer normalisation of SQuAD's evaluation (Rajpurkar et al. 2016): lower case, no punctuation, no articles, single
 * spaces. Python's `string.punctuation` is ASCII only; so is ours, which keeps scores comparable.
 */
const PUNCTUATION = /[!"#$%&'()*+,\-./:;<=>?@[\\\]^_`{|}~]/g;
const ARTICLES = /(?<![\p{L}\p{N}_])(?:a|an|the)(?![\p{L}\p{N}_])/gu;

/** The normalised form of an answer. */
export function normalizeAnswer(text: string): string {
  return text
    .toLowerCase()
    .replace(PUNCTUATION, '')
    .replace(ARTICLES, ' ')
    .split(/\s+/)
    .filter((word) => word !== '')
    .join(' ');
}

/** Words of the normalised answer. */
export function answerWords(text: string): string[] {
  const normalized = normalizeAnswer(text);
  return normalized === '' ? [] : normalized.split(' ');
}

/** Number of words that two answers share, each counted as often as both have it. */
export function sharedWords(left: readonly string[], right: readonly string[]): number {
  const counts = new Map<string, number>();
  for (const word of left) counts.set(word, (counts.get(word) ?? 0) + 1);
  let shared = 0;
  for (const word of right) {
    const count = counts.get(word) ?? 0;
    if (count === 0) continue;
    counts.set(word, count - 1);
    shared += 1;
  }
  return shared;
}

/** Best score over the gold answers: an answer need match only one of them. */
export function bestOf(golds: readonly string[], score: (gold: string) => number): number {
  return golds.reduce((best, gold) => Math.max(best, score(gold)), 0);
}
