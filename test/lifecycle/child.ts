/** Programs in processes of their own, on the compiled package. */
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { packageRoot } from '../../lib/load.js';
import { tinyConfig } from '../support/tiny.js';

export interface Ended {
  status: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

/** What a well-behaved program leaves behind. */
export function wellEnded(stdout: string, status = 0): Ended {
  return { status, signal: null, stdout, stderr: '' };
}

const entry = JSON.stringify(pathToFileURL(join(packageRoot, 'dist', 'index.js')).href);

/** At hand in every program: the package as `se`, a tiny `config`, `tokens(n)`, and `endless(fork, options)`. */
const prelude = `
  import * as se from ${entry};
  const config = ${JSON.stringify(tinyConfig())};
  const tokens = (n, seed = 1) => Int32Array.from({ length: n }, (_, i) => (i * 37 + seed * 11) % 331);
  const endless = (fork, options = {}) =>
    se.adapt([{ fork, documents: [tokens(60), tokens(50, 2)] }], { epochs: 1e7, rank: 2, ...options });
  const bits = (a) => Buffer.from(a.buffer, a.byteOffset, a.byteLength).toString('base64');
  const scored = async (fork) => bits((await se.score([{ fork, tokens: tokens(40) }]))[0]);
`;

/**
 * In programs that use workers: `start(source)` runs a source with the same things at hand and `post`, and waits for its
 * first message.
 */
const workers = `
  import { Worker } from 'node:worker_threads';
  import { once } from 'node:events';
  const workerPrelude = ${JSON.stringify(`
    ${prelude}
    import { parentPort } from 'node:worker_threads';
    const post = (message) => parentPort.postMessage(message);
  `)};
  const start = async (source, { onError, ...options } = {}) => {
    const worker = new Worker(workerPrelude + source, { eval: true, ...options });
    // Listened for from the start: they may come together with the message.
    if (onError) worker.on('error', onError);
    const exited = new Promise((done) => worker.once('exit', done));
    const [message] = await once(worker, 'message');
    return { worker, message, exited };
  };
`;

export interface ChildOptions {
  flags?: readonly string[];
  env?: NodeJS.ProcessEnv;
  /** Sent when the program first prints something. */
  kill?: NodeJS.Signals;
  /** No file of the program grows beyond this many KiB: to it, the disk is full. */
  fileLimit?: number;
  /** After which it is killed. */
  seconds?: number;
}

/** Runs a module; a program that does not end in a minute, or what is given, is killed, which its result shows. */
export function child(
  source: string,
  { flags = [], env = process.env, kill, fileLimit, seconds = 60 }: ChildOptions = {},
): Promise<Ended> {
  const needsWorkers = /\bstart\(/.test(source);
  const text = prelude + (needsWorkers ? workers : '') + source;
  const node = [process.execPath, ...flags, '--input-type=module', '-e', text];
  const limited =
    fileLimit === undefined ? node : ['bash', '-c', `ulimit -f ${fileLimit}; exec "$@"`, 'bash', ...node];
  const running = spawn(limited[0]!, limited.slice(1), { env, stdio: ['ignore', 'pipe', 'pipe'] });
  const ended: Ended = { status: null, signal: null, stdout: '', stderr: '' };
  running.stdout.on('data', (chunk: Buffer) => {
    if (kill && ended.stdout === '') running.kill(kill);
    ended.stdout += chunk.toString();
  });
  running.stderr.on('data', (chunk: Buffer) => {
    ended.stderr += chunk.toString();
  });
  const timer = setTimeout(() => running.kill('SIGKILL'), 1000 * seconds);
  return new Promise((done, fail) => {
    running.on('error', fail);
    running.on('close', (status, signal) => {
      clearTimeout(timer);
      done({ ...ended, status, signal, stdout: ended.stdout.trim(), stderr: ended.stderr.trim() });
    });
  });
}
