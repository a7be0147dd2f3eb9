import { answerWords, bestOf, sharedWords } from './normalize.js';

/**
 * Harmonic mean of word precision and recall, best over the gold answers, in [0, 1] (SQuAD's F1). Where either side
 * has no words left after normalisation, 1 if neither has, else 0.
 */
export function f1(prediction: string, golds: readonly string[]): number {
  const predicted = answerWords(prediction);
  return bestOf(golds, (gold) => {
    const expected = answerWords(gold);
    if (predicted.length === 0 || expected.length === 0) return predicted.length === expected.length ? 1 : 0;
    const shared = sharedWords(predicted, expected);
    return (2 * shared) / (predicted.length + expected.length);
  });
}
