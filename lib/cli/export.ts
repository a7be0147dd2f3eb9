/** `selfedit export`: the trained policy of a run, or an edit, for other tools. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { Delta } from '../delta.js';
import { makeError } from '../errors.js';
import { EXPORT_TYPES } from '../export/merged-plan.js';
import { EXPORT_FORMATS, type ExportDtype, type ExportFormat, exportDelta, refuseTaken } from '../export.js';
import { readJsonIfPresent } from '../format/json.js';
import { PEFT_CONFIG } from '../format/peft.js';
import type { Model } from '../model.js';
import { modelNames } from '../pull.js';
import { readTrainedRun, trainedDelta } from '../run/trained.js';
import { bytesText } from './meter.js';
import { integer, openModel } from './options.js';
import type { Session } from './session.js';

interface Options {
  format: ExportFormat;
  out: string;
  model?: string;
  round?: number;
  dtype?: ExportDtype;
  maxShardSize?: number;
  threads?: number;
}

export function addExport(program: Command, session: Session): void {
  program
    .command('export')
    .description('The trained policy of a run, or an edit, for other tools.')
    .argument('<run>', 'run folder, adapter folder, or .gguf adapter')
    .addOption(
      new Option('--format <name>', 'what to write').choices(EXPORT_FORMATS).makeOptionMandatory(true),
    )
    .requiredOption('--out <dir>', 'new or empty folder; for gguf-lora also a new .gguf file')
    .option('--model <path>', 'the base, where it is not where the run or adapter says')
    .option('--round <n>', 'of a run: the policy after this round (default: the last)', integer(0))
    .addOption(
      new Option(
        '--dtype <type>',
        "merged: type of all weights (default: each weight's own; float32 of a GGUF)",
      ).choices(Object.keys(EXPORT_TYPES)),
    )
    .option('--max-shard-size <size>', 'merged: most bytes of one file, such as 500MB (default: 4GB)', bytes)
    .option('--threads <n>', 'threads of the computation (default: all cores)', integer(1))
    .addHelpText(
      'after',
      `
peft       a LoRA adapter folder that PEFT loads
merged     a Hugging Face folder: weights that the delta does not touch are copied bit for bit
gguf-lora  DIR/adapter.gguf (or the .gguf named), for llama.cpp's --lora on a GGUF of the same base
Deltas that are more than low-rank changes of linear maps can only be merged.
Out: one JSON object {"format", "path", "model"}.

Example:
  selfedit export runs/first --format merged --out merged
  selfedit export adapters/a --format gguf-lora --out a.gguf --model smollm2-135m-instruct`,
    )
    .action((run: string, options: Options) => exportRun(run, options, session));
}

async function exportRun(run: string, options: Options, session: Session): Promise<void> {
  const { format, out, round, dtype, maxShardSize, threads } = options;
  for (const [flag, value] of Object.entries({ '--dtype': dtype, '--max-shard-size': maxShardSize })) {
    if (value === undefined || format === 'merged') continue;
    throw makeError('OPTION_INVALID', `${flag} with --format ${format}; expected --format merged with it`);
  }
  if (!existsSync(run)) {
    throw makeError(
      'FILE_NOT_FOUND',
      `there is no ${run}; expected a run folder, an adapter folder or a .gguf adapter`,
    );
  }
  await refuseTaken(out, format);
  const trained = run.endsWith('.gguf') ? undefined : await readTrainedRun(run);
  if (!trained && round !== undefined) {
    throw makeError('OPTION_INVALID', `--round with ${run}, which is no run folder; expected none`);
  }
  const base = options.model ?? trained?.model ?? (await baseOfAdapter(run));
  await using model = await openModel(
    { model: await knownBase(base, run), dtype: 'float32', threads },
    session,
  );
  await using delta = await deltaOf(model);
  const meter = session.meter({ label: 'export' });
  const exported = await exportDelta(delta, out, {
    format,
    ...(dtype !== undefined && { dtype }),
    ...(maxShardSize !== undefined && { maxShardBytes: maxShardSize }),
    signal: session.signal,
    onProgress: ({ done, total }) =>
      meter.update(done, total, { status: `${bytesText(done)} of ${bytesText(total)}` }),
    onExit: (cleanup) => session.onExit(cleanup),
  });
  session.endMeter();
  await session.printLines([{ ...exported, model: model.path }]);

  function deltaOf(base: Model): Promise<Delta> {
    return trained ? trainedDelta(base, run, trained, round) : Delta.load(base, run);
  }
}

/** The base that a PEFT configuration names. */
async function baseOfAdapter(folder: string): Promise<string | undefined> {
  if (folder.endsWith('.gguf')) return undefined;
  const json = await readJsonIfPresent(join(folder, PEFT_CONFIG));
  const base = (json as { base_model_name_or_path?: unknown } | undefined)?.base_model_name_or_path;
  return typeof base === 'string' ? base : undefined;
}

async function knownBase(base: string | undefined, run: string): Promise<string> {
  if (base !== undefined && (existsSync(base) || modelNames.includes(base))) return base;
  const found =
    base === undefined
      ? 'says nothing of its base model'
      : `names the base model ${base}, which is not there`;
  throw makeError('FILE_NOT_FOUND', `${run} ${found}; expected --model with its path`);
}

/** `4GB`, `500MB`, `1000000`: decimal units, as transformers counts them. */
function bytes(text: string): number {
  const [, digits, unit] = /^(\d+(?:\.\d+)?)\s*([KMG]?)B?$/i.exec(text.trim()) ?? [];
  const value = Math.round(Number(digits) * { '': 1, K: 1e3, M: 1e6, G: 1e9 }[(unit ?? '').toUpperCase()]!);
  if (digits !== undefined && Number.isSafeInteger(value) && value >= 1) return value;
  throw new InvalidArgumentError('Expected a size such as 4GB or 500MB.');
}
