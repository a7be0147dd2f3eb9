/** The edit of the few-shot task: directives that say which training problems are made and how a copy is trained on them. */
import type { AdaptOptions } from '../../adapt.js';
import { DIRECTIVE_DEFAULTS, type DirectiveBounds, type Directives } from '../../edit/directives.js';
import type { TrainingDocument } from '../../edit/documents.js';
import type { TextEdit } from '../../edit/edit.js';
import type { EditTemplate } from '../../edit/prompts.js';
import { readDirectives } from '../../edit/read-directives.js';
import { ARC_AUGMENTATION_NAMES, type ArcAugmentation } from './augment.js';
import { type ExampleOptions, trainingProblems } from './examples.js';
import { ARC_FORM, type ArcForm, answerText, promptText, type SolvedProblem } from './problems.js';
import type { ArcPair } from './read.js';

/**
 * The inner loop of the published few-shot domain, for `adapt`. Learning rate and epochs are those of its fixed baseline
 * (test-time training); an edit names its own.
 */
export const ARC_ADAPT = {
  rank: 128,
  alpha: 16,
  targets: ['q_proj', 'v_proj', 'gate_proj', 'up_proj', 'down_proj'],
  batchSize: 2,
  learningRate: 1e-4,
  epochs: 2,
  schedule: 'cosine',
  warmupSteps: 11,
} as const satisfies Partial<AdaptOptions>;

/** Most steps of the inner loop; as published, an edit that asks for more is refused. */
export const ARC_MOST_STEPS = 375;

const EXAMPLE = JSON.stringify({
  data_generation: {
    use_basic_augmentations: true,
    use_size_augmentations: false,
    use_chain_augmentations: false,
    use_repeat_augmentations: false,
  },
  training: { strategy: 'train_using_output_tokens', learning_rate: 0.0001, num_train_epochs: 2 },
});
const CHOICES =
  'Choose for each of basic augmentations (rotations, flips, reflections, shifts), size augmentations (cells doubled), chain ' +
  'augmentations (both, one after the other) and repeat augmentations (the grid several times) whether training problems are ' +
  'made by them; whether all tokens or the output tokens alone are trained on ("train_using_all_tokens" or ' +
  '"train_using_output_tokens"); a learning rate; and a number of epochs.';

/** Asks for directives in the published JSON form. */
export const ARC_TEMPLATE: EditTemplate = {
  name: 'arc',
  base: `{task}\n\nTask {title}\n{context}\n\n${CHOICES}\n\nExample of a JSON object:\n${EXAMPLE}\n\nJSON object:\n`,
  chat: {
    system: 'You choose how a model is trained to solve a puzzle. {task}',
    user: `Puzzle {title}\n{context}\n\n${CHOICES}\nAnswer with one JSON object such as ${EXAMPLE} and nothing else.`,
  },
  opening: '{"data_generation": {',
};

export interface ArcEditOptions {
  /** Which training problems are made. */
  examples: Partial<Omit<ExampleOptions, 'augmentations' | 'key'>>;
  form: ArcForm;
  /** Epochs and documents a step of a run, for edits that name none. */
  adapt: Pick<AdaptOptions, 'epochs' | 'batchSize'>;
  /** Most steps of the inner loop. */
  mostSteps: number;
  /** Bounds of the directives. */
  bounds: Partial<DirectiveBounds>;
  /** Layers of the model, as bounds of `directives.layers`. */
  layers?: number | undefined;
  /** What the prompt put into the model's mouth; it is part of the edit. */
  opening: string;
}

export const ARC_EDIT_DEFAULTS: Readonly<ArcEditOptions> = {
  examples: {},
  form: ARC_FORM,
  adapt: ARC_ADAPT,
  mostSteps: ARC_MOST_STEPS,
  bounds: { required: true },
  opening: '',
};

/**
 * The edit that a text of directives is, for the task with these demonstrations: its documents are the training problems,
 * the same for the same key and switches. Invalid, with the reason: directives that cannot be read or are out of bounds; more
 * steps than `mostSteps`, counted as ⌊epochs · problems / batch size⌋.
 */
export function arcEdit(
  text: string,
  demonstrations: readonly ArcPair[],
  key: bigint,
  given: Partial<ArcEditOptions> = {},
): TextEdit {
  const { bounds, layers, mostSteps, adapt, opening, ...rest } = { ...ARC_EDIT_DEFAULTS, ...given };
  const read = readDirectives(
    // A model that repeats the opening by itself does not get it twice.
    text.trimStart().startsWith(opening.trim()) ? text : opening + text,
    { ...DIRECTIVE_DEFAULTS, ...bounds },
    {
      augmentations: ARC_AUGMENTATION_NAMES,
      ...(layers ? { layers } : {}),
    },
  );
  if ('invalid' in read) {
    return { kind: 'text', text, documents: [], invalid: read.invalid, detail: read.detail };
  }
  const directives = read.directives ?? {};
  const documents = arcDocuments(demonstrations, key, directives, rest);
  const epochs = directives.epochs ?? adapt.epochs;
  const steps = Math.floor((epochs * documents.length) / adapt.batchSize);
  const edit = { kind: 'text', text, directives } as const;
  if (steps <= mostSteps) return { ...edit, documents };
  const detail = `${epochs} epochs of ${documents.length} training problems are ${steps} steps; expected at most ${mostSteps}`;
  return { ...edit, documents: [], invalid: 'directives-out-of-bounds', detail };
}

/** The training documents that directives ask for: problems with their outputs, marked where the outputs alone bear loss. */
export function arcDocuments(
  demonstrations: readonly ArcPair[],
  key: bigint,
  { augmentations = [], loss = 'all' }: Pick<Directives, 'augmentations' | 'loss'>,
  { examples = {}, form = ARC_FORM }: Partial<Pick<ArcEditOptions, 'examples' | 'form'>> = {},
): TrainingDocument[] {
  const names = augmentations as readonly ArcAugmentation[];
  return trainingProblems(demonstrations, { ...examples, augmentations: names, key }).map((problem) =>
    toDocument(problem, loss, form),
  );
}

function toDocument(problem: SolvedProblem, loss: 'all' | 'output', form: ArcForm): TrainingDocument {
  const prompt = promptText(problem, form);
  const text = prompt + answerText(problem.output, form);
  return loss === 'all' ? text : { text, spans: [[prompt.length, text.length]] };
}
