/**
 * A stream of contexts on one model: an edit a context, each on top of all earlier ones, the scores of all contexts after
 * every edit, and what keeps the earlier ones: a choice among candidates by gain − λ · forgetting (SCoL, arXiv
 * 2605.07076), a gate that scales or refuses an edit, replay of earlier documents, training apart or all together.
 */
import {
  type Applicable,
  applyEdits,
  type EditedFork,
  type InnerOptions,
  type Trainable,
} from './edit/apply.js';
import type { TrainingDocument } from './edit/documents.js';
import { passageOnly } from './edit/parse.js';
import type { WeightEdit } from './edit/weight.js';
import { isOverflow, makeError } from './errors.js';
import type { Fork } from './fork.js';
import { deriveKey, permutation } from './random.js';
import { meanDivergence } from './reward/evaluate.js';
import { askApart, examinedOptions } from './reward/forgetting.js';
import type { AskOptions } from './reward/measure.js';
import { askOptions, type RewardOptions, weightsOf } from './reward/options.js';
import { dropsOf, meanScore } from './reward/scores.js';
import { best, type GateAttempt, type GateOptions, gateOptions, judge } from './stream-gate.js';
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

interface Plan {
  readonly parent: Fork;
  readonly edit: NonNullable<StreamOptions['edit']>;
  readonly adapt: InnerOptions;
  readonly trainOn: 'stream' | 'parent' | 'joint';
  readonly scale: number;
  readonly replay: number;
  readonly forgetting: number;
  readonly gate: GateOptions | undefined;
  readonly texts: readonly Int32Array[];
  readonly measure: RewardOptions['measure'];
  readonly asking: AskOptions;
  /** How the task examines. */
  readonly own: RewardOptions['examine'];
  readonly seed: number | bigint;
  readonly signal: AbortSignal | undefined;
}

