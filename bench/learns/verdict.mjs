// Whether a method learnt: 95 % intervals of (trained − untrained) over seeds and over contexts.
import { bootstrapDifference, deriveKey } from 'selfedit';

/** Two-sided 95 % quantiles of Student's t by degrees of freedom. */
const STUDENT = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262];

/** Mean and interval over the seeds' own means: what another seed would give. */
export function overSeeds(means) {
  const n = means.length;
  const mean = means.reduce((sum, value) => sum + value, 0) / n;
  if (n < 2) return { mean, low: Number.NEGATIVE_INFINITY, high: Number.POSITIVE_INFINITY, n };
  const quantile = STUDENT[n - 2];
  if (quantile === undefined) throw new RangeError(`${n} seeds; expected at most ${STUDENT.length + 1}`);
  const variance = means.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (n - 1);
  const half = quantile * Math.sqrt(variance / n);
  return { mean, low: mean - half, high: mean + half, n };
}

/**
 * `seeds`: [{trained, untrained, exact: {trained, untrained}}] of one method, contexts × questions each. `byContext` resamples
 * the contexts of all seeds, `bySeed` takes the five means. Up only if both lie above zero; what is 'flat' must not, and must have
 * been measured: two seeds at least, finite scores. 'report' demands nothing.
 * `exact`: the same over seeds of the share of exact answers, which decides nothing.
 */
export function verdictOf(method, seeds) {
  const mean = (groups) => groups.flat().reduce((sum, value) => sum + value, 0) / groups.flat().length;
  const gain = ({ trained, untrained }) => mean(trained) - mean(untrained);
  const bySeed = overSeeds(seeds.map(gain));
  const exact = overSeeds(seeds.map((run) => gain(run.exact)));
  const byContext = bootstrapDifference(
    seeds.flatMap(({ trained }) => trained),
    seeds.flatMap(({ untrained }) => untrained),
    { key: deriveKey(0, 'bench learns') },
  );
  const up = bySeed.low > 0 && byContext.low > 0;
  const known = [bySeed.low, bySeed.high, byContext.low, byContext.high].every(Number.isFinite);
  const holds = method.expect === 'report' || (known && up === (method.expect === 'up'));
  return { bySeed, byContext, exact, up, holds };
}
