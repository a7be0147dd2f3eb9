/** Tables of calls that must be refused. */
import { expect } from 'vitest';
import { failureOf } from './tiny.js';

/** What is wrong, the call, and the class, code and words of its error. */
export type Refusal = [name: string, use: () => unknown, error: string, code: string, words: RegExp];

export async function expectRefusal([, use, name, code, words]: Refusal): Promise<void> {
  const error = await failureOf(use);
  expect({ name: error.name, code: error.code }, error.message).toEqual({ name, code });
  expect(error.message).toMatch(words);
}
