import { answerWords, bestOf, sharedWords } from './normalize.js';

/**
 * Share of the gold answer's words that the prediction holds, best over the gold answers, in [0, 1]. Suits the free
 * sentences that a base model answers with, where F1 punishes every extra word.
 */
export function recall(prediction: string, golds: readonly string[]): number {
  const predicted = answerWords(prediction);
  return bestOf(golds, (gold) => {
    const expected = answerWords(gold);
    if (expected.length === 0) return predicted.length === 0 ? 1 : 0;
    return sharedWords(expected, predicted) / expected.length;
  });
}
