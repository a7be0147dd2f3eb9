/** A SEAL run in a folder: begun, or resumed after its last complete round with the same result. */
import { join } from 'node:path';
import type { Algorithm } from '../algorithm/algorithm.js';
import { type AlgorithmName, algorithmNamed } from '../algorithm/named.js';
import { native } from '../binding.js';
import { type Comparison, compareMethods, type Method } from '../compare.js';
import { comparisonText } from '../comparison-text.js';
import { EditHead } from '../edit-head.js';
import type { RoundResult } from '../edit-result.js';
import { type GuardAlarm, type GuardFigures, guardOptions } from '../guard/guards.js';
import { summarizeGuards } from '../guard/summary.js';
import { Model } from '../model.js';
import type { Progress } from '../native-job.js';
import { Policy } from '../policy.js';
import type { Ranks } from '../ranks/ranks.js';
import type { RewardOptions } from '../reward/options.js';
import type { Phase } from '../round.js';
import { seal } from '../seal.js';
import { sealWeights } from '../seal-weights.js';
import { hooksOf, type Task, type TaskContext } from '../task/task.js';
import { rollBack, saveCheckpoint, saveInitial } from './checkpoint.js';
import { COMPARISON, readComparison } from './comparison.js';
import type { RunConfig } from './config.js';
import { type Disk, realDisk, replaceFolder, writeAtomic } from './disk.js';
import { describeSession, recordSession } from './environment.js';
import { checkSameConfig, createRun, holdsRun } from './folder.js';
import { appendJournal, journalLines } from './journal.js';
import { lockRun, type RunLock } from './lock.js';
import { modelPath } from './model-path.js';
import { restore } from './restore.js';
import { type Played, prune } from './retention.js';
import { type RewardParticipants, rewardFiles, rewardOf } from './reward.js';
import { type ReadTask, readTask } from './task.js';
import { checkSameInputs, rankDevice, sharePolicy } from './train-ranks.js';
import { headOptions, weightAlgorithmOf } from './weights.js';

/** What a run tells while it works. */
export type TrainEvent =
  /** Something that was found and got over: a damaged checkpoint, or another number of threads than the run was begun with. */
  | { readonly type: 'warning'; readonly message: string }
  | { readonly type: 'begin'; readonly run: string; readonly firstRound: number; readonly rounds: number }
  | { readonly type: 'phase'; readonly round: number; readonly phase: Phase }
  | { readonly type: 'progress'; readonly round: number; readonly phase: Phase; readonly progress: Progress }
  | { readonly type: 'round'; readonly result: RoundResult }
  | { readonly type: 'method'; readonly method: Method }
  | { readonly type: 'comparison'; readonly comparison: Comparison };

export interface TrainOptions extends RewardParticipants {
  /** The run folder. New, unless `resume`. */
  run: string;
  /** Continue after the last complete round; `if-begun`: begin where the folder holds no run yet. */
  resume?: boolean | 'if-begun';
  /**
   * The processes that run it together, with the same configuration, model and data. Rank 0 alone has the folder, writes and
   * tells events; all return the same result. A rank that fails ends all with its error.
   */
  ranks?: Ranks | undefined;
  signal?: AbortSignal;
  onEvent?: (event: TrainEvent) => void;
  /** An open model to use instead of loading `config.model`; it is not closed. */
  model?: Model;
  /** A task of one's own instead of the one in the configuration, whose `task` section is then not read. */
  task?: Task;
  /** @internal What `readTask` gave for this configuration. */
  read?: ReadTask;
  /** @internal */
  disk?: Disk;
}

export interface TrainResult {
  readonly run: string;
  /** Rounds done in this call. */
  readonly rounds: number;
  /** Closing table over the unseen passages; undefined when `task.evaluation` is 0. */
  readonly comparison?: Comparison;
  /** Guards that gave alarm in any round of the run, and whether one has ended it early. */
  readonly alarms: readonly GuardAlarm[];
  readonly halted?: 'stop' | 'rollback';
}

/**
 * Runs `config` in the folder `run`: `config.json`, `environment.json`, `journal.jsonl`, `checkpoints/`, and at the end
 * `policy/` (the trained delta as a PEFT adapter) and `comparison.{json,txt}`.
 *
 * Throws `RUN_EXISTS` rather than overwrite, `RUN_INVALID` when a run to resume is damaged or was begun otherwise,
 * `RUN_LOCKED` when another process has the folder, `RANK_LOST` or `RANKS_DIVERGED` where several ranks run it, `IO` when saving fails (earlier checkpoints stay intact), `ABORTED` when
 * `signal` fires.
 */
