/** `selfedit grade`: judges answers as a reward does. */
import { type Command, InvalidArgumentError } from 'commander';
import { makeError } from '../errors.js';
import { BUILT_IN_GRADERS, type GradeRow, type Grader } from '../reward/grader.js';
import { judge } from '../reward/judge.js';
import { LOCAL_RIGHT } from '../reward/local.js';
import { optionalText, optionalTexts, text } from './fields.js';
import { batches, type InputLine, readLines } from './jsonl.js';
import { addInputOption, integer, number } from './options.js';
import type { Session } from './session.js';

interface Options {
  grader: GraderName;
  input?: string;
  endpoint?: string;
  model?: string;
  keyVariable?: string;
  rubric?: true;
  cache?: string;
  concurrency?: number;
  timeout?: number;
}

/** One of the graders that need nothing but the right answers. */
const builtIn = (name: string) => () => BUILT_IN_GRADERS.find((grader) => grader.name === name)!;

/** What each grader gives, from which score on an answer counts as right, and how many answers it takes at once. */
const GRADERS = {
  exact: { make: builtIn('exact'), right: 1, batch: 1024 },
  f1: { make: builtIn('f1'), right: 0.5, batch: 1024 },
  recall: { make: builtIn('recall'), right: 1, batch: 1024 },
  local: { make: builtIn('local'), right: LOCAL_RIGHT, batch: 1024 },
  judge: { make: makeJudge, right: 0.5, batch: 64 },
} as const satisfies Record<string, { make: (options: Options) => Grader; right: number; batch: number }>;
type GraderName = keyof typeof GRADERS;
const NAMES = Object.keys(GRADERS).join(', ');

export function addGrade(program: Command, session: Session): void {
  addInputOption(program.command('grade').description('Judges answers by the grader of a reward.'))
    .option('--grader <name>', `one of: ${NAMES}`, graderName, 'exact')
    .option(
      '--endpoint <url>',
      'judge: base address of an OpenAI-compatible endpoint, such as https://host/v1',
    )
    .option('--model <name>', 'judge: name of its model')
    .option('--key-variable <name>', 'judge: environment variable that holds the key')
    .option('--rubric', 'judge: a mark from 0 to 10 instead of yes or no; needs no "answer"')
    .option('--cache <file>', 'judge: keeps replies, so that nothing is asked twice')
    .option('--concurrency <n>', 'judge: most calls at once (default: 8)', integer(1))
    .option(
      '--timeout <seconds>',
      'judge: longest time of a call (default: 60)',
      number(0, 3600, { open: true }),
    )
    .addHelpText(
      'after',
      `
In, a line each:   {"question", "answer", "prediction", "title"?, "context"?}; "answer" may be an array of right ones
Out, same order:   {"score", "correct"}, the score in [0, 1]; both null where it is unknown (exit code 1)
  exact    1 for an exact match after SQuAD's normalisation; correct at 1
  f1       words shared, precision and recall together;      correct from 0.5
  recall   share of the answer's words in the prediction;    correct at 1
  local    free answers by rules of English, no model;       correct from 2/3
  judge    a large model says yes or no, as in SEAL;         correct from 0.5

Example:
  echo '{"question": "Who?", "answer": "Ada", "prediction": "ada."}' | selfedit grade --grader exact`,
    )
    .action((options: Options) => run(options, session));
}

async function run(options: Options, session: Session): Promise<void> {
  const { make, right, batch: size } = GRADERS[options.grader];
  const grader: Grader = make(options);
  async function* rows() {
    for await (const line of readLines(options.input, session)) yield rowOf(line, grader.openEnded === true);
  }
  let all = 0;
  let unknown = 0;
  let cause: string | undefined;
  for await (const batch of batches(rows(), size)) {
    const scores = await grader.grade(batch, { signal: session.signal });
    all += scores.length;
    unknown += scores.filter(Number.isNaN).length;
    cause ??= grader.cause?.();
    await session.printLines(
      scores.map((score) =>
        Number.isNaN(score) ? { score: null, correct: null } : { score, correct: score >= right },
      ),
    );
  }
  if (unknown === 0) return;
  session.note(
    `${unknown} of ${all} answers have no grade${cause === undefined ? '' : `; the first: ${cause}`}`,
  );
  process.exitCode = 1;
}

function rowOf(line: InputLine, openEnded: boolean): GradeRow {
  const answers = optionalTexts(line, 'answer') ?? [];
  if (answers.length === 0 && !openEnded) {
    throw makeError(
      'INPUT_INVALID',
      `${line.where} has no "answer"; expected a string, or an array of strings`,
    );
  }
  const context = optionalText(line, 'context');
  return {
    title: optionalText(line, 'title') ?? '',
    question: optionalText(line, 'question') ?? '',
    answers,
    prediction: text(line, 'prediction'),
    ...(context === undefined ? {} : { context }),
  };
}

function makeJudge(options: Options): Grader {
  const { endpoint, model, keyVariable, rubric, cache, concurrency, timeout } = options;
  if (endpoint === undefined || model === undefined) {
    throw makeError('OPTION_INVALID', 'the grader judge needs --endpoint and --model');
  }
  return judge({
    endpoint,
    model,
    ...(keyVariable === undefined ? {} : { apiKeyVariable: keyVariable }),
    ...(rubric ? { form: 'rubric' } : {}),
    ...(cache === undefined ? {} : { cache }),
    ...(concurrency === undefined ? {} : { concurrency }),
    ...(timeout === undefined ? {} : { timeoutMs: Math.ceil(timeout * 1000) }),
  });
}

function graderName(name: string): GraderName {
  if (Object.hasOwn(GRADERS, name)) return name as GraderName;
  throw new InvalidArgumentError(`Expected one of ${NAMES}.`);
}
