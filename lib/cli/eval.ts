/** `selfedit eval`: a task's score without training. */
import { type Command, Option } from 'commander';
import { makeError } from '../errors.js';
import { deriveKey } from '../random.js';
import { type Answered, ask, type MeasureName } from '../reward/measure.js';
import { bootstrapMean } from '../reward/statistics.js';
import { readPassages } from '../task/passages.js';
import { addAdapterOption, addModelOptions, type ModelOptions, openModel } from './options.js';
import type { Session } from './session.js';
import { ForkShelf } from './shelf.js';

interface Options extends ModelOptions {
  adapter: string[];
  task: string;
  data: string;
}

/** Measures of the report; the first is the score. */
const MEASURES: readonly MeasureName[] = ['f1', 'exact', 'recall', 'likelihood'];
/** Passages of one native call. */
const BATCH = 16;

export function addEval(program: Command, session: Session): void {
  addAdapterOption(addModelOptions(program.command('eval').description("A task's score without training.")))
    .addOption(
      new Option('--task <name>', 'what is asked').choices(['knowledge', 'qa']).makeOptionMandatory(true),
    )
    .requiredOption('--data <file>', 'passages with questions: JSON, JSONL or SQuAD v1.1')
    .addHelpText(
      'after',
      `
knowledge (or qa): every question of every passage is answered greedily, 64 tokens at most, without the passage.
Out: one JSON object {"task", "n", "score", "interval": [low, high], "parts"}. The score is the mean F1 over the n
questions; the interval is its 95 % interval, whole passages resampled ([0, 1] for a single passage). "parts" has the
means of f1, exact, recall (share of the answer's words found) and likelihood (nats a token of the right answer).

Example:
  selfedit eval --model smollm2-135m-instruct --task knowledge --data passages.json`,
    )
    .action((options: Options) => run(options, session));
}

async function run(options: Options, session: Session): Promise<void> {
  const { passages } = await readPassages(options.data);
  const asked = passages.filter(({ questions }) => questions.length > 0);
  const n = asked.reduce((sum, { questions }) => sum + questions.length, 0);
  if (n === 0) throw makeError('INPUT_INVALID', `${options.data} has no questions; expected at least one`);
  await using model = await openModel(options, session);
  await using shelf = new ForkShelf(model);
  const fork = await shelf.get(options.adapter);
  const answers: Answered[][] = [];
  const meter = session.meter({ label: 'eval', unit: 'questions' });
  let finished = 0;
  for (let first = 0; first < asked.length; first += BATCH) {
    const batch = asked.slice(first, first + BATCH);
    const rows = batch.flatMap(({ title, questions }, index) =>
      questions.map((question, position) => ({
        fork,
        title,
        question: { ...question, id: `${first + index}.${position}` },
      })),
    );
    const answered = await ask(rows, {
      tokenizer: model.tokenizer,
      measures: MEASURES,
      signal: session.signal,
    });
    let next = 0;
    for (const { questions } of batch) {
      answers.push(answered.slice(next, next + questions.length));
      next += questions.length;
    }
    finished += rows.length;
    meter.update(finished, n);
  }
  const values = (measure: MeasureName) =>
    answers.map((group) => group.map(({ scores }) => scores[measure]!));
  const score = bootstrapMean(values(MEASURES[0]!), { key: deriveKey(0, 'eval') });
  const within = (value: number) => Math.min(1, Math.max(0, value));
  await session.printLines([
    {
      task: options.task,
      n,
      score: score.mean,
      interval: [within(score.low), within(score.high)],
      parts: Object.fromEntries(MEASURES.map((measure) => [measure, mean(values(measure).flat())])),
    },
  ]);
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