export async function train(config: RunConfig, options: TrainOptions): Promise<TrainResult> {
  const { ranks } = options;
  if (!ranks) return trainHere(config, options);
  const signals = [ranks.signal, ...(options.signal ? [options.signal] : [])];
  const { onEvent: _, ...quiet } = options;
  try {
    return await trainHere(config, { ...(ranks.lead ? options : quiet), signal: AbortSignal.any(signals) });
  } catch (error) {
    throw await ranks.fail(error);
  }
}

async function trainHere(config: RunConfig, options: TrainOptions): Promise<TrainResult> {
  const { disk = realDisk, ranks } = options;
  // Bad data is reported before a folder is made or a model loaded.
  const own = options.task && { task: options.task, data: options.task.name };
  const { task, data } = own ?? options.read ?? (await readTask(config));
  const reward = await rewardOf(config, options);
  const lock = ranks && !ranks.lead ? undefined : await openRun(config, disk, options);
  try {
    const model = options.model ?? (await openModel(config, options));
    try {
      const files = await rewardFiles(config);
      const inputs = { model: await model.fingerprint(), data, ...(files ? { reward: files } : {}) };
      await checkSameInputs(ranks, config, inputs);
      const session = describeSession(model.device, ranks?.world);
      const differs = lock ? await recordSession(disk, options.run, inputs, session) : [];
      if (differs.length > 0) {
        const message = `run ${options.run} was begun elsewhere, so its bits may differ: ${differs.join('; ')}`;
        options.onEvent?.({ type: 'warning', message });
      }
      return await trainModel(config, model, { task, reward, lock }, disk, options);
    } finally {
      if (!options.model) await model.close();
    }
  } finally {
    await lock?.release();
  }
}

async function openRun(config: RunConfig, disk: Disk, { run, resume }: TrainOptions): Promise<RunLock> {
  if (!resume || (resume === 'if-begun' && !(await holdsRun(disk, run)))) return createRun(disk, run, config);
  await checkSameConfig(disk, run, config);
  return lockRun(disk, run);
}

interface Parts {
  readonly task: Task;
  readonly reward: Partial<RewardOptions>;
  /** Of rank 0. */
  readonly lock: RunLock | undefined;
}

async function trainModel(
  config: RunConfig,
  model: Model,
  { task, reward, lock }: Parts,
  disk: Disk,
  options: TrainOptions,
): Promise<TrainResult> {
  const { run, signal, onEvent, ranks } = options;
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
  const rolls = config.guards.onAlarm === 'rollback';
  try {
    const warn = (message: string) => onEvent?.({ type: 'warning', message });
    const begun = lock ? await restore(disk, run, config, { policy, algorithm, head }, warn) : undefined;
    const { state, rounds: before } = ranks ? await ranks.broadcast('state of the run', begun) : begun!;
    if (state) await sharePolicy(ranks, 'policy of the run', policy, head);
    if (state && 'restore' in algorithm) algorithm.restore(state.algorithm.state);
    const played: Played[] = [...before];
    const firstRound = state ? state.round + 1 : 0;
    if (lock && rolls && !state) await saveInitial(disk, run, policy, head);
    onEvent?.({ type: 'begin', run, firstRound, rounds: config.rounds });
    const loop = {
      ...loopOptions(config),
      reward,
      task,
      guards: config.guards,
      ...(config.labels ? { labels: config.labels } : {}),
      guardHistory: guardHistory(played),
      startRound: firstRound,
      // An alarm has ended this run for good.
      ...(state?.halted ? { rounds: firstRound } : {}),
      onPhase: (round: number, phase: Phase) => onEvent?.({ type: 'phase', round, phase }),
      onProgress: (round: number, phase: Phase, progress: Progress) =>
        onEvent?.({ type: 'progress', round, phase, progress }),
      ...(signal ? { signal } : {}),
      ...(ranks ? { ranks } : {}),
    };
    const { noiseKl, lambda } = config.weights;
    const rounds =
      head && !('state' in algorithm)
        ? sealWeights({ ...loop, head, algorithm, noiseKl, ...(lambda === undefined ? {} : { lambda }) })
        : seal({ ...loop, policy, algorithm: algorithm as Algorithm });
    let done = 0;
    let halted = state?.halted;
    for await (const result of rounds) {
      done++;
      halted = result.halted;
      const version = head?.version ?? policy.version;
      await lock?.check();
      if (lock) await appendJournal(disk, run, journalLines(result, version));
      if (halted === 'rollback') {
        // The edits of this round were written by the policy after the last one, those that passed by the one before it.
        if (lock) await rollBack(disk, run, policy, result.round - 2, head);
        await sharePolicy(ranks, `rollback of round ${result.round}`, policy, head);
      }
      const checkpoint = {
        format: 1 as const,
        round: result.round,
        policyVersion: head?.version ?? policy.version,
        algorithm: { name: algorithm.name, state: 'state' in algorithm ? algorithm.state() : {} },
        ...(halted ? { halted } : {}),
      };
      if (lock) await saveCheckpoint(disk, run, policy, checkpoint, head);
      // As the journal has it, so that a resumed run sees the same.
      played.push(JSON.parse(JSON.stringify({ ...result, edits: [] })) as Played);
      if (lock) await prune(disk, run, config, played);
      onEvent?.({ type: 'round', result });
    }
    await lock?.check();
    // Rank 0 alone: the others wait for as long as it lives.
    const closed = lock && (await close(config, policy, head, { task, reward }, played, disk, options));
    const comparison = ranks ? await ranks.broadcast('closing table', closed) : closed;
    return {
      run,
      rounds: done,
      ...(comparison ? { comparison } : {}),
      alarms: played.flatMap(({ guards }) => guards?.alarms ?? []),
      ...(halted ? { halted } : {}),
    };
  } finally {
    await head?.close();
    await policy.close();
  }
}

