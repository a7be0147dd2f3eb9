/** Runs whose edits are weight changes: the head and its algorithm, from the configuration. */
import type { WeightAlgorithm } from '../algorithm/weight-algorithm.js';
import { weightGradient } from '../algorithm/weight-gradient.js';
import { weightPpo } from '../algorithm/weight-ppo.js';
import type { EditHeadOptions } from '../edit-head.js';
import type { RunConfig } from './config.js';

/** What trains the head. */
export function weightAlgorithmOf(config: RunConfig): WeightAlgorithm {
  if (config.algorithm === 'gradient') return weightGradient(config.weightGradient);
  return weightPpo(config.weightPpo);
}

/** The edit head of a configuration; its inner loop has the constants of `adapt`. */
export function headOptions(config: RunConfig): EditHeadOptions {
  const { space, targets, size, basis, rate, selection, prompt } = config.weights;
  const { targets: _, ...adapt } = config.adapt;
  return {
    space:
      typeof space === 'string' ? space : space.map(({ size: own, ...rest }) => ({ ...rest, ...sized(own) })),
    targets,
    ...sized(size),
    ...{ basis, rate, selection, prompt, adapt, form: config.edit.form, seed: config.seed },
  };
}

function sized(size: number | undefined): { size?: number } {
  return size === undefined ? {} : { size };
}
