/** `selfedit adapt`: the inner loop. Text edits become PEFT adapters. */
import type { Command } from 'commander';
import { Option } from 'commander';
import { z } from 'zod';
import {
  ADAPT_DEFAULTS,
  type AdaptCallOptions,
  type AdaptEdit,
  type Adapted,
  type AdaptOptions,
  adapt,
  PADDING_LENGTH,
  planAdapt,
} from '../adapt.js';
import { Delta } from '../delta.js';
import { bearsLoss, type MarkedDocument, type TrainingRow, toTrainingRow } from '../edit/documents.js';
import { makeError, SelfeditError } from '../errors.js';
import type { Model } from '../model.js';
import { deriveKey } from '../random.js';
import { AdapterFolder, checkId } from './adapter-folder.js';
import { invalid, isTokens } from './fields.js';
import { batches, type InputLine, isRegularFile, readLines } from './jsonl.js';
import {
  addModelOptions,
  integer,
  list,
  type ModelOptions,
  number,
  openModel,
  seedOption,
} from './options.js';
import { checkedTokens, logprobsJson, named } from './rows.js';
import type { Session } from './session.js';

interface Options extends ModelOptions {
  input: string;
  out: string;
  rank?: number;
  alpha?: number;
  lr: number;
  epochs: number;
  targets?: string[];
  schedule: AdaptOptions['schedule'];
  seed: bigint;
  init?: string;
  shuffle: boolean;
  slots: number;
  faithfulPadding?: number | true;
  plan?: boolean;
}

const markedSchema = z.union([
  z.strictObject({ text: z.string().min(1), spans: z.array(z.tuple([z.number(), z.number()])) }),
  z.strictObject({ text: z.string().min(1), mask: z.array(z.union([z.literal(0), z.literal(1)])) }),
]);
type Document = string | readonly number[] | MarkedDocument;

/** One line of the input. */
interface Edit {
  readonly id: string;
  readonly line: InputLine;
  readonly documents: readonly Document[];
}

interface Slot extends AdaptEdit {
  readonly id: string;
  readonly where: string;
}

export function addAdapt(program: Command, session: Session): void {
  const { rank, alpha, learningRate, epochs, targets, schedule } = ADAPT_DEFAULTS;
  addModelOptions(program.command('adapt').description('The inner loop: text edits become PEFT adapters.'))
    .requiredOption('--input <file>', 'JSONL to read; - is standard input')
    .requiredOption('--out <dir>', 'folder for the adapters, one folder an edit')
    .option('--rank <n>', `rank of the adapters (default: ${rank}, or that of --init)`, integer(1))
    .option(
      '--alpha <a>',
      `they are scaled by alpha / rank (default: ${alpha}, or that of --init)`,
      number(0, undefined, { open: true }),
    )
    .option('--lr <rate>', 'learning rate', number(0), learningRate)
    .option('--epochs <n>', 'passes over the documents', integer(1), epochs)
    .option('--targets <list>', `modules to change (default: ${targets.join(',')}, or those of --init)`, list)
    .addOption(
      new Option('--schedule <name>', 'learning rate over the steps')
        .choices(['linear', 'constant', 'cosine'])
        .default(schedule),
    )
    .addOption(seedOption('first values and document order'))
    .option('--init <dir>', 'PEFT adapter to start every adapter from, instead of seeded values')
    .option('--no-shuffle', 'visit the documents in the given order each epoch')
    .option(
      '--faithful-padding [n]',
      `pad every document and take loss on the padding, as the published code does (n: ${PADDING_LENGTH})`,
      integer(2),
    )
    .option('--slots <n>', 'most edits trained together; does not change results', integer(1), 16)
    .option(
      '--plan',
      'print how the edits fit into the free memory (JSON on standard error) before each batch',
    )
    .addHelpText(
      'after',
      `
In, a line each:   {"id": "…", "documents": ["…" or [ids] or object, …]}
                   An object is {"text", "spans": [[start, end], …]}, where tokens that share a character with a
                   span bear loss, or {"text", "mask": [0 or 1 a token]}.
Out, same order:   {"id", "steps", "loss": [per step]}, printed when DIR/<id>/ is there (adapter_config.json,
                   adapter_model.safetensors). A folder of that name is replaced.

Example:
  selfedit adapt --model smollm2-135m-instruct --input edits.jsonl --out adapters`,
    )
    .action((options: Options) => run(options, session));
}

async function run(options: Options, session: Session): Promise<void> {
  const isFile = await isRegularFile(options.input);
  // A file is checked as a whole before any work starts; a stream as it comes.
  const known = isFile ? await collect(readEdits(options.input, session)) : undefined;
  await using model = await openModel(options, session);
  await using init = options.init === undefined ? undefined : await Delta.load(model, options.init);
  const settings = settingsOf(options, init);
  const slots = known?.map((edit) => toSlot(edit, model, options, init));
  const source = slots ? fromArray(slots) : streamSlots(options, session, model, init);
  await using folder = await AdapterFolder.open(options.out, session);
  let finished = 0;
  const meter = session.meter({ label: 'adapt', unit: 'edits' });
  for await (const batch of batches(source, options.slots)) {
    const call = {
      ...settings,
      signal: session.signal,
      onProgress: ({ done, total, loss }: { done: number; total: number; loss: number }) => {
        const status = Number.isFinite(loss) ? `loss ${loss.toFixed(3)}` : '';
        meter.update(finished + (batch.length * done) / total, slots?.length, { status });
      },
    };
    if (options.plan) session.note(`plan: ${JSON.stringify(await planAdapt(batch, settings))}`);
    for await (const { slot, adapted } of adaptBatch(batch, call)) {
      await folder.save(slot.id, adapted.delta).finally(() => adapted.delta.close());
      await session.printLines([{ id: slot.id, steps: adapted.steps, loss: logprobsJson(adapted.loss) }]);
      finished++;
    }
  }
}

