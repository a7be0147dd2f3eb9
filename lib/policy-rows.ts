/** Rows of a minibatch as the addon takes them: end to end, one entry a token. */
import type { PolicyStepSpec } from './binding.js';
import { makeError } from './errors.js';
import { POLICY_STEP_DEFAULTS, type PolicyMinibatch, type PolicyRow } from './policy.js';
import { toRagged } from './rows.js';

const PER_TOKEN = [
  'oldLogprobs',
  'referenceLogprobs',
  'advantages',
  'returns',
  'oldValues',
  'importance',
] as const;

/** @internal A minibatch with its defaults, checked. */
export function stepSpec(minibatch: PolicyMinibatch): PolicyStepSpec {
  const { rows, signal: _, ...scalars } = minibatch;
  const ragged = toRagged(rows.map(({ tokens }) => tokens));
  const actionMask = new Uint8Array(ragged.tokens.length);
  for (const [r, { promptLength, tokens, actionMask: own }] of rows.entries()) {
    if (own) {
      if (own.length !== tokens.length) {
        throw makeError(
          'INPUT_INVALID',
          `row ${r}: actionMask has ${own.length} entries; expected ${tokens.length}, one a token`,
        );
      }
      actionMask.set(own, ragged.offsets[r]);
      continue;
    }
    if (!Number.isInteger(promptLength) || promptLength < 1 || promptLength > tokens.length) {
      throw makeError(
        'INPUT_INVALID',
        `row ${r}: promptLength is ${promptLength}; expected 1 to ${tokens.length}`,
      );
    }
    actionMask.fill(1, ragged.offsets[r]! + promptLength, ragged.offsets[r + 1]);
  }
  const perToken = Object.fromEntries(PER_TOKEN.map((name) => [name, joinRows(rows, name)])) as Record<
    (typeof PER_TOKEN)[number],
    Float32Array
  >;
  return {
    ...POLICY_STEP_DEFAULTS,
    ...definedOf(scalars),
    ...ragged,
    ...perToken,
    actionMask,
  };
}

/** One array end to end; empty when no row has it, an error when only some have. */
function joinRows(rows: readonly PolicyRow[], name: (typeof PER_TOKEN)[number]): Float32Array {
  const present = rows.filter((row) => row[name] !== undefined).length;
  if (present === 0) return new Float32Array(0);
  const total = rows.reduce((sum, { tokens }) => sum + tokens.length, 0);
  const joined = new Float32Array(total);
  let offset = 0;
  for (const [r, row] of rows.entries()) {
    const values = row[name];
    if (values?.length !== row.tokens.length) {
      throw makeError(
        'INPUT_INVALID',
        `row ${r}: ${name} has ${values?.length ?? 'no'} entries; expected ${row.tokens.length}, one a token`,
      );
    }
    joined.set(values, offset);
    offset += values.length;
  }
  return joined;
}

function definedOf<T extends object>(object: T): Partial<T> {
  return Object.fromEntries(Object.entries(object).filter(([, value]) => value !== undefined)) as Partial<T>;
}
