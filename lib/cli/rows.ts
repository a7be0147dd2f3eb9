/** Token rows of input lines, checked where the line's number is known. */
import { makeError, SelfeditError } from '../errors.js';
import type { Model } from '../model.js';
import { toTokens } from '../rows.js';

/**
 * Token ids of a text (with the tokenizer's own special tokens) or of ids, checked against the model.
 * Errors, naming `where`: `PROMPT_EMPTY`, `TOKEN_RANGE`, `CONTEXT_LENGTH`.
 */
export function checkedTokens(
  model: Model,
  input: string | readonly number[] | Int32Array,
  where: string,
  most = model.config.maxPositions,
): Int32Array {
  const tokens = toTokens(model, input, where);
  const { vocabSize, maxPositions } = model.config;
  const position = tokens.findIndex((token) => token >= vocabSize);
  if (position >= 0) {
    throw makeError(
      'TOKEN_RANGE',
      `${where}, position ${position}: token ${tokens[position]} is outside the vocabulary of ${vocabSize}`,
    );
  }
  if (tokens.length > most) {
    const room = most < maxPositions ? ', of which at least one must stay free' : '';
    throw makeError(
      'CONTEXT_LENGTH',
      `${where} has ${tokens.length} tokens; the model's context holds ${maxPositions}${room}`,
    );
  }
  return tokens;
}

/** Runs `work`; a typed error gets `where` in front. */
export async function named<T>(where: string, work: () => Promise<T> | T): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof SelfeditError) || error.code === 'ABORTED') throw error;
    throw makeError(error.code, `${where}: ${error.message}`, error);
  }
}

/** Log-probs as JSON: nine digits give a float32 back to the bit; what was not predicted is null. */
export function logprobsJson(logprobs: Float32Array): (number | null)[] {
  return Array.from(logprobs, (value) => (Number.isFinite(value) ? Number(value.toPrecision(9)) : null));
}
