/** A SEAL run in a folder: begun, or resumed after its last complete round with the same result. */
import { join } from 'node:path';
import type { Algorithm } from '../algorithm/algorithm.js';
import { type AlgorithmName, algorithmNamed } from '../algorithm/named.js';
import type { WeightAlgorithm } from '../algorithm/weight-algorithm.js';
import { type Comparison, compareMethods, type Method } from '../compare.js';
import { comparisonText } from '../comparison-text.js';
import { EditHead } from '../edit-head.js';
import { makeError } from '../errors.js';
import { Model } from '../model.js';
import type { Progress } from '../native-job.js';
import { Policy } from '../policy.js';
import type { Phase } from '../round.js';
import { type RoundResult, seal } from '../seal.js';
import { sealWeights } from '../seal-weights.js';
import { knowledge } from '../task/knowledge.js';
import { readPassages, readTexts } from '../task/passages.js';
import type { Task } from '../task/task.js';
import { loadCheckpoint, pruneCheckpoints, saveCheckpoint } from './checkpoint.js';
import type { RunConfig } from './config.js';
import { type Disk, exists, realDisk, writeAtomic } from './disk.js';
import { describeSession, recordSession } from './environment.js';
import { checkSameConfig, createRun } from './folder.js';
import { appendJournal, journalLines, truncateJournal } from './journal.js';
import { modelPath } from './model-path.js';
import { headOptions, weightAlgorithmOf } from './weights.js';

/** What a run tells while it works. */
export type TrainEvent =
  | { readonly type: 'begin'; readonly run: string; readonly firstRound: number; readonly rounds: number }
  | { readonly type: 'phase'; readonly round: number; readonly phase: Phase }
  | { readonly type: 'progress'; readonly round: number; readonly phase: Phase; readonly progress: Progress }
  | { readonly type: 'round'; readonly result: RoundResult }
  | { readonly type: 'method'; readonly method: Method }
  | { readonly type: 'comparison'; readonly comparison: Comparison };

export interface TrainOptions {
  /** The run folder. New, unless `resume`. */
  run: string;
  /** Continue after the last complete round. */
  resume?: boolean;
  signal?: AbortSignal;
  onEvent?: (event: TrainEvent) => void;
  /** An open model to use instead of loading `config.model`; it is not closed. */
  model?: Model;
  /** @internal */
  disk?: Disk;
}

export interface TrainResult {
  readonly run: string;
  /** Rounds done in this call. */
  readonly rounds: number;
  /** Closing table over the unseen passages; undefined when `task.evaluation` is 0. */
  readonly comparison?: Comparison;
}

/**
 * Runs `config` in the folder `run`: `config.json`, `environment.json`, `journal.jsonl`, `checkpoints/`, and at the end
 * `policy/` (the trained delta as a PEFT adapter) and `comparison.{json,txt}`.
 *
 * Throws `RUN_EXISTS` rather than overwrite, `RUN_INVALID` when a run to resume is damaged or was begun otherwise, `IO`
 * when saving fails (earlier checkpoints stay intact), `ABORTED` when `signal` fires.
 */
export async function train(config: RunConfig, options: TrainOptions): Promise<TrainResult> {
  const { run, resume = false, disk = realDisk } = options;
  if (resume) await checkSameConfig(disk, run, config);
  // Bad data is reported before a folder is made or a model loaded.
  const { task, data } = await readTask(config);
  if (!resume) await createRun(disk, run, config);
  const model = options.model ?? (await openModel(config, options.signal));
  try {
    const inputs = { model: await model.fingerprint(), data };
    await recordSession(disk, run, inputs, describeSession(model.device));
    return await trainModel(config, model, task, disk, options);
  } finally {
    if (!options.model) await model.close();
  }
}