/** Edits of the input. Errors, naming the line: `INPUT_INVALID`. */
async function* readEdits(input: string, session: Session): AsyncGenerator<Edit, void> {
  const lines = new Map<string, string>();
  for await (const line of readLines(input, session)) {
    const { id: given, documents } = line.fields;
    // Numbers are common as ids, and unambiguous as folder names.
    const id = Number.isSafeInteger(given) ? String(given) : given;
    if (typeof id !== 'string') throw invalid(line, 'id', given, 'a string, the name of a folder');
    checkId(id, line.where);
    const before = lines.get(id);
    if (before !== undefined) {
      throw makeError(
        'INPUT_INVALID',
        `${line.where}: the id ${JSON.stringify(id)} is that of ${before}; expected another`,
      );
    }
    lines.set(id, line.where);
    if (!Array.isArray(documents) || documents.length === 0) {
      throw invalid(line, 'documents', documents, 'an array of at least one text or array of token ids');
    }
    for (const [d, document] of documents.entries()) {
      if (typeof document === 'string' || isTokens(document)) continue;
      if (markedSchema.safeParse(document).success) continue;
      throw invalid(line, `documents[${d}]`, document, 'a text, token ids, or a text with spans or a mask');
    }
    yield { id, line, documents: documents as Document[] };
  }
}

function toSlot(edit: Edit, model: Model, options: Options, init: Delta | undefined): Slot {
  const { id, line } = edit;
  const rows = edit.documents.map((document, d) => toRow(document, model, `${line.where}, document ${d}`));
  const documents = rows.map(({ tokens }) => tokens);
  const lossMask = rows.map(({ tokens, mask }) => mask ?? new Uint8Array(tokens.length).fill(1));
  // By the place in the whole input, so that --slots changes nothing.
  const key = deriveKey(options.seed, 'edit', [line.index]);
  return { id, where: line.where, fork: model, documents, lossMask, seed: key, ...(init ? { init } : {}) };
}

function toRow(document: Document, model: Model, where: string): TrainingRow {
  const isMarked = typeof document === 'object' && 'text' in document;
  if (!isMarked) {
    const tokens = checkedTokens(model, document, where);
    if (tokens.length >= 2) return { tokens };
    throw makeError(
      'INPUT_INVALID',
      `${where} has 1 token; expected at least 2, as the first is not predicted`,
    );
  }
  let row: TrainingRow;
  try {
    row = toTrainingRow(model.tokenizer, document);
  } catch (error) {
    if (!(error instanceof SelfeditError)) throw error;
    throw makeError(error.code, `${where}: ${error.message}`, error);
  }
  checkedTokens(model, row.tokens, where);
  if (bearsLoss(row)) return row;
  throw makeError('INPUT_INVALID', `${where} has no token that bears loss; expected one behind the first`);
}

async function* streamSlots(
  options: Options,
  session: Session,
  model: Model,
  init: Delta | undefined,
): AsyncGenerator<Slot, void> {
  for await (const edit of readEdits(options.input, session)) yield toSlot(edit, model, options, init);
}

/** Trains a batch together. Where one edit diverges, each alone: what the others become does not depend on it. */
async function* adaptBatch(
  batch: readonly Slot[],
  call: AdaptCallOptions,
): AsyncGenerator<{ slot: Slot; adapted: Adapted }, void> {
  let together: Adapted[] | undefined;
  try {
    together = batch.length > 1 ? await adapt(batch, call) : undefined;
  } catch (error) {
    if (!(error instanceof SelfeditError && error.code === 'LOSS_NOT_FINITE')) throw error;
  }
  for (const [index, slot] of batch.entries()) {
    const adapted = together?.[index] ?? (await alone(slot, call));
    yield { slot, adapted };
  }
}

async function alone(slot: Slot, call: AdaptCallOptions): Promise<Adapted> {
  const [adapted] = await named(`${slot.where} (id ${JSON.stringify(slot.id)})`, () => adapt([slot], call));
  return adapted!;
}

/** Settings of the call: as given, else those of `init`, else SEAL's. Errors: `OPTION_INVALID` where they differ. */
function settingsOf(options: Options, init: Delta | undefined): AdaptCallOptions {
  const { lr, epochs, schedule, shuffle, faithfulPadding } = options;
  const settings: AdaptCallOptions = { learningRate: lr, epochs, schedule, shuffle };
  if (faithfulPadding !== undefined) settings.faithfulPadding = true;
  if (typeof faithfulPadding === 'number') settings.paddingLength = faithfulPadding;
  if (options.targets) settings.targets = options.targets;
  if (options.rank !== undefined) settings.rank = options.rank;
  if (options.alpha !== undefined) settings.alpha = options.alpha;
  const first = init?.parts[0];
  if (!init || !first) return settings;
  const alpha = first.scale * first.rank;
  if (options.alpha !== undefined && Math.abs(options.alpha - alpha) > 1e-6 * alpha) {
    throw makeError(
      'OPTION_INVALID',
      `--alpha is ${options.alpha}, but the adapter of --init has ${alpha}; leave it out or give that`,
    );
  }
  const targets = init.parts.map(({ matrix }) => init.model.matrices[matrix]!.name);
  return { rank: first.rank, targets, ...settings, alpha };
}

async function collect<T>(source: AsyncIterable<T>): Promise<T[]> {
  const items: T[] = [];
  for await (const item of source) items.push(item);
  return items;
}

async function* fromArray<T>(items: readonly T[]): AsyncGenerator<T, void> {
  yield* items;
}
