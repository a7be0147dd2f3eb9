/**
 * Training directives: a JSON object in the text of an edit by which the model itself chooses how it is trained on the
 * edit. What it may choose is bounded; what is outside of the bounds makes the edit invalid.
 */
import type { AdaptOptions } from '../adapt.js';
import { makeError } from '../errors.js';

/** What an edit may choose. What it leaves out is as the run has it. */
export interface Directives {
  readonly learningRate?: number;
  readonly epochs?: number;
  /** Rank of the low-rank delta; its scale, alpha / rank, stays that of the run. */
  readonly rank?: number;
  /** Modules to change. */
  readonly targets?: readonly string[];
  /** Layers to change, from 0. */
  readonly layers?: readonly number[];
  /** Which tokens bear loss (see `ParseOptions.loss`). */
  readonly loss?: 'all' | 'output';
  /** Names of augmentations that the task offers. */
  readonly augmentations?: readonly string[];
}

/** Least and largest value, both allowed. */
export type ClosedRange = readonly [least: number, most: number];

export interface DirectiveBounds {
  learningRate: ClosedRange;
  epochs: ClosedRange;
  rank: ClosedRange;
  /** Modules that may be chosen. */
  targets: readonly string[];
  /** Layers that may be chosen; all of the model by default. */
  layers?: ClosedRange | undefined;
  loss: readonly ('all' | 'output')[];
  /** Augmentations that may be chosen; all that the task offers by default. */
  augmentations?: readonly string[] | undefined;
  /** An edit without directives is invalid. */
  required: boolean;
}

/** The linear maps of a layer: every model has them in every layer, so that no choice among them can fail. */
export const DIRECTIVE_TARGETS = [
  'q_proj',
  'k_proj',
  'v_proj',
  'o_proj',
  'gate_proj',
  'up_proj',
  'down_proj',
] as const;

export const DIRECTIVE_DEFAULTS: Readonly<DirectiveBounds> = {
  learningRate: [1e-5, 1e-2],
  epochs: [1, 20],
  rank: [1, 64],
  targets: DIRECTIVE_TARGETS,
  loss: ['all', 'output'],
  required: false,
};

/** What is known of the model and the task when an edit is read. */
export interface DirectiveScope {
  /** Layers of the model. */
  readonly layers?: number;
  /** Names of the augmentations that the task offers. */
  readonly augmentations?: readonly string[];
}

/**
 * Throws `OPTION_INVALID` for bounds that no edit could keep, or that a run could not follow. `run.targets` are what it
 * changes where an edit names no modules; an edit that chooses among layers needs them to be modules.
 */
export function checkDirectiveBounds(
  given: Partial<DirectiveBounds>,
  scope: DirectiveScope,
  run: Pick<AdaptOptions, 'targets'>,
): void {
  const bounds = { ...DIRECTIVE_DEFAULTS, ...given };
  const fail = (name: string, found: unknown, expected: string): never => {
    throw makeError(
      'OPTION_INVALID',
      `edit.directives.${name} is ${JSON.stringify(found)}; expected ${expected}`,
    );
  };
  const { learningRate, epochs, rank, layers, targets, augmentations } = bounds;
  for (const [name, [least, most], start] of [
    ['learningRate', learningRate, 0],
    ['epochs', epochs, 1],
    ['rank', rank, 1],
    ['layers', layers ?? [0, 0], 0],
  ] as const) {
    const whole = name === 'learningRate' || (Number.isInteger(least) && Number.isInteger(most));
    if (!(whole && least >= start && least <= most && Number.isFinite(most))) {
      fail(
        name,
        [least, most],
        `two ${name === 'learningRate' ? '' : 'whole '}numbers from ${start}, the smaller one first`,
      );
    }
  }
  const last = (scope.layers ?? Number.POSITIVE_INFINITY) - 1;
  if (layers && layers[1] > last) fail('layers', layers, `layers of the model, 0 to ${last}`);
  const modules: readonly string[] = DIRECTIVE_TARGETS;
  const unknown = targets.find((target) => !modules.includes(target));
  if (unknown !== undefined || targets.length === 0) {
    fail('targets', unknown ?? targets, `modules among ${modules.join(', ')}`);
  }
  const offered = scope.augmentations ?? [];
  const missing = augmentations?.find((name) => !offered.includes(name));
  if (missing !== undefined) {
    fail('augmentations', missing, `what the task offers: ${offered.join(', ') || 'it offers none'}`);
  }
  if (!run.targets.every((target) => target === 'all' || modules.includes(target))) {
    fail(
      'layers',
      layers ?? 'all',
      `adapt.targets to be modules or "all", as edits may choose layers; they are ${run.targets.join(', ')}`,
    );
  }
}

/** The options of `adapt` that directives override. `run` is what the edit is trained with otherwise. */
export function directedOptions(
  { learningRate, epochs, rank, targets, layers }: Directives,
  run: Pick<AdaptOptions, 'rank' | 'alpha' | 'targets'>,
): Partial<AdaptOptions> {
  const modules = targets ?? run.targets;
  const chosen = layers?.flatMap((layer) =>
    modules.map((module) => (module === 'all' ? `layers.${layer}.*` : `layers.${layer}.*.${module}`)),
  );
  return {
    ...(learningRate === undefined ? {} : { learningRate }),
    ...(epochs === undefined ? {} : { epochs }),
    ...(rank === undefined ? {} : { rank, alpha: (run.alpha * rank) / run.rank }),
    ...(chosen || targets ? { targets: chosen ?? modules } : {}),
  };
}
