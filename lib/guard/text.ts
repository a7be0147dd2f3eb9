/** How much texts share, by runs of words. All linear in the length of the texts. */

const WORD = /[\p{L}\p{N}]+/gu;

/** Words of a text, lower case, without punctuation. */
export function wordsOf(text: string): string[] {
  return text.toLowerCase().match(WORD) ?? [];
}

/** The distinct runs of `n` words; the whole text where it is shorter, nothing where it has no word. */
export function wordRuns(text: string, n: number): Set<string> {
  const words = wordsOf(text);
  if (words.length === 0) return new Set();
  if (words.length <= n) return new Set([words.join(' ')]);
  return new Set(Array.from({ length: words.length - n + 1 }, (_, at) => words.slice(at, at + n).join(' ')));
}

/** Shared runs as a share of all (Jaccard), in [0, 1]; 1 for equal sets, 0 where one is empty. */
export function similarity(left: ReadonlySet<string>, right: ReadonlySet<string>): number {
  if (left.size === 0 || right.size === 0) return 0;
  let shared = 0;
  for (const run of left) if (right.has(run)) shared++;
  return shared / (left.size + right.size - shared);
}

/** Whether `text` holds all the words of `phrase`, in order and together. */
export function holdsPhrase(text: string, phrase: string): boolean {
  const words = wordsOf(phrase).join(' ');
  return words !== '' && ` ${wordsOf(text).join(' ')} `.includes(` ${words} `);
}
