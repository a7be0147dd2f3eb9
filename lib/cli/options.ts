/** Options that several commands share, and the parsers of their values. */
import { existsSync } from 'node:fs';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { type Dtype, Model } from '../model.js';
import { modelNames, pull } from '../pull.js';
import { bytesText } from './meter.js';
import type { Session } from './session.js';

const DTYPES: readonly Dtype[] = ['float32', 'bfloat16', 'float64'];

/** Options of every command that loads a model. */
export interface ModelOptions {
  model: string;
  dtype?: Dtype | undefined;
  device?: string | undefined;
  threads?: number | undefined;
}

export function addModelOptions(command: Command): Command {
  return command
    .requiredOption('--model <path>', 'Hugging Face model folder, .gguf file, or a name that pull knows')
    .addOption(
      new Option(
        '--dtype <type>',
        'type of the frozen weights (default: float32 on the CPU, bfloat16 on CUDA)',
      ).choices(DTYPES),
    )
    .option('--device <name>', 'cpu, cuda, cuda:N, or auto for the first GPU, else the CPU (default: cpu)')
    .option('--threads <n>', 'threads of the computation (default: all cores)', integer(1));
}

export function addAdapterOption(command: Command): Command {
  return command.option(
    '--adapter <path>',
    'PEFT adapter folder, or .gguf LoRA adapter; repeated ones stack in order',
    (dir: string, before: string[]) => [...before, dir],
    [],
  );
}

export function addInputOption(command: Command): Command {
  return command.option('--input <file>', 'JSONL to read (default: standard input)');
}

/** Loads the model of a command, showing progress. */
export async function openModel(options: ModelOptions, session: Session): Promise<Model> {
  const path = await findModel(options.model, session);
  const meter = session.meter({ label: 'load' });
  const model = await Model.load(path, {
    ...(options.dtype ? { dtype: options.dtype } : {}),
    ...(options.device ? { device: options.device } : {}),
    ...(options.threads ? { threads: options.threads } : {}),
    signal: session.signal,
    onProgress: ({ done, total }) =>
      meter.update(done, total, { status: `${bytesText(done)} of ${bytesText(total)}` }),
  });
  session.endMeter();
  return model;
}

/** The path as given, or that of a known model, which is brought when it is not in the cache yet. */
export async function findModel(model: string, session: Session): Promise<string> {
  return !existsSync(model) && modelNames.includes(model) ? pullShown(model, session) : model;
}

/** `pull` with its progress shown. */
export async function pullShown(name: string, session: Session): Promise<string> {
  const meter = session.meter({ label: `pull ${name}` });
  const path = await pull(name, {
    signal: session.signal,
    onProgress: ({ source, done, total }) =>
      meter.update(done, total, { status: `${bytesText(done)} of ${bytesText(total)} from ${source}` }),
  });
  session.endMeter();
  return path;
}

/** Parser of a whole number. */
export function integer(least: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (/^[+-]?\d+$/.test(text.trim()) && Number.isSafeInteger(value) && value >= least) return value;
    throw new InvalidArgumentError(`Expected a whole number from ${least}.`);
  };
}

/** Parser of a finite number within bounds; `open` leaves the lower bound out. */
export function number(
  least: number,
  most = Number.POSITIVE_INFINITY,
  { open = false }: { open?: boolean } = {},
): (text: string) => number {
  const range = `${open ? 'above' : 'from'} ${least}${Number.isFinite(most) ? ` to ${most}` : ''}`;
  return (text) => {
    const value = text.trim() === '' ? Number.NaN : Number(text);
    if (Number.isFinite(value) && (open ? value > least : value >= least) && value <= most) return value;
    throw new InvalidArgumentError(`Expected a number ${range}.`);
  };
}

/** `--seed`: any whole number that 64 bits hold. */
export function seedOption(what: string): Option {
  return new Option('--seed <n>', `seed of ${what}`).default(0n, '0').argParser((text) => {
    if (/^\d{1,20}$/.test(text) && BigInt(text) < 2n ** 64n) return BigInt(text);
    throw new InvalidArgumentError('Expected a whole number from 0, below 2^64.');
  });
}

/** Parser of a comma-separated list. */
export function list(text: string): string[] {
  const items = text.split(',').map((item) => item.trim());
  if (items.every((item) => item !== '')) return items;
  throw new InvalidArgumentError('Expected names separated by commas.');
}
