/** `selfedit train`: a SEAL run. */
import { existsSync } from 'node:fs';
import { basename, extname, join } from 'node:path';
import type { Command } from 'commander';
import { native } from '../binding.js';
import { comparisonText } from '../comparison-text.js';
import { makeError, SelfeditError } from '../errors.js';
import { ranksFromEnvironment } from '../ranks/environment.js';
import { Ranks } from '../ranks/ranks.js';
import { type RunConfig, readConfig } from '../run/config.js';
import { realDisk } from '../run/disk.js';
import { readRunConfig } from '../run/folder.js';
import { readTask } from '../run/task.js';
import { type TrainResult, train } from '../run/train.js';
import { groupDevice, rankDevice } from '../run/train-ranks.js';
import { openModel } from './options.js';
import type { Session } from './session.js';
import { TrainProgress } from './train-progress.js';

interface Options {
  out?: string;
  resume?: string;
  resumeOrBegin?: boolean;
  json?: boolean;
}

export function addTrain(program: Command, session: Session): void {
  program
    .command('train')
    .description('A SEAL run: the policy learns to write self-edits.')
    .argument('[config]', 'YAML configuration; not needed with --resume')
    .option('--out <run>', 'folder of the run (default: runs/<name of the configuration>)')
    .option('--resume <run>', 'continue a run after its last complete round')
    .option('--resume-or-begin', 'with --out: continue the run that is there, or begin it')
    .option('--json', 'the result as one JSON object, instead of the closing table')
    .addHelpText(
      'after',
      `
The run folder holds config.json, environment.json, journal.jsonl (a line a round and a line an edit), checkpoints/,
and at the end policy/ (a PEFT adapter; head.safetensors for weight edits) and comparison.json.

Example:
  selfedit train config.yaml --out runs/first
  selfedit train --resume runs/first
  torchrun --no-python --nproc-per-node 4 selfedit train config.yaml --out runs/first --resume-or-begin

Started by torchrun, srun or as Kubernetes pods, the processes run it together (docs/ranks.md).`,
    )
    .action((config: string | undefined, options: Options) => runTogether(config, options, session));
}

/** Joins the ranks that were started with this one, if any. */
async function runTogether(path: string | undefined, options: Options, session: Session): Promise<void> {
  const place = ranksFromEnvironment(process.env);
  if (!place || place.world === 1) return run(path, options, session);
  // What --resume goes on with is known to rank 0 alone, and only when they have joined.
  const wanted = path === undefined ? 'cpu' : (await readConfig(path)).device;
  const device = groupDevice(wanted, place, native().info().nccl, () => native().gpus().length);
  const ranks = await Ranks.join(place, { signal: session.signal, device });
  try {
    await run(path, options, session, ranks);
  } catch (error) {
    // An alarm is no failure of a rank, and all have it.
    if (error instanceof SelfeditError && error.code === 'GUARD_ALARM') throw error;
    throw await ranks.fail(error);
  } finally {
    await ranks.close();
  }
}

async function run(
  path: string | undefined,
  options: Options,
  session: Session,
  ranks?: Ranks,
): Promise<void> {
  const { out, resume, resumeOrBegin = false } = options;
  if (out !== undefined && resume !== undefined) {
    throw makeError('OPTION_INVALID', 'both --out and --resume are given; expected one of them');
  }
  if (resumeOrBegin && (out === undefined || path === undefined)) {
    throw makeError('OPTION_INVALID', '--resume-or-begin needs the configuration and --out RUN');
  }
  const lead = ranks?.lead ?? true;
  const folder = resume ?? out ?? (path === undefined ? undefined : freeFolder(path));
  if (folder === undefined) {
    throw makeError('OPTION_INVALID', 'no configuration is given; expected CONFIG.yaml, or --resume RUN');
  }
  const configured =
    path !== undefined ? await readConfig(path) : lead ? await readRunConfig(realDisk, folder) : undefined;
  // The folder may be on the disk of rank 0 alone.
  const config = configured ?? (await ranks!.broadcast<RunConfig>('configuration', undefined));
  if (path === undefined && lead) await ranks?.broadcast('configuration', config);
  // Bad data and a bad model are reported before a folder is made, the data first, as it is read sooner.
  const read = await readTask(config);
  const device = rankDevice(config.device, ranks, () => native().gpus().length);
  const threads = config.threads ?? ranks?.threads;
  await using model = await openModel({ ...config, device, threads }, session);
  const progress = new TrainProgress(session, config);
  let result: TrainResult;
  try {
    result = await train(config, {
      run: folder,
      model,
      read,
      resume: resume !== undefined || (resumeOrBegin && 'if-begun'),
      ranks,
      signal: session.signal,
      onEvent: (event) => progress.show(event),
    });
  } catch (error) {
    session.endMeter();
    if (lead && progress.begun && !(error instanceof SelfeditError && error.exitCode === 2)) {
      session.note(`The run is resumable: selfedit train --resume ${folder}`);
    }
    throw error;
  }
  session.endMeter();
  if (!lead) return checkAlarm(result);
  await session.print(options.json ? `${JSON.stringify(result)}\n` : closing(result));
  checkAlarm(result);
  session.note(`Next: ${nextCommand(config, folder)}`);
}

function checkAlarm(result: TrainResult): void {
  if (result.halted) {
    const { message } = result.alarms.at(-1)!;
    const policy =
      result.halted === 'rollback' ? 'the policy whose edits last passed' : 'the policy as it was';
    throw makeError('GUARD_ALARM', `${message}; the run has ended early with ${policy}`);
  }
}

/** `runs/<name>`, with a number when that is taken. */
function freeFolder(config: string): string {
  const name = basename(config, extname(config));
  for (let attempt = 1; ; attempt++) {
    const folder = join('runs', attempt === 1 ? name : `${name}-${attempt}`);
    if (!existsSync(folder)) return folder;
  }
}

function closing({ run: folder, comparison }: TrainResult): string {
  const lines = comparison ? comparisonText(comparison) : [];
  return `${[...lines, `run: ${folder}`].join('\n')}\n`;
}

function nextCommand({ model, edit }: RunConfig, folder: string): string {
  if (edit.kind === 'weights')
    return `await head.load('${join(folder, 'head.safetensors')}'); see docs/weight-edits.md`;
  return `selfedit generate --model ${model} --adapter ${join(folder, 'policy')} --prompt "…"`;
}
