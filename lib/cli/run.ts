/** From arguments to an exit code: signals, broken pipes, and one line for every error. */
import { constants } from 'node:os';
import { CommanderError } from 'commander';
import { SelfeditError } from '../errors.js';
import { buildProgram } from './program.js';
import { BrokenPipe, Session } from './session.js';

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/** Runs one command and ends the process: 0 only if all the work was done, 1 for a failure, 2 for wrong usage. */
export async function runCli(argv: readonly string[]): Promise<void> {
  const session = new Session();
  let interrupted: number | undefined;
  for (const name of SIGNALS) {
    process.on(name, () => {
      const code = 128 + constants.signals[name];
      // The first asks for an orderly end, which a step of the work may delay; the second takes no more time.
      if (interrupted !== undefined) process.exit(code);
      interrupted = code;
      session.abort(name);
    });
  }
  process.on('exit', () => session.runCleanups());
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') session.abort(new BrokenPipe());
  });
  process.stderr.on('error', () => {});
  const end = (error: unknown): never => {
    session.endMeter();
    // Work that was stopped because its results could not be written failed for that reason.
    const reason: unknown = session.signal.reason;
    process.exit(interrupted ?? report(reason instanceof Error ? reason : error));
  };
  process.on('uncaughtException', end);
  process.on('unhandledRejection', end);
  try {
    await buildProgram(session).parseAsync(argv);
  } catch (error) {
    if (interrupted !== undefined && !isUsage(error)) {
      // Of several processes, the line says which one it is.
      const ranked = error instanceof SelfeditError && error.message.startsWith('rank ') ? error : undefined;
      writeError(ranked?.code ?? 'ABORTED', ranked?.message ?? 'interrupted');
    }
    end(error);
  }
  session.endMeter();
  // Not left to the event loop: an open standard input would keep it going.
  process.exit(interrupted ?? process.exitCode ?? 0);
}

function isUsage(error: unknown): error is CommanderError {
  return error instanceof CommanderError;
}

/** Says what went wrong, and returns the exit code for it. */
function report(error: unknown): number {
  // Commander has said it already, through `usageError`.
  if (isUsage(error)) return error.exitCode === 0 ? 0 : 2;
  if (error instanceof BrokenPipe) return 1;
  const typed = error instanceof SelfeditError ? error : undefined;
  writeError(typed?.code ?? 'INTERNAL', error instanceof Error ? error.message : String(error));
  if (process.env.SELFEDIT_DEBUG === '1') process.stderr.write(`${chain(error)}\n`);
  return typed?.exitCode ?? 1;
}

/** The line of an error: `error [CODE]: message`. */
export function writeError(code: string, message: string): void {
  process.stderr.write(`error [${code}]: ${message}\n`);
}

/** Stacks of an error and of its causes. */
function chain(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const own = error.stack ?? `${error.name}: ${error.message}`;
  return error.cause === undefined ? own : `${own}\ncaused by ${chain(error.cause)}`;
}
