/** `selfedit grade`: judges answers as a reward does. */
import { type Command, InvalidArgumentError } from 'commander';
import { makeError } from '../errors.js';
import { exact } from '../reward/exact.js';
import { f1 } from '../reward/f1.js';
import { recall } from '../reward/recall.js';
import { optionalText, optionalTexts, text } from './fields.js';
import { batches, readLines } from './jsonl.js';
import { addInputOption } from './options.js';
import type { Session } from './session.js';

/** What each grader gives, and from which score on an answer counts as right. */
const GRADERS = {
  exact: { grade: exact, right: 1 },
  f1: { grade: f1, right: 0.5 },
  recall: { grade: recall, right: 1 },
} as const;
type Grader = keyof typeof GRADERS;
const NAMES = Object.keys(GRADERS).join(', ');

export function addGrade(program: Command, session: Session): void {
  addInputOption(program.command('grade').description('Judges answers by the grader of a reward.'))
    .option('--grader <name>', `one of: ${NAMES}`, grader, 'exact')
    .addHelpText(
      'after',
      `
In, a line each:   {"question", "answer", "prediction"}; "answer" may be an array of right ones
Out, same order:   {"score", "correct"}, the score in [0, 1]
  exact    1 for an exact match after SQuAD's normalisation; correct at 1
  f1       words shared, precision and recall together;      correct from 0.5
  recall   share of the answer's words in the prediction;    correct at 1

Example:
  echo '{"question": "Who?", "answer": "Ada", "prediction": "ada."}' | selfedit grade --grader exact`,
    )
    .action(async (options: { grader: Grader; input?: string }) => {
      const { grade, right } = GRADERS[options.grader];
      async function* grades() {
        for await (const line of readLines(options.input, session)) {
          // The question plays no part for these graders; it must be a string where it is given.
          optionalText(line, 'question');
          const answers = optionalTexts(line, 'answer');
          if (answers === undefined || answers.length === 0) {
            throw makeError(
              'INPUT_INVALID',
              `${line.where} has no "answer"; expected a string, or an array of strings`,
            );
          }
          const score = grade(text(line, 'prediction'), answers);
          yield { score, correct: score >= right };
        }
      }
      for await (const batch of batches(grades(), 1024)) await session.printLines(batch);
    });
}

function grader(name: string): Grader {
  if (Object.hasOwn(GRADERS, name)) return name as Grader;
  throw new InvalidArgumentError(`Expected one of ${NAMES}.`);
}
