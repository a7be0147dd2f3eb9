// Options of a benchmark, and what every benchmark works with.
import { mkdtempSync, rmSync } from 'node:fs';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { doctor, Model, makeError, setThreads } from 'selfedit';
import { writeModel } from './folder.mjs';
import { limitsOf } from './limits.mjs';
import { lacking } from './peer.mjs';
import { shapeOf } from './shapes.mjs';

const DTYPES = ['float32', 'bfloat16'];

/**
 * `given`: shape (S), device (cpu), dtype, forks, peerForks, threads, python (python3), repeats, quick, and what the
 * benchmark has of its own. `log` takes a line for people, `signal` stops the work. `close()` removes the temporary folder.
 */
export async function makeContext(benchmark, given, { log, signal }) {
  const device = given.device ?? 'cpu';
  const dtype = given.dtype ?? (device === 'cpu' ? 'float32' : 'bfloat16');
  if (!DTYPES.includes(dtype)) {
    throw makeError('OPTION_INVALID', `dtype is "${dtype}"; expected ${DTYPES.join(' or ')}`);
  }
  const shape = shapeOf(given.shape ?? 'S');
  const threads = given.threads ?? cpus().length;
  setThreads(threads);
  const python = given.python ?? 'python3';
  const notes = [];
  const note = (line) => {
    notes.push(line);
    log(line);
  };
  const peerLacks = lacking(python, benchmark.peerNeeds);
  if (peerLacks) note(`no peer, so no ratio: ${peerLacks}`);
  const folder = mkdtempSync(join(tmpdir(), 'selfedit-bench-'));
  const remove = () => rmSync(folder, { recursive: true, force: true });
  process.once('exit', remove);
  const report = await doctor();
  return {
    ...given,
    name: benchmark.name,
    shape,
    device,
    dtype,
    threads,
    python,
    peerLacks,
    folder,
    notes,
    log: note,
    signal,
    versions: {
      selfedit: report.version,
      node: process.version,
      libtorch: report.libtorch?.version ?? null,
      machine: `${cpus()[0]?.model ?? 'unknown'}, ${threads} threads`,
      simd: report.simd,
    },
    /** What a peer of transformers needs to know in any case. */
    get peerWork() {
      return { model: join(folder, 'model'), device, dtype, threads };
    },
    /** Writes the shape's random weights (once) and loads them. */
    async loadModel() {
      log(`${shape.name} (${shape.like}): random weights, ${dtype}, ${device}, ${threads} threads`);
      const path = await this.writeModel();
      return Model.load(path, { device, dtype, signal });
    },
    async writeModel() {
      this.written ??= writeModel(join(folder, 'model'), shape, dtype);
      return this.written;
    },
    async limits() {
      if (!this.known) {
        this.known = await limitsOf(this);
        const { operations, bandwidth, source } = this.known;
        note(`hardware: ${rate(operations, 'operations')}, ${rate(bandwidth, 'B')} (${source})`);
      }
      return this.known;
    },
    close() {
      process.off('exit', remove);
      remove();
    },
  };
}

function rate(value, unit) {
  return Number.isFinite(value) ? `${(value / 1e9).toPrecision(4)} G${unit}/s` : `? ${unit}/s`;
}