function planOf(options: StreamOptions): Plan {
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

/** One stream on its way: its fork, what has been trained on, and what was measured. */
class Stream {
  fork: Fork;
  readonly steps: StreamStep[] = [];
  readonly scores: Record<string, { paying: number[][]; report: number[][] }>;
  /** Documents of the edits that were applied. */
  readonly documents: TrainingDocument[] = [];
  /** Mean scores on the paying questions of all contexts, as the fork is now. */
  paying: readonly number[] = [];

  constructor(
    plan: Plan,
    readonly contexts: readonly TaskContext[],
    readonly sequence: number,
  ) {
    this.fork = plan.parent.fork();
    this.scores = Object.fromEntries(plan.asking.measures.map((name) => [name, { paying: [], report: [] }]));
  }
}

/** Asks all contexts of the streams everything, and writes the next row of their matrices. */
async function examine(streams: readonly Stream[], { asking, measure, own: hook }: Plan): Promise<void> {
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

/** A candidate, trained. */
interface Trial {
  readonly stream: Stream;
  readonly own: readonly TrainingDocument[];
  readonly documents: number;
  readonly copy: EditedFork;
}

/** Makes the next edit of every stream. */
async function takeStep(streams: readonly Stream[], step: number, plan: Plan): Promise<void> {
  const trials = await trainCandidates(streams, step, plan);
  try {
    const chosen = await choose(streams, trials, step, plan);
    const decisions = await decide(chosen, step, plan);
    for (const [index, stream] of streams.entries()) {
      const { trial, candidates, at } = chosen[index]!;
      const { scale, attempts } = decisions[index]!;
      if (trial && scale !== 0) {
        const before = stream.fork;
        stream.fork = applied(trial, scale, plan);
        await before.close();
        stream.documents.push(...trial.own);
      }
      stream.steps.push({
        context: stream.contexts[step]!.id,
        candidates,
        ...(at === undefined ? {} : { chosen: at }),
        attempts,
        scale,
        documents: trial?.documents ?? 0,
        replayed: trial ? trial.documents - trial.own.length : 0,
        steps: trial?.copy.loss.length ?? 0,
      });
    }
  } finally {
    for (const { copy } of trials) await copy.close();
  }
}

async function trainCandidates(streams: readonly Stream[], step: number, plan: Plan): Promise<Trial[]> {
  const { parent, trainOn, seed, signal } = plan;
  const planned: (Omit<Trial, 'copy'> & { item: Exclude<Applicable, Trainable> })[] = [];
  for (const stream of streams) {
    const { fork, contexts, sequence } = stream;
    const candidates = await plan.edit(fork, contexts[step]!, { sequence, step });
    if (candidates.length === 0) {
      throw makeError(
        'INPUT_INVALID',
        `no edit for context ${step} of stream ${sequence}; expected at least one`,
      );
    }
    const earlier = earlierDocuments(stream, step, plan);
    for (const [candidate, one] of candidates.entries()) {
      const item = 'edit' in one ? one : { edit: one as Trainable, seed: one.seed };
      const key = item.seed ?? deriveKey(seed, 'stream', [sequence, step, candidate]);
      const { edit } = item;
      const own = 'delta' in edit ? [] : edit.documents;
      const more = 'delta' in edit || edit.invalid || own.length === 0 ? [] : earlier;
      const mixed: Trainable | WeightEdit =
        'delta' in edit ? edit : { ...edit, documents: [...more, ...own] };
      planned.push({
        stream,
        own,
        documents: own.length + more.length,
        item: { ...item, edit: mixed, seed: key },
      });
    }
  }
  const copies = await applyEdits(
    planned.map(({ stream }) => (trainOn === 'stream' ? stream.fork : parent)),
    planned.map(({ item }) => item),
    { ...plan.adapt, signal },
  );
  return planned.map(({ item, ...trial }, index) => ({ ...trial, copy: copies[index]! }));
}

function earlierDocuments(
  { documents, sequence }: Stream,
  step: number,
  plan: Plan,
): readonly TrainingDocument[] {
  if (plan.trainOn === 'joint' || plan.replay >= documents.length) return documents.slice();
  const order = permutation(deriveKey(plan.seed, 'replay', [sequence, step]), documents.length);
  return Array.from(order.subarray(0, plan.replay), (index) => documents[index]!);
}

interface Choice {
  readonly trial?: Trial;
  readonly at?: number;
  readonly candidates: readonly StreamCandidate[];
}

/** The candidate of each stream that is the best by gain − λ · forgetting; a single one is taken unseen. */
async function choose(
  streams: readonly Stream[],
  trials: readonly Trial[],
  step: number,
  plan: Plan,
): Promise<Choice[]> {
  const groups = streams.map((stream) => trials.filter((trial) => trial.stream === stream));
  const compared = groups.flatMap((group) =>
    group.length > 1 ? group.filter(({ copy }) => copy.delta) : [],
  );
  const measured = await measureTrials(
    compared.map((trial) => ({ trial, scale: 1 })),
    step,
    plan,
  );
  return groups.map((group): Choice => {
    if (group.length === 1)
      return group[0]!.copy.delta ? { trial: group[0]!, at: 0, candidates: [] } : { candidates: [] };
    const candidates = group.map((trial): StreamCandidate => {
      const numbers = measured[compared.indexOf(trial)];
      if (!numbers) return { gain: Number.NaN, forgetting: Number.NaN, reward: Number.NaN };
      const { gain, drops } = numbers;
      const forgetting = drops.reduce((sum, drop) => sum + drop, 0) / Math.max(1, drops.length);
      return { gain, forgetting, reward: gain - (plan.forgetting === 0 ? 0 : plan.forgetting * forgetting) };
    });
    const at = best(candidates.map(({ reward }) => reward));
    return at === undefined ? { candidates } : { trial: group[at]!, at, candidates };
  });
}

/** Which multiple of each chosen edit is applied. */
async function decide(
  choices: readonly Choice[],
  step: number,
  plan: Plan,
): Promise<{ scale: number; attempts: GateAttempt[] }[]> {
  const { gate } = plan;
  if (!gate) return choices.map(({ trial }) => ({ scale: trial ? 1 : 0, attempts: [] }));
  const decisions = choices.map(() => ({ scale: 0, attempts: [] as GateAttempt[] }));
  for (const scale of gate.scales) {
    const open = choices.flatMap(({ trial }, index) =>
      trial && decisions[index]!.scale === 0 ? [{ trial, scale, decision: decisions[index]! }] : [],
    );
    for (const [index, numbers] of (await measureTrials(open, step, plan)).entries()) {
      const attempt = judge({ scale, ...numbers }, gate);
      const { decision } = open[index]!;
      decision.attempts.push(attempt);
      if (attempt.passed) decision.scale = scale;
    }
  }
  return decisions;
}

interface Measured {
  readonly gain: number;
  readonly drops: readonly number[];
  readonly kl: number;
}

/** What edits bring to the paying questions of their own context, and take from those of the earlier ones. */
async function measureTrials(
  rows: readonly { readonly trial: Trial; readonly scale: number }[],
  step: number,
  plan: Plan,
): Promise<Measured[]> {
  const forks = rows.map(({ trial, scale }) => applied(trial, scale, plan));
  try {
    const answers = await askApart(
      rows.flatMap(({ trial }, index) =>
        trial.stream.contexts
          .slice(0, step + 1)
          .map((context) => ({ fork: forks[index]!, context: { ...context, report: [] } })),
      ),
      { ...plan.asking, measures: weightsOf(plan).map(([name]) => name) },
      plan.own,
    );
    const measured: Measured[] = [];
    for (const [index, { trial }] of rows.entries()) {
      const own = answers.slice(index * (step + 1), (index + 1) * (step + 1));
      const after = own.map(({ paying }) => meanScore(paying, plan.measure));
      const before = trial.stream.paying;
      const gain = after[step]! - before[step]!;
      const drops = dropsOf(before.slice(0, step), after.slice(0, step), true);
      measured.push({ gain, drops, kl: await divergenceOf(forks[index]!, trial.stream.fork, plan) });
    }
    return measured;
  } finally {
    for (const fork of forks) await fork.close();
  }
}

async function divergenceOf(fork: Fork, before: Fork, { gate, texts, signal }: Plan): Promise<number> {
  if (!gate || gate.beta === 0) return Number.NaN;
  try {
    return (await meanDivergence([fork], before, texts, { signal }))[0]!;
  } catch (error) {
    if (isOverflow(error)) return Number.NaN;
    throw error;
  }
}

/** The stream's model with the edit. */
function applied({ stream, copy }: Trial, scale: number, { parent, trainOn, scale: every }: Plan): Fork {
  return (trainOn === 'joint' ? parent : stream.fork).fork().apply(copy.delta!, { scale: scale * every });
}