/** The guards' figures of the rounds done; what the journal has as null was not measured. */
function guardHistory(played: readonly Played[]): GuardFigures[] {
  return played.flatMap(({ guards }) => {
    if (!guards) return [];
    const known = (figures: object) =>
      Object.fromEntries(
        Object.entries(figures).map(([name, value]: [string, unknown]) => [name, value ?? Number.NaN]),
      );
    const { votes } = guards.figures;
    const figures = { ...known(guards.figures), ...(votes ? { votes: known(votes) } : {}) };
    return [figures as unknown as GuardFigures];
  });
}

function algorithmOf({ algorithm, edit, ...sections }: RunConfig): Algorithm {
  const name = algorithm as AlgorithmName; // the configuration has been checked
  return algorithmNamed(name, { maxTokens: edit.maxTokens, ...sections[name] });
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
    deterministic: config.deterministic,
  };
}

/** The trained delta (or head) for other tools, and the closing table. */
async function close(
  config: RunConfig,
  policy: Policy,
  head: EditHead | undefined,
  { task, reward }: Omit<Parts, 'lock'>,
  played: readonly Played[],
  disk: Disk,
  { run, signal, onEvent }: TrainOptions,
): Promise<Comparison | undefined> {
  if (head) {
    await head.save(join(run, 'head.safetensors'));
  } else {
    const delta = policy.delta();
    const write = (path: string) => delta.save(path);
    await replaceFolder(disk, join(run, 'policy'), write).finally(() => delta.close());
  }
  const contexts = answered(task.evaluation, config);
  if (contexts.length === 0) return undefined;
  const path = join(run, COMPARISON);
  const before = await readComparison(disk, path);
  if (before) return before;
  const untrained = head && (await EditHead.create(policy, headOptions(config)));
  const compared = await compareMethods({
    ...loopOptions(config),
    reward,
    ...(head && untrained ? { heads: { trained: head, untrained } } : {}),
    policy,
    contexts,
    task: hooksOf(task),
    samples: config.closingSamples,
    onMethod: (method) => onEvent?.({ type: 'method', method }),
    signal,
  }).finally(() => untrained?.close());
  const guards = summarizeGuards(played, guardOptions(config.guards));
  const comparison: Comparison = { ...compared, guards };
  await writeAtomic(disk, join(run, 'comparison.txt'), `${comparisonText(comparison).join('\n')}\n`);
  await writeAtomic(disk, path, `${JSON.stringify(comparison, null, 2)}\n`);
  onEvent?.({ type: 'comparison', comparison });
  return comparison;
}

/** Unseen questions without a right answer say nothing where votes label the others: votes on them would grade themselves. */
function answered(contexts: Task['evaluation'], { labels }: RunConfig): TaskContext[] {
  if (!labels) return [...contexts];
  return contexts.flatMap((context) => {
    const report = context.report.filter(({ answers }) => answers.length > 0);
    return report.length > 0 ? [{ ...context, report }] : [];
  });
}

async function openModel(config: RunConfig, { signal, ranks }: TrainOptions): Promise<Model> {
  const threads = config.threads ?? ranks?.threads;
  return Model.load(await modelPath(config.model), {
    dtype: config.dtype,
    device: rankDevice(config.device, ranks, () => native().gpus().length),
    ...(threads ? { threads } : {}),
    signal,
  });
}
