import { bestOf, normalizeAnswer } from './normalize.js';

/** 1 if the normalised prediction equals a normalised gold answer, else 0 (SQuAD's exact match). */
export function exact(prediction: string, golds: readonly string[]): number {
  const normalized = normalizeAnswer(prediction);
  return bestOf(golds, (gold) => (normalizeAnswer(gold) === normalized ? 1 : 0));
}
