/** Calibration of an edit head's noise to a stated divergence. */
import { divergence } from '../divergence.js';
import type { EditHead } from '../edit-head.js';
import { isOverflow, makeError } from '../errors.js';
import type { Fork } from '../fork.js';
import type { CallOptions } from '../native-job.js';
import { deriveKey } from '../random.js';
import { type TokenInput, toTokens } from '../rows.js';
import type { Reading, WeightEdit } from './weight.js';

export interface CalibrateOptions extends CallOptions {
  parent?: Fork;
  /** KL(edited ‖ edited without noise) on the texts, nats a token, that the noise shall have. 0.02. */
  kl?: number;
  /** Relative error of the KL at which the search ends. 0.05. */
  tolerance?: number;
  /** Draws for each reading, in mirrored pairs. 2. */
  samples?: number;
  seed?: number | bigint;
}

export interface Calibration {
  /** Of the noise that was found: mean KL(edited ‖ edited without noise), nats a token. */
  readonly kl: number;
  /** What the noise was multiplied with. */
  readonly factor: number;
  /** How often the KL was measured. */
  readonly evaluations: number;
}

/** @internal `EditHead.calibrate`. */
export async function calibrateNoise(
  head: EditHead,
  readings: readonly Reading[],
  texts: readonly TokenInput[],
  options: CalibrateOptions,
): Promise<Calibration> {
  const { kl = 0.02, tolerance = 0.05, samples = 2, seed = 0, signal } = options;
  for (const [name, value] of Object.entries({ kl, tolerance, samples })) {
    if (value > 0 && Number.isFinite(value)) continue;
    throw makeError('OPTION_INVALID', `${name} is ${value}; expected a number above 0`);
  }
  if (readings.length === 0 || texts.length === 0) {
    throw makeError(
      'INPUT_INVALID',
      `calibration over ${readings.length} readings and ${texts.length} texts; expected at least one of each`,
    );
  }
  const { model } = head.policy;
  const tokens = texts.map((text, index) => toTokens(model, text, `text ${index}`));
  const parent = options.parent ?? head.policy.fork();
  const first = head.noise;
  const draws = { samples, seed: deriveKey(seed, 'calibrate'), signal };
  try {
    return await searchFactor(
      (factor) => {
        head.setNoise(first.map((sigma) => sigma * factor));
        return noiseDivergence(head, parent, readings, tokens, draws);
      },
      kl,
      tolerance,
    );
  } catch (error) {
    head.setNoise(first);
    throw error;
  } finally {
    if (!options.parent) await parent.close();
  }
}

/** Mean over draws, texts and positions of KL(drawn edit ‖ mean edit); infinite where a draw overflows. */
async function noiseDivergence(
  head: EditHead,
  parent: Fork,
  readings: readonly Reading[],
  texts: readonly Int32Array[],
  draws: { samples: number; seed: bigint; signal: AbortSignal | undefined },
): Promise<number> {
  const { signal } = draws;
  const open: { close(): Promise<void> }[] = [];
  const applied = ({ edit }: { edit: WeightEdit }) => {
    const fork = parent.fork();
    open.unshift(fork);
    return fork.apply(edit);
  };
  try {
    const drawn = await head.write(readings, draws);
    open.push(...drawn);
    const means = await head.write(readings, { mean: true, signal });
    open.push(...means);
    const forks = drawn.map(applied);
    const references = means.map(applied);
    const rows = drawn.flatMap(({ group }, index) =>
      texts.map((tokens) => ({ fork: forks[index]!, reference: references[group]!, tokens })),
    );
    const found = await divergence(rows, { signal });
    const total = found.reduce((sum, row) => sum + row.reduce((part, value) => part + value, 0), 0);
    return total / found.reduce((sum, row) => sum + row.length, 0);
  } catch (error) {
    if (isOverflow(error)) return Number.POSITIVE_INFINITY;
    throw error;
  } finally {
    // Forks before the edits that they hold.
    for (const resource of open) await resource.close();
  }
}

/** A log factor, and the log of (its KL / the target): below 0 where there is too little noise. */
interface Probe {
  readonly position: number;
  readonly error: number;
}

/**
 * @internal Finds the factor at which `measure` gives `target`; the last call was at the factor that is returned. Secant steps until
 * two factors lie on either side, then false position between them: an end that stays twice counts half (Illinois), so
 * that also a KL that rises steeply, or falls for a while, is closed in on.
 */
export async function searchFactor(
  measure: (factor: number) => Promise<number>,
  target: number,
  tolerance: number,
): Promise<Calibration> {
  let position = 0;
  let slope = 2; // KL is quadratic in small noise
  let low: Probe | undefined;
  let high: Probe | undefined;
  let last: Probe | undefined;
  let found = Number.NaN;
  for (let evaluations = 1; evaluations <= 20; evaluations++) {
    const kl = await measure(Math.exp(position));
    const error = Math.log(kl / target);
    if (Math.abs(error) <= Math.log1p(tolerance)) return { kl, factor: Math.exp(position), evaluations };
    found = kl;
    const probe = { position, error };
    const again = last !== undefined && error > 0 === last.error > 0;
    if (error > 0) {
      high = probe;
      if (again && low) low = { ...low, error: low.error / 2 };
    } else {
      low = probe;
      if (again && high) high = { ...high, error: high.error / 2 };
    }
    if (low && high) {
      position = between(low, high);
    } else {
      if (last && Number.isFinite(error) && Number.isFinite(last.error)) {
        slope = Math.min(Math.max((error - last.error) / (position - last.position), 0.5), 8);
      }
      // At most a factor of 10 at once: far out the KL says little. Where it is infinite, ever larger ones.
      const most = Math.LN10 * (error === Number.POSITIVE_INFINITY ? evaluations : 1);
      const step = Math.min(Math.max(-error / slope, -most), most);
      position += Number.isNaN(step) ? -most : step;
    }
    last = probe;
  }
  const expected = Number.isFinite(found)
    ? 'expected edits that change the model'
    : 'expected a mean edit that the model can be run with';
  throw makeError(
    'INPUT_INVALID',
    `no noise has a KL of ${target} on these texts (the last had ${found}); ${expected}`,
  );
}

/** Where the line through both ends crosses 0; the middle where an end is infinite. */
function between(low: Probe, high: Probe): number {
  const share = -low.error / (high.error - low.error);
  const inside = Number.isFinite(low.error) && Number.isFinite(high.error) ? share : 0.5;
  return low.position + inside * (high.position - low.position);
}
