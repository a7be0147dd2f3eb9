/** Keyed randomness: every draw is a pure function of a key and a position (Philox4x32-10); there is no state to save. */
import { native } from './binding.js';
import { makeError } from './errors.js';
import { runSync } from './native-job.js';

/** The 64-bit key for a purpose: a hash of the seed, the purpose's name and indices such as round, context, edit. */
export function deriveKey(seed: number | bigint, purpose: string, indices: readonly number[] = []): bigint {
  for (const index of indices) {
    if (index !== (index | 0)) {
      throw makeError('OPTION_INVALID', `index ${index} of a key; expected an integer of 32 bits`);
    }
  }
  return runSync(() => native().deriveKey(toSeed(seed), purpose, Int32Array.from(indices)));
}

/** Keyed permutation of 0 … n − 1. */
export function permutation(key: bigint, n: number): Int32Array {
  return runSync(() => native().permutation(key, n));
}

/** `n` keyed uniform draws in [0, 1). */
export function uniform(key: bigint, n: number): Float64Array {
  return runSync(() => native().uniform(key, n));
}

/** @internal Seeds may be numbers (integers) or bigints. */
export function toSeed(seed: number | bigint): bigint {
  if (typeof seed !== 'bigint' && !Number.isInteger(seed)) {
    throw makeError('OPTION_INVALID', `seed is ${seed}; expected an integer`);
  }
  return BigInt.asUintN(64, BigInt(seed));
}
