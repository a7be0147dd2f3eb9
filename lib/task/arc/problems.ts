/** Problems: a test input behind demonstrations. What a model is trained on and asked; their transforms and their text. */
import { type Grid, gridKey, gridText, sizeOf } from './grids.js';
import type { ArcPair } from './read.js';
import { type GridTransform, transformGrid } from './transforms.js';

/** Demonstrations, and an input whose output is asked for. */
export interface ArcProblem {
  readonly demonstrations: readonly ArcPair[];
  readonly input: Grid;
}

/** A problem with the output that is right. */
export interface SolvedProblem extends ArcProblem {
  readonly output: Grid;
}

/** A change of every grid of a problem, the same for all. */
export function mapProblem(problem: SolvedProblem, change: (grid: Grid) => Grid): SolvedProblem;
export function mapProblem(problem: ArcProblem, change: (grid: Grid) => Grid): ArcProblem;
export function mapProblem(problem: ArcProblem | SolvedProblem, change: (grid: Grid) => Grid): ArcProblem {
  return {
    demonstrations: problem.demonstrations.map(({ input, output }) => ({
      input: change(input),
      output: change(output),
    })),
    input: change(problem.input),
    ...('output' in problem ? { output: change(problem.output) } : {}),
  };
}

/** Demonstrations in another order: number `order[i]` comes i-th. */
export function reorder<P extends ArcProblem>(problem: P, order: ArrayLike<number>): P {
  return { ...problem, demonstrations: Array.from(order, (index) => problem.demonstrations[index]!) };
}

/** The order that undoes `order`. */
export function inverseOrder(order: ArrayLike<number>): number[] {
  const inverse = new Array<number>(order.length);
  for (let index = 0; index < order.length; index++) inverse[order[index]!] = index;
  return inverse;
}

/** A way to look at a problem: its grids transformed, its demonstrations in another order. Undone on what is predicted. */
export interface ProblemView {
  readonly transform: GridTransform;
  /** Absent: as they are. */
  readonly order?: readonly number[];
}

export function viewProblem(problem: ArcProblem, { transform, order }: ProblemView): ArcProblem {
  const seen = mapProblem(problem, (grid) => transformGrid(grid, transform));
  return order === undefined ? seen : reorder(seen, order);
}

/** Equal exactly when demonstrations (in their order), input and output are. */
export function problemKey({ demonstrations, input, output }: SolvedProblem): string {
  const pairs = [...demonstrations, { input, output }];
  return pairs.map((pair) => `${gridKey(pair.input)}>${gridKey(pair.output)}`).join(';');
}

/** Largest height or width among all grids. */
export function largestSide({ demonstrations, input, output }: SolvedProblem): number {
  const grids = demonstrations.flatMap((pair) => [pair.input, pair.output]);
  return Math.max(...[...grids, input, output].flatMap(sizeOf));
}

/** How problems are written. */
export interface ArcForm {
  /** Stands first. */
  readonly instruction: string;
  /** Before an input grid, before an output grid. */
  readonly input: string;
  readonly output: string;
  /** Behind an output grid: where the model stops. One that `readGrid` ends at. */
  readonly end: string;
  /** Behind a demonstration. */
  readonly separator: string;
  /** Between two cells. */
  readonly gap: string;
}

/**
 * Grids as in the published self-edit prompt, `#` behind outputs as in its training texts, in the order of those: instruction,
 * demonstrations, test input, output. No chat marks: the text is the same for every model.
 */
export const ARC_FORM: Readonly<ArcForm> = {
  instruction:
    'Find the rule that turns each input grid into its output grid, and apply it to the last input. The answer has the form of the examples.\n\n',
  input: 'Input:\n',
  output: '\nOutput:\n',
  end: '#',
  separator: '\n\n',
  gap: ' ',
};

/** Text of demonstrations, for the prompt of an edit: no instruction, no marks of the end. */
export function demonstrationsText(demonstrations: readonly ArcPair[], form: ArcForm = ARC_FORM): string {
  return demonstrations
    .map(({ input, output }) => pairText(input, form) + gridText(output, form.gap))
    .join(form.separator);
}

/** What a model is asked: everything up to the output that is wanted. */
export function promptText({ demonstrations, input }: ArcProblem, form: ArcForm = ARC_FORM): string {
  const shown = demonstrations.map(
    (pair) => pairText(pair.input, form) + answerText(pair.output, form) + form.separator,
  );
  return form.instruction + shown.join('') + pairText(input, form);
}

/** What it is to answer. */
export function answerText(output: Grid, { gap, end }: ArcForm = ARC_FORM): string {
  return gridText(output, gap) + end;
}

function pairText(input: Grid, { input: before, output: between, gap }: ArcForm): string {
  return before + gridText(input, gap) + between;
}
