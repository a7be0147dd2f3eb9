/**
 * Knowledge incorporation (SEAL): the model reads a passage, writes an edit, and the edited model answers questions
 * about the passage without seeing it.
 */
import { DEFAULT_TASK } from '../edit/prompts.js';
import { makeError } from '../errors.js';
import { deriveKey, permutation } from '../random.js';
import { KNOWLEDGE_AUGMENTATIONS } from './augmentations.js';
import type { Passage } from './passages.js';
import { passesOver } from './passes.js';
import type { Question, Task, TaskContext } from './task.js';

export interface KnowledgeOptions {
  /** Seed of every split and order. */
  seed: number | bigint;
  /** Share of a passage's questions that pay reward; the others only report. At least one question pays. */
  payingShare: number;
  /** Passages kept unseen for the evaluation at the end. */
  evaluation: number;
  /** Passages kept unseen as retention texts. */
  retention: number;
  /** Most passages to train on; undefined: all the others. */
  training?: number | undefined;
  /** Description of the task, for `{task}`. */
  description: string;
  /** Retention texts of the caller's own, instead of held-out passages. */
  retentionTexts?: readonly string[] | undefined;
}

export const KNOWLEDGE_DEFAULTS: Readonly<KnowledgeOptions> = {
  seed: 0,
  payingShare: 0.5,
  evaluation: 0,
  retention: 4,
  description: DEFAULT_TASK,
};

/**
 * The task over `passages`. Which passages are trained on, evaluated or kept as retention texts, and which questions
 * pay, is drawn by key from the seed; a passage has one role only, and equal passages count as one.
 * Throws `INPUT_INVALID` when there are too few passages.
 */
export function knowledge(passages: readonly Passage[], given: Partial<KnowledgeOptions> = {}): Task {
  const options = { ...KNOWLEDGE_DEFAULTS, ...given };
  checkOptions(options);
  const distinct = [...new Map(passages.map((passage) => [passage.context.trim(), passage])).values()];
  const order = permutation(deriveKey(options.seed, 'split', []), distinct.length);
  const withQuestions = Array.from(order).filter((index) => distinct[index]!.questions.length > 0);
  const bare = Array.from(order).filter((index) => distinct[index]!.questions.length === 0);

  const evaluationIndices = withQuestions.splice(0, options.evaluation);
  // Passages without questions are good for nothing but retention.
  const wanted = options.retentionTexts ? 0 : options.retention;
  const retentionIndices = bare.splice(0, wanted);
  retentionIndices.push(...withQuestions.splice(0, wanted - retentionIndices.length));
  const trainingIndices = withQuestions.slice(0, options.training);
  if (trainingIndices.length === 0 || evaluationIndices.length < options.evaluation) {
    throw makeError(
      'INPUT_INVALID',
      `${distinct.length} distinct passages (${distinct.length - bare.length - retentionIndices.length} with questions) ` +
        `are too few; expected more than ${options.evaluation} for evaluation and ${wanted} for retention`,
    );
  }
  const training = trainingIndices.map((index) => toContext(distinct[index]!, index, options, true));
  return {
    name: 'knowledge',
    evaluation: evaluationIndices.map((index) => toContext(distinct[index]!, index, options, false)),
    augmentations: KNOWLEDGE_AUGMENTATIONS,
    retention: options.retentionTexts ?? retentionIndices.map((index) => distinct[index]!.context.trim()),
    contexts: passesOver(training, options.seed, 'pass'),
  };
}

function toContext(passage: Passage, index: number, options: KnowledgeOptions, pays: boolean): TaskContext {
  const questions = passage.questions.map(
    ({ question, answers }, position): Question => ({ id: `${index}.${position}`, question, answers }),
  );
  const count = pays ? Math.max(1, Math.round(options.payingShare * questions.length)) : 0;
  const order = permutation(deriveKey(options.seed, 'paying', [index]), questions.length);
  const chosen = new Set(order.subarray(0, count));
  // Two questions of the same wording must not end up on both sides.
  const wordings = new Set(Array.from(chosen, (at) => questions[at]!.question.trim()));
  return {
    id: String(index),
    title: passage.title,
    context: passage.context.trim(),
    task: options.description,
    paying: questions.filter((_, at) => chosen.has(at)),
    report: questions.filter(({ question }, at) => !chosen.has(at) && !wordings.has(question.trim())),
  };
}

function checkOptions(options: KnowledgeOptions): void {
  const { payingShare } = options;
  if (!(payingShare > 0 && payingShare <= 1)) {
    throw makeError('OPTION_INVALID', `payingShare is ${payingShare}; expected more than 0 and at most 1`);
  }
  for (const name of ['evaluation', 'retention'] as const) {
    const value = options[name];
    if (Number.isInteger(value) && value >= 0) continue;
    throw makeError('OPTION_INVALID', `${name} is ${value}; expected a whole number of at least 0`);
  }
}
