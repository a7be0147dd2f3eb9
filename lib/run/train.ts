/** A SEAL run in a folder: begun, or resumed after its last complete round with the same result. */
import { join } from 'node:path';
import type { Algorithm } from '../algorithm/algorithm.js';
import { algorithmNamed } from '../algorithm/named.js';
import { type Comparison, compareMethods, type Method } from '../compare.js';
import { comparisonText } from '../comparison-text.js';
import { makeError } from '../errors.js';
import { Model } from '../model.js';
import type { Progress } from '../native-job.js';
import { Policy } from '../policy.js';
import { type Phase, type RoundResult, type SealOptions, seal } from '../seal.js';
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
  const algorithm = algorithmOf(config);
  const policy = Policy.create(model, {
    rank: config.policy.rank,
    alpha: config.policy.alpha,
    targets: config.policy.targets,
    seed: config.seed,
    valueHead: config.algorithm === 'ppo' && config.ppo.baseline === 'value',
    valueBias: config.policy.valueBias,
  });
  try {
    const firstRound = await restore(disk, run, policy, algorithm);
    onEvent?.({ type: 'begin', run, firstRound, rounds: config.rounds });
    const loop: SealOptions = {
      ...loopOptions(config),
      policy,
      task,
      algorithm,
      startRound: firstRound,
      onPhase: (round, phase) => onEvent?.({ type: 'phase', round, phase }),
      onProgress: (round, phase, progress) => onEvent?.({ type: 'progress', round, phase, progress }),
      signal,
    };
    for await (const result of seal(loop)) {
      await appendJournal(disk, run, journalLines(result, policy.version));
      await saveCheckpoint(disk, run, policy, {
        format: 1,
        round: result.round,
        policyVersion: policy.version,
        algorithm: { name: algorithm.name, state: algorithm.state() },
      });
      await pruneCheckpoints(disk, run, config.keepCheckpoints);
      onEvent?.({ type: 'round', result });
    }
    const comparison = await close(config, policy, task, disk, options);
    return { run, rounds: config.rounds - firstRound, ...(comparison ? { comparison } : {}) };
  } finally {
    await policy.close();
  }
}

function algorithmOf({ algorithm, edit, ...sections }: RunConfig): Algorithm {
  return algorithmNamed(algorithm, { maxTokens: edit.maxTokens, ...sections[algorithm] });
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
async function restore(disk: Disk, run: string, policy: Policy, algorithm: Algorithm): Promise<number> {
  await pruneCheckpoints(disk, run, undefined);
  const state = await loadCheckpoint(disk, run, policy);
  if (state && state.algorithm.name !== algorithm.name) {
    throw makeError(
      'RUN_INVALID',
      `checkpoint of ${run} is of ${state.algorithm.name}; expected ${algorithm.name}`,
    );
  }
  if (state) algorithm.restore(state.algorithm.state);
  await truncateJournal(disk, run, state?.round ?? -1);
  return state ? state.round + 1 : 0;
}

/** The trained delta for other tools, and the closing table. */
async function close(
  config: RunConfig,
  policy: Policy,
  task: Task,
  disk: Disk,
  { run, signal, onEvent }: TrainOptions,
): Promise<Comparison | undefined> {
  const delta = policy.delta();
  await delta.save(join(run, 'policy')).finally(() => delta.close());
  if (task.evaluation.length === 0) return undefined;
  const path = join(run, 'comparison.json');
  if (await exists(disk, path)) return JSON.parse(await disk.readFile(path, 'utf8')) as Comparison;
  const comparison = await compareMethods({
    ...loopOptions(config),
    policy,
    contexts: task.evaluation,
    augmentations: task.augmentations,
    samples: config.closingSamples,
    onMethod: (method) => onEvent?.({ type: 'method', method }),
    signal,
  });
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