async function trainModel(
  config: RunConfig,
  model: Model,
  task: Task,
  disk: Disk,
  options: TrainOptions,
): Promise<TrainResult> {
  const { run, signal, onEvent } = options;
  const weights = config.edit.kind === 'weights';
  const algorithm = weights ? weightAlgorithmOf(config) : algorithmOf(config);
  const policy = Policy.create(model, {
    rank: config.policy.rank,
    alpha: config.policy.alpha,
    targets: config.policy.targets,
    seed: config.seed,
    valueHead: !weights && config.algorithm === 'ppo' && config.ppo.baseline === 'value',
    valueBias: config.policy.valueBias,
  });
  const head = weights ? await EditHead.create(policy, headOptions(config)) : undefined;
  try {
    const firstRound = await restore(disk, run, policy, algorithm, head);
    onEvent?.({ type: 'begin', run, firstRound, rounds: config.rounds });
    const loop = {
      ...loopOptions(config),
      task,
      startRound: firstRound,
      onPhase: (round: number, phase: Phase) => onEvent?.({ type: 'phase', round, phase }),
      onProgress: (round: number, phase: Phase, progress: Progress) =>
        onEvent?.({ type: 'progress', round, phase, progress }),
      ...(signal ? { signal } : {}),
    };
    const { noiseKl, lambda } = config.weights;
    const rounds =
      head && !('state' in algorithm)
        ? sealWeights({ ...loop, head, algorithm, noiseKl, ...(lambda === undefined ? {} : { lambda }) })
        : seal({ ...loop, policy, algorithm: algorithm as Algorithm });
    for await (const result of rounds) {
      const version = head?.version ?? policy.version;
      await appendJournal(disk, run, journalLines(result, version));
      const state = 'state' in algorithm ? algorithm.state() : {};
      const checkpoint = {
        format: 1 as const,
        round: result.round,
        policyVersion: version,
        algorithm: { name: algorithm.name, state },
      };
      await saveCheckpoint(disk, run, policy, checkpoint, head);
      await pruneCheckpoints(disk, run, config.keepCheckpoints);
      onEvent?.({ type: 'round', result });
    }
    const comparison = await close(config, policy, head, task, disk, options);
    return { run, rounds: config.rounds - firstRound, ...(comparison ? { comparison } : {}) };
  } finally {
    await head?.close();
    await policy.close();
  }
}

function algorithmOf({ algorithm, edit, ...sections }: RunConfig): Algorithm {
  const name = algorithm as AlgorithmName; // the configuration has been checked
  return algorithmNamed(name, { maxTokens: edit.maxTokens, ...sections[name] });
}

/** The task of a configuration, and the SHA-256 of its data. */
async function readTask(config: RunConfig): Promise<{ task: Task; data: string }> {
  const { data, retentionData, ...rest } = config.task;
  const { passages, sha256 } = await readPassages(data);
  const own = retentionData === undefined ? undefined : await readTexts(retentionData);
  const task = knowledge(passages, { ...rest, seed: config.seed, retentionTexts: own?.texts });
  return { task, data: own ? `${sha256} ${own.sha256}` : sha256 };
}

/** The settings of `seal` and `compareMethods` that a configuration holds. */
export function loopOptions(config: RunConfig) {
  return {
    seed: config.seed,
    rounds: config.rounds,
    contextsPerRound: config.contextsPerRound,
    editsPerContext: config.editsPerContext,
    repeats: config.repeats,
    adaptFrom: config.adaptFrom,
    edit: config.edit,
    adapt: config.adapt,
    reward: config.reward,
  };
}

/** Loads the newest checkpoint, cuts the journal after it, and returns the next round. */
async function restore(
  disk: Disk,
  run: string,
  policy: Policy,
  algorithm: Algorithm | WeightAlgorithm,
  head: EditHead | undefined,
): Promise<number> {
  await pruneCheckpoints(disk, run, undefined);
  const state = await loadCheckpoint(disk, run, policy, head);
  if (state && state.algorithm.name !== algorithm.name) {
    throw makeError(
      'RUN_INVALID',
      `checkpoint of ${run} is of ${state.algorithm.name}; expected ${algorithm.name}`,
    );
  }
  if (state && 'restore' in algorithm) algorithm.restore(state.algorithm.state);
  await truncateJournal(disk, run, state?.round ?? -1);
  return state ? state.round + 1 : 0;
}

/** The trained delta (or head) for other tools, and the closing table. */
async function close(
  config: RunConfig,
  policy: Policy,
  head: EditHead | undefined,
  task: Task,
  disk: Disk,
  { run, signal, onEvent }: TrainOptions,
): Promise<Comparison | undefined> {
  if (head) {
    await head.save(join(run, 'head.safetensors'));
  } else {
    const delta = policy.delta();
    await delta.save(join(run, 'policy')).finally(() => delta.close());
  }
  if (task.evaluation.length === 0) return undefined;
  const path = join(run, 'comparison.json');
  if (await exists(disk, path)) return JSON.parse(await disk.readFile(path, 'utf8')) as Comparison;
  const untrained = head && (await EditHead.create(policy, headOptions(config)));
  const comparison = await compareMethods({
    ...loopOptions(config),
    ...(head && untrained ? { heads: { trained: head, untrained } } : {}),
    policy,
    contexts: task.evaluation,
    augmentations: task.augmentations,
    samples: config.closingSamples,
    onMethod: (method) => onEvent?.({ type: 'method', method }),
    signal,
  }).finally(() => untrained?.close());
  await writeAtomic(disk, join(run, 'comparison.txt'), `${comparisonText(comparison).join('\n')}\n`);
  await writeAtomic(disk, path, `${JSON.stringify(comparison, null, 2)}\n`);
  onEvent?.({ type: 'comparison', comparison });
  return comparison;
}

async function openModel(config: RunConfig, signal?: AbortSignal): Promise<Model> {
  return Model.load(await modelPath(config.model), {
    dtype: config.dtype,
    device: config.device,
    ...(config.threads ? { threads: config.threads } : {}),
    signal,
  });
}
