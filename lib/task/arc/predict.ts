/** Predictions: every problem is answered under every view of it, what comes back is undone and voted on. */
import type { Fork } from '../../fork.js';
import { generate } from '../../generate.js';
import { Model } from '../../model.js';
import type { CallOptions } from '../../native-job.js';
import { deriveKey, permutation } from '../../random.js';
import { type Grid, LARGEST_GRID, readGrid, sizeOf } from './grids.js';
import {
  ARC_FORM,
  type ArcForm,
  type ArcProblem,
  answerText,
  type ProblemView,
  promptText,
  viewProblem,
} from './problems.js';
import {
  colourPermutation,
  IDENTITY_TRANSFORM,
  inverseTransform,
  SAME_COLOURS,
  SYMMETRIES,
  type Symmetry,
  transformGrid,
} from './transforms.js';
import { type Ballot, type Candidate, countVotes } from './vote.js';

/** Under which views a problem is answered. */
export interface ViewOptions {
  /** All eight by default. */
  symmetries: readonly Symmetry[];
  /** Views a symmetry: the first with the colours and the order as they are, the others with keyed ones. 1. */
  copies: number;
  /** Whether colour permutations move black (0). false. */
  moveBlack: boolean;
}

export const VIEW_DEFAULTS: Readonly<ViewOptions> = { symmetries: SYMMETRIES, copies: 1, moveBlack: false };

/** The problem as it is. */
export const IDENTITY_VIEW: ProblemView = { transform: IDENTITY_TRANSFORM };

/** The views of a problem with `count` demonstrations; the first symmetry's plain one comes first. */
export function viewsOf(count: number, key: bigint, given: Partial<ViewOptions> = {}): ProblemView[] {
  const { symmetries, copies, moveBlack } = { ...VIEW_DEFAULTS, ...given };
  return Array.from({ length: copies }, (_, copy) => copy).flatMap((copy) =>
    symmetries.map((symmetry, index): ProblemView => {
      if (copy === 0) return { transform: { symmetry, colours: SAME_COLOURS } };
      const own = deriveKey(key, 'view', [copy, index]);
      return {
        transform: { symmetry, colours: colourPermutation(deriveKey(own, 'colours'), { moveBlack }) },
        order: Array.from(permutation(deriveKey(own, 'order'), count)),
      };
    }),
  );
}

/** A problem put to a fork. */
export interface PredictRow {
  readonly fork: Fork | Model;
  readonly problem: ArcProblem;
  readonly views: readonly ProblemView[];
}

export interface Prediction {
  /** One a view, in the order of the views. */
  readonly ballots: readonly Ballot[];
  /** Distinct grids, the most voted one first. */
  readonly candidates: readonly Candidate[];
  /** The first two of them, or fewer. */
  readonly attempts: readonly Grid[];
}

/** Attempts that count, as in the ARC Prize. */
const ATTEMPTS = 2;

/**
 * Predictions for problems on forks of one model: greedy, all views of all rows in one native call. A prompt that does not
 * fit the model's context loses its last demonstrations; one that does not fit even without any gives no ballot.
 * Progress counts views.
 */
export async function predictGrids(
  rows: readonly PredictRow[],
  { form = ARC_FORM, ...call }: CallOptions & { form?: ArcForm } = {},
): Promise<Prediction[]> {
  const asked = rows.flatMap(({ fork, problem, views }, row) =>
    views.map((view) => ({ row, fork, view, seen: viewProblem(problem, view) })),
  );
  const prompts = asked.map(({ fork, seen }) => fittingPrompt(modelOf(fork), seen, form));
  const fitting = asked.flatMap(({ fork }, index) => {
    const prompt = prompts[index];
    return prompt === undefined ? [] : [{ index, fork, prompt: prompt.tokens, maxTokens: prompt.room }];
  });
  const written = await generate(fitting, { ...call, temperature: 0, stop: [form.end] });
  const ballots: Ballot[] = asked.map(() => ({ grid: undefined }));
  for (const [at, { text, logprobs }] of written.entries()) {
    const { index } = fitting[at]!;
    const grid = readGrid(text);
    if (grid === undefined) continue;
    const undone = transformGrid(grid, inverseTransform(asked[index]!.view.transform));
    const total = logprobs.reduce((sum, value) => sum + value, 0);
    ballots[index] = { grid: undone, confidence: total / logprobs.length };
  }
  let next = 0;
  return rows.map(({ views }) => {
    const own = ballots.slice(next, next + views.length);
    next += views.length;
    const candidates = countVotes(own);
    return { ballots: own, candidates, attempts: candidates.slice(0, ATTEMPTS).map(({ grid }) => grid) };
  });
}

/** @internal Tokens of a problem's prompt and the room its answer gets; undefined when the context cannot hold it. */
export function fittingPrompt(
  { tokenizer, config }: Model,
  problem: ArcProblem,
  form: ArcForm,
): { tokens: Int32Array; room: number } | undefined {
  const room =
    tokenizer.encode(answerText(largestAnswer(problem), form), { specialTokens: false }).length + 4;
  for (let count = problem.demonstrations.length; count >= 0; count--) {
    const shown = { ...problem, demonstrations: problem.demonstrations.slice(0, count) };
    const tokens = tokenizer.encode(promptText(shown, form));
    if (tokens.length + room <= config.maxPositions) return { tokens, room };
  }
  return undefined;
}

// As high and as wide as an output of the demonstrations, or in the largest proportion to the input that they show.
function largestAnswer({ demonstrations, input }: ArcProblem): Grid {
  const sides = ([0, 1] as const).map((axis) => {
    const own = sizeOf(input)[axis];
    const likely = demonstrations.map((pair) => {
      const output = sizeOf(pair.output)[axis];
      return Math.max(output, Math.ceil((output / sizeOf(pair.input)[axis]) * own));
    });
    return Math.min(LARGEST_GRID, Math.max(own, ...likely));
  });
  return Array.from({ length: sides[0]! }, () => new Array<number>(sides[1]!).fill(0));
}

/** @internal */
export function modelOf(fork: Fork | Model): Model {
  return fork instanceof Model ? fork : fork.model;
}
