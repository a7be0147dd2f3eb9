/** The commands of the contract, and how wrong usage is reported. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Command } from 'commander';
import { packageRoot } from '../load.js';
import { addAdapt } from './adapt.js';
import { addBench } from './bench.js';
import { addDemo } from './demo.js';
import { addDoctor } from './doctor.js';
import { addEval } from './eval.js';
import { addExport } from './export.js';
import { addGenerate } from './generate.js';
import { addGrade } from './grade.js';
import { addInspect } from './inspect.js';
import { addPretrain } from './pretrain.js';
import { addPull } from './pull.js';
import { addRate } from './rate.js';
import { addReliability } from './reliability.js';
import { addScore } from './score.js';
import type { Session } from './session.js';
import { addTrain } from './train.js';

const COMMANDS = [
  addDoctor,
  addPull,
  addInspect,
  addScore,
  addGenerate,
  addAdapt,
  addPretrain,
  addTrain,
  addEval,
  addExport,
  addGrade,
  addReliability,
  addRate,
  addDemo,
  addBench,
];

export function buildProgram(session: Session): Command {
  const manifest = JSON.parse(readFileSync(join(packageRoot, 'package.json'), 'utf8')) as { version: string };
  const program = new Command('selfedit');
  program
    .description('Teaches a language model to edit itself.')
    .version(manifest.version)
    .helpCommand(false)
    .exitOverride()
    .configureOutput({ outputError: (text, write) => write(usageError(text)) })
    .addHelpText(
      'after',
      `
Results go to standard output (JSON or JSONL), progress and messages to standard error.
Exit code: 0 all done, 1 the work failed, 2 wrong usage or input. SELFEDIT_DEBUG=1 shows stack traces.

Example:
  selfedit generate --model smollm2-135m-instruct --chat --prompt "What is rain?"`,
    );
  for (const add of COMMANDS) add(program, session);
  return program;
}

/** Commander's message in the form of all others, on one line. */
function usageError(text: string): string {
  const message = text
    .replace(/^error: /, '')
    .trim()
    .replace(/\s*\n\s*/g, ' ');
  return `error [OPTION_INVALID]: ${message}\n`;
}
