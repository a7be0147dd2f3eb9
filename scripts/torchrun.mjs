// torchrun, for tests: where it is, and a run of the command line under it.
import { spawn, spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const MAIN = join(dirname(fileURLToPath(import.meta.url)), '..', 'dist', 'cli', 'main.js');

/** The program, by SELFEDIT_TORCHRUN or PATH; undefined where there is none. */
export function findTorchrun(env = process.env) {
  const program = env.SELFEDIT_TORCHRUN || 'torchrun';
  return spawnSync(program, ['--help'], { env, stdio: 'ignore' }).status === 0 ? program : undefined;
}

/** Why tests under torchrun do not run; empty where they do. */
export function whyNoTorchrun(env = process.env) {
  if (findTorchrun(env)) return '';
  return "torchrun was not found: install Python's torch, or name the program in SELFEDIT_TORCHRUN";
}

/** Starts `selfedit` with these arguments as so many ranks on loopback. `ended` gives the exit code and what was written. */
export function startTorchrun(torchrun, ranks, args, { cwd, restarts = 0, env = {} } = {}) {
  const launch = [
    '--no-python',
    '--standalone',
    '--local-addr',
    '127.0.0.1',
    '--nproc-per-node',
    String(ranks),
  ];
  const program = [process.execPath, MAIN, ...args];
  const child = spawn(torchrun, [...launch, '--max-restarts', String(restarts), ...program], {
    cwd,
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text) => {
      output += text;
    });
  }
  const ended = new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code) => resolve({ code, output }));
  });
  return { child, ended };
}

/** Process ids of the ranks, in the order of their start. */
export function ranksOf(agent) {
  try {
    const tasks = readdirSync(`/proc/${agent}/task`);
    const children = tasks.flatMap((task) =>
      readFileSync(`/proc/${agent}/task/${task}/children`, 'utf8').trim().split(/\s+/).filter(Boolean),
    );
    return children
      .map(Number)
      .filter((pid) => readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('main.js'))
      .sort((left, right) => left - right);
  } catch {
    return []; // it ended meanwhile
  }
}
