/**
 * Every file of the malformed corpus (scripts/fixtures/malformed.mjs) through the public API, in a process of its own that
 * has to survive them all: a typed error of one line that names the file, within a second of processor time and within
 * twice the file's size of memory plus a constant.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Malformed, malformed, wellFormed, writeCase } from '../../scripts/fixtures/malformed.mjs';
import { child } from './child.js';

const SECOND = 1000;
/** What a call takes whatever it reads: the collector's young generation, stacks, the error. Bytes. */
const CONSTANT = 32e6;

interface Outcome {
  /** Empty when the call succeeded. */
  code: string;
  typed: boolean;
  message: string;
  /** Processor time, user and system. */
  milliseconds: number;
  /** By how much the peak of resident memory was above what was resident before, in bytes. */
  grown: number;
}
interface Case extends Malformed {
  path: string;
  /** Of the largest file, in bytes. */
  size: number;
}

const program = (manifest: string) => `
  import { readFileSync, writeFileSync } from 'node:fs';
  const kilobytes = (name) => Number(new RegExp(name + ':\\\\s+(\\\\d+)').exec(readFileSync('/proc/self/status', 'utf8'))[1]);
  const model = await se.Model.random({ ...config, vocabSize: 8, hiddenSize: 4, intermediateSize: 8, layers: 1, heads: 2, kvHeads: 1, headDim: 4 });
  const calls = {
    model: (path) => se.Model.load(path),
    tokenizer: (path) => se.Tokenizer.fromFolder(path),
    delta: (path) => se.Delta.load(model, path),
  };
  for (const { call, path } of JSON.parse(readFileSync(${JSON.stringify(manifest)}, 'utf8'))) {
    gc();
    writeFileSync('/proc/self/clear_refs', '5'); // the peak begins anew
    const before = kilobytes('VmRSS');
    const start = process.cpuUsage();
    const outcome = { code: '', typed: true, message: '' };
    try {
      await calls[call](path);
    } catch (error) {
      Object.assign(outcome, { code: String(error.code), typed: error instanceof se.SelfeditError, message: String(error.message) });
    }
    const { user, system } = process.cpuUsage(start);
    console.log(JSON.stringify({ ...outcome, milliseconds: (user + system) / 1000, grown: (kilobytes('VmHWM') - before) * 1024 }));
  }`;

let folder: string;
const cases: Case[] = [];
let outcomes: Outcome[];

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'selfedit-malformed-'));
  for (const made of [...wellFormed(), ...malformed()]) {
    const root = join(folder, String(cases.length));
    mkdirSync(root);
    const path = writeCase(root, made);
    const size = Math.max(...Object.values(made.files).map((content) => content.length));
    cases.push({ ...made, files: {}, path, size });
  }
  const manifest = join(folder, 'manifest.json');
  writeFileSync(manifest, JSON.stringify(cases.map(({ call, path }) => ({ call, path }))));
  const ended = await child(program(manifest), { flags: ['--expose-gc'], seconds: 240 });
  expect({ status: ended.status, signal: ended.signal, stderr: ended.stderr }).toEqual({
    status: 0,
    signal: null,
    stderr: '',
  });
  outcomes = ended.stdout.split('\n').map((line) => JSON.parse(line) as Outcome);
}, 300_000);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** What is wrong with the outcomes of the cases that `holds` does not hold for. */
function broken(
  holds: (outcome: Outcome, made: Case) => boolean,
  show: (outcome: Outcome) => unknown,
): string[] {
  const skipped = wellFormed().length;
  return cases.flatMap((made, index) =>
    index < skipped || holds(outcomes[index]!, made) ? [] : [`${made.name}: ${show(outcomes[index]!)}`],
  );
}

describe('the corpus of malformed files', () => {
  it('has more than 200 of every kind of file', () => {
    const kinds = new Set(cases.map(({ name }) => /^[\w.]+(?=:)/.exec(name)?.[0]));
    expect(cases.length).toBeGreaterThan(600);
    for (const kind of [
      'model.safetensors',
      'model.gguf',
      'config.json',
      'tokenizer.json',
      'index.json',
      'adapter_config.json',
      'adapter_model.safetensors',
    ]) {
      expect(kinds).toContain(kind);
    }
  });

  it('is made of spoilt copies of files that load', () => {
    expect(outcomes).toHaveLength(cases.length);
    for (const [index] of wellFormed().entries())
      expect(outcomes[index]).toMatchObject({ code: '', message: '' });
  });

  it('is refused with typed errors', () => {
    expect(
      broken(
        ({ code, typed }) => typed && code !== '' && code !== 'INTERNAL',
        ({ code, message }) => `${code} ${message}`,
      ),
    ).toEqual([]);
  });

  it('is refused in one line that names the file', () => {
    const named = ({ message }: Outcome, { names }: Case) =>
      message.includes(names) && !message.includes('\n') && message.length < 2000;
    expect(broken(named, ({ message }) => message)).toEqual([]);
  });

  it('is refused in less than a second', () => {
    expect(
      broken(
        ({ milliseconds }) => milliseconds < SECOND,
        ({ milliseconds }) => milliseconds,
      ),
    ).toEqual([]);
  });

  it(`is refused within twice a file's size of memory and ${CONSTANT / 1e6} MB`, () => {
    expect(
      broken(
        ({ grown }, { size }) => grown < 2 * size + CONSTANT,
        ({ grown }) => grown,
      ),
    ).toEqual([]);
  });
});
