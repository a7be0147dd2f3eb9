/** One step of streams: candidates are trained, the best is chosen, the gate decides, and what is left is applied. */
import {
  type Applicable,
  applyEdits,
  type EditedFork,
  type InnerOptions,
  type Trainable,
} from './edit/apply.js';
import type { TrainingDocument } from './edit/documents.js';
import type { WeightEdit } from './edit/weight.js';
import { isOverflow, makeError } from './errors.js';
import type { Fork } from './fork.js';
import { deriveKey, permutation } from './random.js';
import { askApart } from './reward/ask-forks.js';
import { meanDivergence } from './reward/evaluate.js';
import type { AskOptions } from './reward/measure.js';
import { type RewardOptions, weightsOf } from './reward/options.js';
import { dropsOf, meanScore } from './reward/scores.js';
import type { StreamCandidate, StreamOptions, StreamResult, StreamStep } from './stream.js';
import { best, type GateAttempt, type GateOptions, judge } from './stream-gate.js';
import type { TaskContext } from './task/task.js';

/** @internal Options of `runStream`, filled in. */
export interface StreamPlan {
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

/** @internal One stream on its way: its fork, what has been trained on, and what was measured. */
export class Stream {
  fork: Fork;
  readonly steps: StreamStep[] = [];
  readonly scores: StreamResult['scores'];
  /** Documents of the edits that were applied. */
  readonly documents: TrainingDocument[] = [];
  /** Mean scores on the paying questions of all contexts, as the fork is now. */
  paying: readonly number[] = [];

  constructor(
    plan: StreamPlan,
    readonly contexts: readonly TaskContext[],
    readonly sequence: number,
  ) {
    this.fork = plan.parent.fork();
    this.scores = Object.fromEntries(plan.asking.measures.map((name) => [name, { paying: [], report: [] }]));
  }
}

/** A candidate, trained. */
interface Trial {
  readonly stream: Stream;
  readonly own: readonly TrainingDocument[];
  readonly documents: number;
  readonly copy: EditedFork;
}

/** @internal Makes the next edit of every stream. */
export async function takeStep(streams: readonly Stream[], step: number, plan: StreamPlan): Promise<void> {
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

async function trainCandidates(streams: readonly Stream[], step: number, plan: StreamPlan): Promise<Trial[]> {
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
    checkCandidates(candidates, stream, step, plan);
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

function checkCandidates(
  candidates: readonly Applicable[],
  { contexts, sequence }: Stream,
  step: number,
  { trainOn, forgetting }: StreamPlan,
): void {
  const ready = candidates.some((one) => 'edit' in one && 'delta' in one.edit);
  if (ready && trainOn === 'joint') {
    throw makeError(
      'OPTION_INVALID',
      `the edit of context ${step} of stream ${sequence} is a weight change, which cannot be trained with earlier documents; expected documents for trainOn "joint"`,
    );
  }
  if (candidates.length < 2) return;
  const asked = forgetting > 0 ? contexts.slice(0, step + 1) : [contexts[step]!];
  const bare = asked.find(({ paying }) => paying.length === 0);
  if (!bare) return;
  throw makeError(
    'INPUT_INVALID',
    `context "${bare.id}" of stream ${sequence} has no paying question; expected at least one to choose among candidates`,
  );
}

function earlierDocuments(
  { documents, sequence }: Stream,
  step: number,
  plan: StreamPlan,
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
  plan: StreamPlan,
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
  plan: StreamPlan,
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
  plan: StreamPlan,
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

async function divergenceOf(fork: Fork, before: Fork, { gate, texts, signal }: StreamPlan): Promise<number> {
  if (!gate || gate.beta === 0) return Number.NaN;
  try {
    return (await meanDivergence([fork], before, texts, { signal }))[0]!;
  } catch (error) {
    if (isOverflow(error)) return Number.NaN;
    throw error;
  }
}

/** The stream's model with the edit. */
function applied(
  { stream, copy }: Trial,
  scale: number,
  { parent, trainOn, scale: every }: StreamPlan,
): Fork {
  return (trainOn === 'joint' ? parent : stream.fork).fork().apply(copy.delta!, { scale: scale * every });
}
