/** `selfedit train`: a SEAL run. */
import { existsSync } from 'node:fs';
import { basename, extname, join } from 'node:path';
import type { Command } from 'commander';
import { comparisonText } from '../comparison-text.js';
import { makeError, SelfeditError } from '../errors.js';
import { type RunConfig, readConfig } from '../run/config.js';
import { realDisk } from '../run/disk.js';
import { readRunConfig } from '../run/folder.js';
import { readTask } from '../run/task.js';
import { type TrainResult, train } from '../run/train.js';
import { openModel } from './options.js';
import type { Session } from './session.js';
import { TrainProgress } from './train-progress.js';

interface Options {
  out?: string;
  resume?: string;
  json?: boolean;
}

export function addTrain(program: Command, session: Session): void {
  program
    .command('train')
    .description('A SEAL run: the policy learns to write self-edits.')
    .argument('[config]', 'YAML configuration; not needed with --resume')
    .option('--out <run>', 'folder of the run (default: runs/<name of the configuration>)')
    .option('--resume <run>', 'continue a run after its last complete round')
    .option('--json', 'the result as one JSON object, instead of the closing table')
    .addHelpText(
      'after',
      `
The run folder holds config.json, environment.json, journal.jsonl (a line a round and a line an edit), checkpoints/,
and at the end policy/ (a PEFT adapter; head.safetensors for weight edits) and comparison.json.

Example:
  selfedit train config.yaml --out runs/first
  selfedit train --resume runs/first`,
    )
    .action((config: string | undefined, options: Options) => run(config, options, session));
}

async function run(path: string | undefined, options: Options, session: Session): Promise<void> {
  const { out, resume } = options;
  if (out !== undefined && resume !== undefined) {
    throw makeError('OPTION_INVALID', 'both --out and --resume are given; expected one of them');
  }
  const folder = resume ?? out ?? (path === undefined ? undefined : freeFolder(path));
  if (folder === undefined) {
    throw makeError('OPTION_INVALID', 'no configuration is given; expected CONFIG.yaml, or --resume RUN');
  }
  const config = path === undefined ? await readRunConfig(realDisk, folder) : await readConfig(path);
  // Bad data and a bad model are reported before a folder is made, the data first, as it is read sooner.
  const read = await readTask(config);
  await using model = await openModel(config, session);
  const progress = new TrainProgress(session, config);
  let result: TrainResult;
  try {
    result = await train(config, {
      run: folder,
      model,
      read,
      resume: resume !== undefined,
      signal: session.signal,
      onEvent: (event) => progress.show(event),
    });
  } catch (error) {
    session.endMeter();
    if (progress.begun && !(error instanceof SelfeditError && error.exitCode === 2)) {
      session.note(`The run is resumable: selfedit train --resume ${folder}`);
    }
    throw error;
  }
  session.endMeter();
  await session.print(options.json ? `${JSON.stringify(result)}\n` : closing(result));
  if (result.halted) {
    const { message } = result.alarms.at(-1)!;
    const policy =
      result.halted === 'rollback' ? 'the policy whose edits last passed' : 'the policy as it was';
    throw makeError('GUARD_ALARM', `${message}; the run has ended early with ${policy}`);
  }
  session.note(`Next: ${nextCommand(config, folder)}`);
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
