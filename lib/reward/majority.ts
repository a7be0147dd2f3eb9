/**
 * Answers without a right answer: the model votes. The most frequent of its own samples is the pseudo-label (self-rewarded training,
 * SRT, arXiv 2505.21444; Wang et al. 2022 for the vote).
 */
import type { PromptForm } from '../edit/prompts.js';
import { makeError } from '../errors.js';
import type { Fork } from '../fork.js';
import { generate } from '../generate.js';
import type { Model } from '../model.js';
import type { CallOptions } from '../native-job.js';
import { deriveKey } from '../random.js';
import { wholeNumber } from '../round.js';
import type { TokenInput } from '../rows.js';
import type { Question, TaskContext } from '../task/task.js';
import { normalizeAnswer } from './normalize.js';
import { QUESTION_TEMPLATE, type QuestionTemplate, renderQuestion } from './question.js';

/** A question to one fork: a ready prompt, or a title and a question, asked as `ask` does. */
export type VoteRow = {
  readonly fork: Fork | Model;
  /** Names the row's draws: equal ids, forks and prompts give equal samples, whatever else is in the call. The row's index. */
  readonly id?: string;
} & (
  | { readonly prompt: TokenInput }
  | {
      readonly title: string;
      readonly question: string;
      /** Shown above the question: the voter answers with the book open. */
      readonly passage?: string | undefined;
    }
);

export interface MajorityOptions extends CallOptions {
  /** Samples of each question. 32. */
  samples?: number;
  /** 1. */
  temperature?: number;
  /** 1 (off). */
  topP?: number;
  /** Most tokens of an answer. 64. */
  maxTokens?: number;
  /** Strings that end an answer. A line's end. */
  stop?: readonly string[];
  form?: PromptForm;
  template?: QuestionTemplate;
  seed?: number | bigint;
  /** Finds the answer in what was written; undefined where there is none, as for a text without letters and digits. The whole text. */
  read?: (text: string) => string | undefined;
  /** The form in which answers are compared. That of SQuAD, which takes 1.5 for 15: replace it for numbers. */
  normalize?: (answer: string) => string;
}

/** Samples that agree. */
export interface VoteGroup {
  /** Their most frequent wording; of equally frequent ones the first. */
  readonly answer: string;
  readonly normalized: string;
  readonly count: number;
}

export interface Vote {
  /** The pseudo-label: the answer of the largest group, of equally large ones the first sampled; undefined without any answer. */
  readonly label: string | undefined;
  /** Share of all samples that agree with it, those without an answer included; 0 without a label. */
  readonly agreement: number;
  /** Entropy of the vote over its groups, nats: 0 for one voice, log(samples) where all differ. NaN without a label. */
  readonly entropy: number;
  /** Largest first. */
  readonly groups: readonly VoteGroup[];
  /** Samples that hold no answer. */
  readonly unanswered: number;
  /** What was sampled, in sample order. */
  readonly texts: readonly string[];
  /** SRT's reward of each sample: 1 if it agrees with the label, else 0. */
  readonly rewards: readonly number[];
}

/** Votes of many questions in one native call, in row order. Errors: those of `generate`. */
export async function majority(rows: readonly VoteRow[], options: MajorityOptions = {}): Promise<Vote[]> {
  if (rows.length === 0) return [];
  const { temperature = 1, topP = 1, maxTokens = 64, stop = ['\n'], signal, onProgress } = options;
  const samples = wholeNumber('samples', options.samples ?? 32, 1);
  if (!(temperature > 0)) {
    throw makeError('OPTION_INVALID', `temperature is ${temperature}; expected a positive number`);
  }
  const written = await generate(
    rows.map((row, index) => ({
      fork: row.fork,
      prompt: promptOf(row, options),
      samples,
      seed: deriveKey(options.seed ?? 0, `vote ${row.id ?? index}`),
    })),
    { temperature, topP, maxTokens, stop, signal, onProgress },
  );
  return rows.map((_, index) =>
    count(
      written.slice(index * samples, (index + 1) * samples).map(({ text }) => text),
      options,
    ),
  );
}

function promptOf(
  row: VoteRow,
  { form = 'auto', template = QUESTION_TEMPLATE }: MajorityOptions,
): TokenInput {
  if ('prompt' in row) return row.prompt;
  const { fork, title, question, passage } = row;
  const { tokenizer } = 'model' in fork ? fork.model : fork;
  const asked = passage === undefined ? question : `${passage.trim()}\n\n${question}`;
  return renderQuestion({ title, question: asked }, tokenizer, form, template);
}

