/**
 * A stream of contexts on one model: an edit a context, each on top of all earlier ones, the scores of all contexts after
 * every edit, and what keeps the earlier ones: a choice among candidates by gain − λ · forgetting (SCoL, arXiv
 * 2605.07076), a gate that scales or refuses an edit, replay of earlier documents, training apart or all together.
 */
import type { Applicable, InnerOptions } from './edit/apply.js';
import { passageOnly } from './edit/parse.js';
import { makeError } from './errors.js';
import type { Fork } from './fork.js';
import { askApart } from './reward/ask-forks.js';
import { askOptions, examinedOptions, type RewardOptions } from './reward/options.js';
import { meanScore } from './reward/scores.js';
import { type GateAttempt, type GateOptions, gateOptions } from './stream-gate.js';
import { Stream, type StreamPlan, takeStep } from './stream-step.js';
import type { TaskContext } from './task/task.js';

/** Where in the streams an edit belongs. */
export interface StreamPlace {
  readonly sequence: number;
  readonly step: number;
}

export interface StreamOptions {
  /** What the first edits are applied to; not changed. */
  parent: Fork;
  /** One list a stream. All streams take their next step together, each on its own fork. */
  sequences: readonly (readonly TaskContext[])[];
  /**
   * Candidates for an edit, at least one, given the fork with all earlier edits of its stream; the passage alone when
   * absent. They are closed once they have been applied or dropped.
   */
  edit?: (
    fork: Fork,
    context: TaskContext,
    place: StreamPlace,
  ) => readonly Applicable[] | Promise<readonly Applicable[]>;
  /** Constants of the inner loop. */
  adapt?: InnerOptions;
  /**
   * What an edit is trained on: the `stream`, the model with all earlier edits; the `parent`, to which the deltas of all
   * edits are added; or `joint`: the parent, by the documents of all edits so far, in the place of all earlier deltas
   * (continued pretraining after every step, n times the work). `stream`.
   */
  trainOn?: 'stream' | 'parent' | 'joint';
  /** Every delta is multiplied by this. 1. */
  scale?: number;
  /** Documents of earlier edits that are mixed into the training of each edit, drawn by key. 0. */
  replay?: number;
  /** λ of the choice among several candidates: the best by gain − λ · forgetting on the paying questions. 0. */
  forgetting?: number;
  /** Refuses or scales edits that cost more than they bring; off when absent. */
  gate?: Partial<GateOptions>;
  /** Texts of the gate's KL. */
  retention?: readonly (string | Int32Array)[];
  /** How questions are asked, and by which measure edits are chosen and gated. */
  reward?: Partial<RewardOptions>;
  seed?: number | bigint;
  signal?: AbortSignal;
  /** Called with the number of steps that are done. */
  onStep?: (done: number) => void;
}

/** A candidate on its own paying questions and on those of the earlier contexts. */
export interface StreamCandidate {
  readonly gain: number;
  /** Mean drop over the earlier contexts, a rise counting as 0. */
  readonly forgetting: number;
  /** gain − λ · forgetting; NaN, and never chosen, where it is unknown or there is nothing to apply. */
  readonly reward: number;
}

/** What happened at one step of a stream. */
export interface StreamStep {
  /** Id of the context. */
  readonly context: string;
  /** Where there were several candidates. */
  readonly candidates: readonly StreamCandidate[];
  /** Index of the candidate that was taken; absent where none could be. */
  readonly chosen?: number;
  /** Where there is a gate: the scales that it tried. */
  readonly attempts: readonly GateAttempt[];
  /** Multiple of the edit's delta that was applied; 0: none. */
  readonly scale: number;
  /** Documents of the training, those of earlier edits included, how many these are, and optimizer steps. */
  readonly documents: number;
  readonly replayed: number;
  readonly steps: number;
}

export interface StreamResult {
  /** Ids of the contexts. */
  readonly contexts: readonly string[];
  readonly steps: readonly StreamStep[];
  /**
   * By measure: scores[i][j], mean score on context j's questions after the first i edits, row 0 unedited. `paying` are
   * the questions that choice and gate look at, `report` the others; NaN where there are none or a score is unknown.
   */
  readonly scores: Readonly<Record<string, { readonly paying: number[][]; readonly report: number[][] }>>;
}

