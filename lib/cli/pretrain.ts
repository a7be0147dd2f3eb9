/** `selfedit pretrain`: continued pretraining on many passages, and what it teaches. */
import { join } from 'node:path';
import { type Command, Option } from 'commander';
import { ADAPT_DEFAULTS } from '../adapt.js';
import { type ContinuedArm, continuedPretraining } from '../continued.js';
import type { Trainable } from '../edit/apply.js';
import { makeError } from '../errors.js';
import type { MeasureName } from '../reward/measure.js';
import { knowledge } from '../task/knowledge.js';
import { readPassages } from '../task/passages.js';
import { invalid } from './fields.js';
import { readLines } from './jsonl.js';
import {
  addModelOptions,
  integer,
  list,
  type ModelOptions,
  number,
  openModel,
  seedOption,
} from './options.js';
import type { Session } from './session.js';

interface Options extends ModelOptions {
  data: string;
  edits?: string;
  passages?: number;
  weights: 'low-rank' | 'full';
  rank: number;
  alpha: number;
  lr?: number;
  epochs: number;
  batchSize: number;
  targets?: string[];
  seed: bigint;
  out?: string;
}

/** Measures of the report; the first is the score. */
const MEASURES: readonly MeasureName[] = ['f1', 'exact', 'recall', 'likelihood'];
const ARM = 'edits';

export function addPretrain(program: Command, session: Session): void {
  const { rank, alpha, epochs, batchSize, learningRate, targets } = ADAPT_DEFAULTS;
  addModelOptions(
    program
      .command('pretrain')
      .description('Continued pretraining: many passages into one delta, then all questions.'),
  )
    .requiredOption('--data <file>', 'passages with questions: JSON, JSONL or SQuAD v1.1')
    .option(
      '--edits <file>',
      'JSONL of edits {"documents": ["…", …]}, all trained together: an arm of its own',
    )
    .option('--passages <n>', 'only so many passages, chosen by the seed (default: all)', integer(1))
    .addOption(
      new Option('--weights <kind>', 'what is trained').choices(['low-rank', 'full']).default('low-rank'),
    )
    .option('--rank <n>', 'rank of low-rank factors', integer(1), rank)
    .option('--alpha <a>', 'they are scaled by alpha / rank', number(0, undefined, { open: true }), alpha)
    .option('--lr <rate>', `learning rate (default: ${learningRate}; needed with full weights)`, number(0))
    .option('--epochs <n>', 'passes over the documents', integer(1), epochs)
    .option('--batch-size <n>', 'documents of one step', integer(1), batchSize)
    .option(
      '--targets <list>',
      `modules to change (default: ${targets.join(',')}; full: all linear maps)`,
      list,
    )
    .addOption(seedOption('choice, first values and document order'))
    .option('--out <dir>', 'folder for the deltas, one folder an arm')
    .addHelpText(
      'after',
      `
Three arms: "unedited"; "passages only", trained on the passages' own text; "edits", trained on the documents of --edits.
Every question of every passage is then answered greedily, 64 tokens at most, the passage not shown.
Out, a line an arm: {"arm", "documents", "steps", "n", "score", "interval": [low, high], "gain", "parts"}. The score is the
mean F1 over the n questions; intervals are of 95 %, whole passages resampled; "gain" is {"mean", "low", "high"} over the
unedited model. DIR/passages-only and DIR/edits hold the deltas, for --adapter of the other commands.

Example:
  selfedit pretrain --model smollm2-135m-instruct --data passages.json --edits edits.jsonl --out deltas`,
    )
    .action((options: Options) => run(options, session));
}

async function run(options: Options, session: Session): Promise<void> {
  const { passages } = await readPassages(options.data);
  const edits = options.edits === undefined ? undefined : await readEdits(options.edits, session);
  const task = knowledge(passages, { seed: options.seed, retention: 0, training: options.passages });
  const contexts = task.contexts(0, passages.length);
  if (options.passages !== undefined && contexts.length < options.passages) {
    const found = `${options.data} has ${contexts.length} different passages with questions`;
    throw makeError('INPUT_INVALID', `${found}; --passages asks for ${options.passages}`);
  }
  const { rank, alpha, lr, epochs, batchSize, targets, seed, out } = options;
  const full = options.weights === 'full';
  if (full && lr === undefined) {
    throw makeError('OPTION_INVALID', '--weights full without --lr; expected one, such as 1e-5');
  }
  await using model = await openModel(options, session);
  await using parent = model.fork();
  const arms = await continuedPretraining({
    ...{ parent, contexts, seed, weights: full ? 'full' : 'lowRank' },
    ...(edits ? { edits: { [ARM]: edits } } : {}),
    adapt: {
      ...{ rank, alpha, epochs, batchSize },
      ...(lr === undefined ? {} : { learningRate: lr }),
      ...(targets || full ? { targets: targets ?? ['all'] } : {}),
    },
    reward: { measure: MEASURES[0]!, report: MEASURES.slice(1) },
    signal: session.signal,
    onArm: (arm) => session.note(`${arm}: ${contexts.length} passages`),
    ...(out === undefined
      ? {}
      : { onDelta: (arm, delta) => delta.save(join(out, arm.replaceAll(' ', '-'))) }),
  });
  await session.printLines(arms.map(lineOf));
  const broken = arms.find(({ diverged }) => diverged);
  if (broken) {
    throw makeError('LOSS_NOT_FINITE', `the training of "${broken.arm}" diverged; lower the learning rate`);
  }
}

function lineOf({ arm, documents, loss, intervals, gain }: ContinuedArm): object {
  const [name] = MEASURES;
  const { mean, low, high, n } = intervals[name!]!;
  const within = (value: number) => Math.min(1, Math.max(0, value));
  return {
    ...{ arm, documents, steps: loss.length, n, score: mean, interval: [within(low), within(high)] },
    ...(gain ? { gain: ends(gain[name!]!) } : {}),
    parts: Object.fromEntries(MEASURES.map((measure) => [measure, intervals[measure]!.mean])),
  };
}

/** No difference of shares is beyond −1 and 1, and JSON has no infinity. */
function ends({ mean, low, high }: { mean: number; low: number; high: number }): object {
  return { mean, low: Math.max(-1, low), high: Math.min(1, high) };
}

async function readEdits(path: string, session: Session): Promise<Trainable[]> {
  const edits: Trainable[] = [];
  for await (const line of readLines(path, session)) {
    const { documents } = line.fields;
    if (!Array.isArray(documents) || documents.length === 0) {
      throw invalid(line, 'documents', documents, 'an array of at least one text');
    }
    for (const [d, document] of documents.entries()) {
      if (typeof document === 'string' && document !== '') continue;
      throw invalid(line, `documents[${d}]`, document, 'a text that is not empty');
    }
    edits.push({ documents: documents as string[] });
  }
  if (edits.length > 0) return edits;
  throw makeError('INPUT_INVALID', `${path} has no edits; expected at least one`);
}