/** @internal The vote of these samples. */
export function count(
  texts: readonly string[],
  { read = (text) => text, normalize = normalizeAnswer }: Pick<MajorityOptions, 'read' | 'normalize'> = {},
): Vote {
  const answers = texts.map((text) => read(text)?.trim() ?? '');
  // "A" of a multiple choice is an answer, though to SQuAD it is an article.
  const normal = answers.map((answer) =>
    /[\p{L}\p{N}]/u.test(answer) ? normalize(answer) || lettersOf(answer) : '',
  );
  const byForm = new Map<string, string[]>();
  for (const [index, key] of normal.entries()) {
    if (key === '') continue;
    const own = byForm.get(key);
    if (own) own.push(answers[index]!);
    else byForm.set(key, [answers[index]!]);
  }
  // The sort is stable: of equal groups the first sampled stays first.
  const groups = [...byForm]
    .map(([normalized, own]) => ({ answer: mostFrequent(own), normalized, count: own.length }))
    .sort((left, right) => right.count - left.count);
  const voters = groups.reduce((sum, group) => sum + group.count, 0);
  const [first] = groups;
  return {
    label: first?.answer,
    agreement: first ? first.count / texts.length : 0,
    entropy: first ? entropyOf(groups.map((group) => group.count / voters)) : Number.NaN,
    groups,
    unanswered: texts.length - voters,
    texts,
    rewards: normal.map((key) => (first && key === first.normalized ? 1 : 0)),
  };
}

const lettersOf = (text: string) =>
  text
    .toLowerCase()
    .replace(/[^\p{L}\p{N}]+/gu, ' ')
    .trim();

function mostFrequent(texts: readonly string[]): string {
  const counts = new Map<string, number>();
  for (const text of texts) counts.set(text, (counts.get(text) ?? 0) + 1);
  return [...counts].reduce((best, entry) => (entry[1] > best[1] ? entry : best))[0];
}

/** @internal −Σ p log p, nats. */
export function entropyOf(shares: readonly number[]): number {
  return shares.reduce((sum, share) => (share > 0 ? sum - share * Math.log(share) : sum), 0);
}

export interface LabelOptions extends MajorityOptions {
  /** Shows the voter the context's passage: what it can read, it need not know. false. */
  openBook?: boolean;
  /** `missing`: only questions without an answer get a label; `paying`: all that pay do, as in SRT, which does not look. `missing`. */
  replace?: 'missing' | 'paying';
  /** Questions whose label fewer samples agree with are left out. 0. */
  leastAgreement?: number;
}

/** The vote on one question. */
export interface QuestionVote extends Vote {
  readonly context: string;
  /** Id of the question. */
  readonly id: string;
  readonly question: string;
}

export interface Labelled {
  /** Their answers to voted questions are the pseudo-labels. A context that is left without a paying question is not among them. */
  readonly contexts: readonly TaskContext[];
  readonly votes: readonly QuestionVote[];
  /** Questions left out: nobody answered, or too few agreed. */
  readonly unlabelled: number;
  /** Ids of contexts left out. */
  readonly dropped: readonly string[];
}

/**
 * Contexts whose questions have answers: the model's own majority votes stand in for those that are missing. One native call. Errors:
 * those of `majority`, and `OPTION_INVALID`.
 */
export async function majorityLabels(
  voter: Fork | Model,
  contexts: readonly TaskContext[],
  options: LabelOptions = {},
): Promise<Labelled> {
  const { openBook = false, replace = 'missing', leastAgreement = 0 } = options;
  if (replace !== 'missing' && replace !== 'paying') {
    throw makeError('OPTION_INVALID', `replace is "${String(replace)}"; expected missing or paying`);
  }
  if (!(leastAgreement >= 0 && leastAgreement <= 1)) {
    throw makeError('OPTION_INVALID', `leastAgreement is ${leastAgreement}; expected a share in [0, 1]`);
  }
  const open = contexts.flatMap((context) => [
    ...context.paying
      .filter(({ answers }) => replace === 'paying' || answers.length === 0)
      .map((question) => ({ context, question })),
    ...context.report
      .filter(({ answers }) => answers.length === 0)
      .map((question) => ({ context, question })),
  ]);
  const found = await majority(
    open.map(({ context, question }) => ({
      fork: voter,
      id: JSON.stringify([context.id, question.id]),
      title: context.title,
      question: question.question,
      passage: openBook ? context.context : undefined,
    })),
    options,
  );
  const byQuestion = new Map(open.map(({ question }, index) => [question, found[index]!]));
  const labelled = (questions: readonly Question[]) =>
    questions.flatMap((question) => {
      const vote = byQuestion.get(question);
      if (!vote) return [question];
      if (vote.label === undefined || vote.agreement < leastAgreement) return [];
      return [{ ...question, answers: [vote.label] }];
    });
  const all = contexts.map((context) => ({
    ...context,
    paying: labelled(context.paying),
    report: labelled(context.report),
  }));
  return {
    contexts: all.filter(({ paying }, index) => paying.length > 0 || contexts[index]!.paying.length === 0),
    votes: open.map(({ context, question }, index) => ({
      ...found[index]!,
      context: context.id,
      id: question.id,
      question: question.question,
    })),
    unlabelled: found.filter(({ label, agreement }) => label === undefined || agreement < leastAgreement)
      .length,
    dropped: all
      .filter(({ paying }, index) => paying.length === 0 && contexts[index]!.paying.length > 0)
      .map(({ id }) => id),
  };
}
