/** `selfedit demo`: the whole idea on a small real model, within minutes. */
import type { Command } from 'commander';
import { runDemo } from '../demo.js';
import { readPassages } from '../task/passages.js';
import { findModel, integer, number } from './options.js';
import type { Session } from './session.js';

interface Options {
  data?: string;
  model: string;
  seed: number;
  passages?: number;
  minutes: number;
}

export function addDemo(program: Command, session: Session): void {
  program
    .command('demo')
    .description('A small model learns to write self-edits, and a table says what came of it.')
    .option('--data <file>', "passages: JSON, JSONL or SQuAD v1.1 (default: the project's invented ones)")
    .option('--model <path>', 'model folder, .gguf file, or a name that pull knows', 'smollm2-135m-instruct')
    .option('--seed <n>', 'seed of everything', integer(0), 0)
    .option('--passages <n>', 'most passages taken from the data', integer(1))
    .option('--minutes <n>', 'time for training and table', number(0, undefined, { open: true }), 8)
    .addHelpText(
      'after',
      '\nBrings the model first, when it is not in the cache.\n\nExample:\n  selfedit demo --data passages.json --passages 40',
    )
    .action((options: Options) => run(options, session));
}

async function run(options: Options, session: Session): Promise<void> {
  const { data, model, seed, passages, minutes } = options;
  // Bad data is reported before a model is brought.
  if (data !== undefined) await readPassages(data);
  let printed = Promise.resolve();
  await runDemo({
    model: await findModel(model, session),
    seed,
    minutes,
    ...(data === undefined ? {} : { data }),
    ...(passages === undefined ? {} : { passages }),
    signal: session.signal,
    write: (line) => {
      printed = printed.then(() => session.print(`${line}\n`));
      // Nobody reads on: the work ends with the step that is being done.
      printed.catch((error: unknown) => session.abort(error));
    },
  });
  await printed;
}
