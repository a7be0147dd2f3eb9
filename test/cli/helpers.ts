/** Runs the compiled command line as a user does: a process of its own, text in, text and an exit code out. */
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll } from 'vitest';

export const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));

export interface Outcome {
  code: number | null;
  stdout: string;
  stderr: string;
}

export interface RunOptions {
  /** Text of standard input; nothing by default. */
  input?: string;
  cwd?: string;
  env?: Record<string, string>;
  /** Another compiled entry than `dist/cli/main.js`. */
  entry?: string;
}

/** Starts `selfedit`; standard input stays open. */
export function start(args: readonly string[], options: RunOptions = {}): ChildProcessWithoutNullStreams {
  const entry = options.entry ?? main;
  if (!existsSync(entry)) throw new Error(`${entry} is missing: run "npm run build:ts"`);
  const env = { ...process.env, ...options.env };
  return spawn(process.execPath, [entry, ...args], { env, ...(options.cwd ? { cwd: options.cwd } : {}) });
}

/** What a started process has written, once it has ended. */
export function finished(child: ChildProcessWithoutNullStreams): Promise<Outcome> {
  return new Promise((resolve, reject) => {
    let stdout = '';
    let stderr = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      stdout += text;
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      stderr += text;
    });
    child.on('error', reject);
    child.on('close', (code) => resolve({ code, stdout, stderr }));
  });
}

/** Runs `selfedit` to its end. */
export function selfedit(args: readonly string[], options: RunOptions = {}): Promise<Outcome> {
  const child = start(args, options);
  // A process that refuses its options does not read.
  child.stdin.on('error', () => {});
  child.stdin.end(options.input ?? '');
  return finished(child);
}

/** The objects of JSONL text. */
export function lines<T>(text: string): T[] {
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as T);
}

/** JSONL text of objects. */
export function jsonl(values: readonly unknown[]): string {
  return values.map((value) => `${JSON.stringify(value)}\n`).join('');
}

/** A folder that is removed after the tests of the file. */
export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'selfedit-cli-'));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** Tensors of a small float32 safetensors file, read without the package's own reader. */
export function readSafetensors(path: string): Map<string, { shape: number[]; values: Float32Array }> {
  const bytes = readFileSync(path);
  const headerSize = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString('utf8', 8, 8 + headerSize)) as Record<
    string,
    { dtype: string; shape: number[]; data_offsets: [number, number] }
  >;
  const tensors = new Map<string, { shape: number[]; values: Float32Array }>();
  for (const [name, { dtype, shape, data_offsets: offsets }] of Object.entries(header)) {
    if (name === '__metadata__') continue;
    if (dtype !== 'F32') throw new Error(`${name} is ${dtype}`);
    const values = new Float32Array((offsets[1] - offsets[0]) / 4);
    for (const i of values.keys()) values[i] = bytes.readFloatLE(8 + headerSize + offsets[0] + 4 * i);
    tensors.set(name, { shape, values });
  }
  return tensors;
}