/**
 * Runs the streams and scores all their contexts after every step. Every draw is keyed by (seed, stream, step,
 * candidate); a stream's result depends on no other stream. Errors: `INPUT_INVALID` without streams or contexts, for a
 * context without the questions that are needed, or without a candidate; `OPTION_INVALID`; those of `adapt` and `ask`.
 */
export async function runStream(options: StreamOptions): Promise<StreamResult[]> {
  const plan = planOf(options);
  const streams = options.sequences.map((contexts, sequence) => new Stream(plan, contexts, sequence));
  try {
    await examine(streams, plan);
    const longest = Math.max(...options.sequences.map((contexts) => contexts.length));
    for (let step = 0; step < longest; step++) {
      const live = streams.filter(({ contexts }) => step < contexts.length);
      await takeStep(live, step, plan);
      await examine(live, plan);
      options.onStep?.(step + 1);
    }
    return streams.map(({ contexts, steps, scores }) => ({
      contexts: contexts.map(({ id }) => id),
      steps,
      scores,
    }));
  } finally {
    for (const { fork } of streams) await fork.close();
  }
}

function planOf(options: StreamOptions): StreamPlan {
  const { parent, sequences, scale = 1, replay = 0, forgetting = 0, seed = 0, signal } = options;
  const empty = sequences.findIndex((contexts) => contexts.length === 0);
  if (sequences.length === 0 || empty >= 0) {
    const what = sequences.length === 0 ? 'there is no stream' : `stream ${empty} has no context`;
    throw makeError('INPUT_INVALID', `${what}; expected at least one`);
  }
  const gate = options.gate && gateOptions(options.gate);
  for (const [sequence, contexts] of sequences.entries()) {
    for (const [step, { paying, report }] of contexts.entries()) {
      if (paying.length > 0 || (!gate && report.length > 0)) continue;
      const what = `context ${step} of stream ${sequence} has no ${gate ? 'paying ' : ''}question`;
      throw makeError('INPUT_INVALID', `${what}; expected at least one${gate ? ' for the gate' : ''}`);
    }
  }
  if (!Number.isFinite(scale))
    throw makeError('OPTION_INVALID', `scale is ${scale}; expected a finite number`);
  if (!(replay >= 0 && (Number.isInteger(replay) || replay === Number.POSITIVE_INFINITY))) {
    throw makeError('OPTION_INVALID', `replay is ${replay}; expected a whole number of documents, from 0`);
  }
  if (!(forgetting >= 0 && Number.isFinite(forgetting))) {
    throw makeError('OPTION_INVALID', `forgetting is ${forgetting}; expected a number of at least 0`);
  }
  const retention = options.retention ?? [];
  if (gate && gate.beta > 0 && retention.length === 0) {
    throw makeError(
      'OPTION_INVALID',
      'gate beta is set but there is no retention text; expected at least one',
    );
  }
  const reward = examinedOptions(options.reward);
  const { tokenizer } = parent.model;
  return {
    ...{ parent, scale, replay, forgetting, gate, seed, signal },
    edit: options.edit ?? ((_, context) => [passageOnly(context)]),
    adapt: options.adapt ?? {},
    trainOn: options.trainOn ?? 'stream',
    texts: retention.map((text) => (typeof text === 'string' ? tokenizer.encode(text) : text)),
    measure: reward.measure,
    own: reward.examine,
    asking: askOptions(reward, tokenizer, { signal }),
  };
}

/** Asks all contexts of the streams everything, and writes the next row of their matrices. */
async function examine(
  streams: readonly Stream[],
  { asking, measure, own: hook }: StreamPlan,
): Promise<void> {
  const answers = await askApart(
    streams.flatMap(({ fork, contexts }) => contexts.map((context) => ({ fork, context }))),
    asking,
    hook,
  );
  let next = 0;
  for (const stream of streams) {
    const own = answers.slice(next, next + stream.contexts.length);
    next += own.length;
    for (const [name, { paying, report }] of Object.entries(stream.scores)) {
      paying.push(own.map((answer) => meanScore(answer.paying, name)));
      report.push(own.map((answer) => meanScore(answer.report, name)));
    }
    stream.paying = own.map((answer) => meanScore(answer.paying, measure));
  }
}
