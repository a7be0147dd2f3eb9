/** Values of one input line, checked; errors name the line, the key, what was found and what was expected. */
import { makeError } from '../errors.js';
import type { InputLine } from './jsonl.js';

/** @internal What a value is, in a few words. */
export function describe(value: unknown): string {
  if (value === undefined) return 'missing';
  if (Array.isArray(value)) return value.length === 0 ? 'an empty array' : 'an array';
  if (typeof value === 'object' && value !== null) return 'an object';
  const text = JSON.stringify(value);
  return text.length > 60 ? `${text.slice(0, 60)}…` : text;
}

export function invalid(line: InputLine, key: string, found: unknown, expected: string): Error {
  return makeError('INPUT_INVALID', `${line.where}: "${key}" is ${describe(found)}; expected ${expected}`);
}

export function optionalText(line: InputLine, key: string): string | undefined {
  const value = line.fields[key];
  if (value === undefined || typeof value === 'string') return value;
  throw invalid(line, key, value, 'a string');
}

export function text(line: InputLine, key: string): string {
  const value = optionalText(line, key);
  if (value !== undefined) return value;
  throw invalid(line, key, value, 'a string');
}

/** Token ids; that they are in the vocabulary is checked where the model is known. */
export function isTokens(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((item) => typeof item === 'number');
}

/** The one of two keys that is there: text, or token ids. */
export function textOrTokens(line: InputLine, textKey: string): string | number[] {
  const { [textKey]: ofText, tokens } = line.fields;
  if (ofText !== undefined && tokens !== undefined) {
    throw makeError(
      'INPUT_INVALID',
      `${line.where} has both "${textKey}" and "tokens"; expected one of them`,
    );
  }
  if (ofText !== undefined) return text(line, textKey);
  if (tokens === undefined) {
    throw makeError(
      'INPUT_INVALID',
      `${line.where} has neither "${textKey}" nor "tokens"; expected one of them`,
    );
  }
  if (isTokens(tokens)) return tokens;
  throw invalid(line, 'tokens', tokens, 'an array of token ids');
}

/** One string or several. */
export function optionalTexts(line: InputLine, key: string): string[] | undefined {
  const value = line.fields[key];
  if (value === undefined) return undefined;
  if (typeof value === 'string') return [value];
  if (Array.isArray(value) && value.every((item) => typeof item === 'string')) return value as string[];
  throw invalid(line, key, value, 'a string, or an array of strings');
}

/** A seed: a whole number that JSON can hold. */
export function optionalSeed(line: InputLine, key: string): number | undefined {
  const value = line.fields[key];
  if (value === undefined) return undefined;
  if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0) return value;
  throw invalid(line, key, value, 'a whole number from 0');
}
