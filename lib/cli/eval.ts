/** `selfedit eval`: a task's score without training. */

import { type Command, Option } from 'commander';
import { average } from '../average.js';
import { makeError } from '../errors.js';
import { deriveKey } from '../random.js';
import { type Answered, ask, type MeasureName } from '../reward/measure.js';
import { bootstrapMean } from '../reward/statistics.js';
import { readPassages } from '../task/passages.js';
import { evaluateArc, readSolved } from './eval-arc.js';
import { addAdapterOption, addModelOptions, type ModelOptions, openModel } from './options.js';
import type { Session } from './session.js';
import { ForkShelf } from './shelf.js';

interface Options extends ModelOptions {
  adapter: string[];
  task: string;
  data: string;
  solutions?: string;
}

/** Measures of the report; the first is the score. */
const MEASURES: readonly MeasureName[] = ['f1', 'exact', 'recall', 'likelihood'];
/** Passages of one native call. */
const BATCH = 16;

export function addEval(program: Command, session: Session): void {
  addAdapterOption(addModelOptions(program.command('eval').description("A task's score without training.")))
    .addOption(
      new Option('--task <name>', 'what is asked')
        .choices(['knowledge', 'qa', 'arc'])
        .makeOptionMandatory(true),
    )
    .requiredOption('--data <file>', 'passages with questions: JSON, JSONL or SQuAD v1.1; arc: challenges')
    .option('--solutions <file>', 'arc: outputs of the test inputs, where the challenges lack them')
    .addHelpText(
      'after',
      `
knowledge (or qa): every question of every passage is answered greedily, 64 tokens at most, without the passage.
Out: one JSON object {"task", "n", "score", "interval": [low, high], "parts"}. The score is the mean F1 over the n
questions; the interval is its 95 % interval, whole passages resampled ([0, 1] for a single passage). "parts" has the
means of f1, exact, recall (share of the answer's words found) and likelihood (nats a token of the right answer).

arc: every test input is answered greedily from its task's demonstrations under all eight rotations and flips, undone and
voted on. The score is the share of the n tasks of which every test input is right within two attempts; the interval is
Wilson's. "parts" has the means of solved, attempt1 (right at the first attempt), cells (share right of the better attempt)
and likelihood.

Example:
  selfedit eval --model smollm2-135m-instruct --task knowledge --data passages.json
  selfedit eval --model smollm2-135m-instruct --task arc --data challenges.json --solutions solutions.json`,
    )
    .action((options: Options) => run(options, session));
}

async function run(options: Options, session: Session): Promise<void> {
  if (options.task === 'arc') return runArc(options, session);
  if (options.solutions !== undefined) {
    throw makeError('OPTION_INVALID', `--solutions with --task ${options.task}; expected --task arc with it`);
  }
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
      parts: Object.fromEntries(MEASURES.map((measure) => [measure, average(values(measure).flat())])),
    },
  ]);
}

async function runArc(options: Options, session: Session): Promise<void> {
  const tasks = await readSolved(options.data, options.solutions);
  await using model = await openModel(options, session);
  await using shelf = new ForkShelf(model);
  await session.printLines([await evaluateArc(tasks, await shelf.get(options.adapter), session)]);
}
