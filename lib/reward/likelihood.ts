import type { Fork } from '../fork.js';
import type { Model } from '../model.js';
import type { CallOptions } from '../native-job.js';
import { score } from '../score.js';

/** A prompt and the answer whose likelihood is measured, on one fork. */
export interface LikelihoodRow {
  readonly fork: Fork | Model;
  readonly prompt: Int32Array;
  readonly answer: Int32Array;
}

/**
 * Mean log-likelihood of each answer in nats a token: (1/n) Σ_t log p(answer_t | prompt, answer_<t). A dense measure:
 * its gain under an edit moves long before any greedy answer changes. NaN for an answer without tokens.
 */
export async function likelihood(
  rows: readonly LikelihoodRow[],
  options: CallOptions = {},
): Promise<number[]> {
  const scored = await score(
    rows.map(({ fork, prompt, answer }) => ({ fork, tokens: concatenate(prompt, answer) })),
    options,
  );
  return rows.map((row, index) => {
    const answerLogprobs = scored[index]!.subarray(row.prompt.length);
    return answerLogprobs.reduce((sum, value) => sum + value, 0) / row.answer.length;
  });
}

function concatenate(left: Int32Array, right: Int32Array): Int32Array {
  const joined = new Int32Array(left.length + right.length);
  joined.set(left);
  joined.set(right, left.length);
  return joined;
}
