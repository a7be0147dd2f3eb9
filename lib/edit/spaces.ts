/** Which matrices a weight edit changes, and what the entries of its vector mean there (docs/weight-edits.md). */
import { makeError } from '../errors.js';
import type { Model } from '../model.js';
import { DEFAULT_TARGETS, resolveTargets } from '../targets.js';

/** What the entries of a matrix's block stand for; the formulas are in docs/weight-edits.md. */
export const SPACES = ['spectral', 'lowRank', 'sparse', 'gradient', 'modulated'] as const;
export type SpaceName = (typeof SPACES)[number];

/** The space of some target matrices. */
export interface SpaceChoice {
  space: SpaceName;
  /** Patterns over modules and layers (see `resolveTargets`). q_proj and v_proj. */
  targets?: readonly string[];
  /** Entries a matrix. 8; gradient 9 (a gain and 4 a side); modulated always 1. */
  size?: number;
}

/** The space or spaces of an edit head. */
export interface SpaceOptions {
  /** One space, or several on different matrices. modulated on q_proj and v_proj. */
  space?: SpaceName | SpaceChoice | readonly SpaceChoice[];
  /** For a space given by its name. */
  targets?: readonly string[];
  size?: number;
}

/** One target matrix (id of `model.tensors`) and the entries of the vector that change it. */
export interface SpaceBlock {
  readonly matrix: number;
  readonly space: SpaceName;
  readonly size: number;
}

/** @internal The blocks, by ascending matrix. Throws `OPTION_INVALID`, `TARGET_UNKNOWN`. */
export function resolveSpaces(model: Model, options: SpaceOptions): SpaceBlock[] {
  const { space = 'modulated', targets, size } = options;
  const choices: readonly SpaceChoice[] =
    typeof space === 'string'
      ? [{ space, ...(targets ? { targets } : {}), ...(size === undefined ? {} : { size }) }]
      : 'space' in space
        ? [space]
        : space;
  const chosen = new Map<number, SpaceBlock>();
  for (const choice of choices) {
    oneOf('space', choice.space, SPACES);
    for (const matrix of resolveTargets(model, choice.targets ?? targets ?? DEFAULT_TARGETS)) {
      const taken = chosen.get(matrix);
      if (taken) {
        const { name } = model.tensors[matrix]!;
        throw makeError('OPTION_INVALID', `"${name}" is in two spaces, ${taken.space} and ${choice.space}`);
      }
      const size = choice.space === 'modulated' ? 1 : (choice.size ?? (choice.space === 'gradient' ? 9 : 8));
      if (!Number.isInteger(size) || size < 1 || size > 0x7fffffff) {
        throw makeError('OPTION_INVALID', `size is ${size}; expected a whole number of at least 1`);
      }
      chosen.set(matrix, { matrix, space: choice.space, size });
    }
  }
  return [...chosen.values()].sort((left, right) => left.matrix - right.matrix);
}

/** @internal */
export function oneOf(name: string, value: string, known: readonly string[]): void {
  if (known.includes(value)) return;
  throw makeError('OPTION_INVALID', `${name} is "${value}"; expected one of ${known.join(', ')}`);
}
