// `selfedit bench`: its contract, on a toy and without a peer; and that a peer that computes something else is noticed.
import { chmodSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { selfedit, temporaryFolder } from './helpers.js';

const TINY = ['--shape', 'tiny', '--quick', '--repeats', '3', '--threads', '1'];
const NO_PYTHON = ['--python', '/nowhere/python'];

describe('wrong usage', () => {
  it('says which benchmarks there are', async () => {
    const { code, stdout, stderr } = await selfedit(['bench', 'speed']);
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
    expect(stderr).toMatch(
      /^error \[OPTION_INVALID\]: .*"speed".*inner-loop, evaluate, generate, fork, sparse, update, round, load, score, divergence, event-loop\n$/,
    );
  });

  it('names the shapes', async () => {
    const { code, stderr } = await selfedit(['bench', 'fork', '--shape', 'huge']);
    expect(code).toBe(2);
    expect(stderr).toMatch(/^error \[OPTION_INVALID\]: .*tiny, S, M, L, XL.*\n$/);
  });

  it('names every benchmark in its help', async () => {
    const { stdout } = await selfedit(['bench', '--help']);
    const flat = stdout.replace(/\s+/g, ' ');
    for (const name of [
      'inner-loop',
      'evaluate',
      'generate',
      'fork',
      'sparse',
      'update',
      'round',
      'load',
      'score',
      'divergence',
      'event-loop',
    ]) {
      expect(flat).toContain(name);
    }
  });
});

describe('without a peer', () => {
  it.each([
    { name: 'inner-loop', limit: true },
    { name: 'evaluate', limit: true },
    { name: 'fork', limit: false },
    { name: 'round', limit: true },
  ])('$name prints one JSON object with the fields of the contract', async ({ name, limit }) => {
    const { code, stdout, stderr } = await selfedit(['bench', name, ...TINY, ...NO_PYTHON, '--json']);
    expect({ code, stderr }).toMatchObject({ code: 0 });
    expect(stderr).toContain('no peer, so no ratio: /nowhere/python does not start');
    expect(stdout.match(/\n/g)).toHaveLength(1);
    const report = JSON.parse(stdout) as Record<string, unknown>;
    expect(report).toMatchObject({
      name,
      shape: 'tiny',
      device: 'cpu',
      dtype: 'float32',
      ours: expect.any(Number),
      peer: null,
      ratio: null,
      limit: limit ? expect.any(Number) : null,
      fractionOfLimit: limit ? expect.any(Number) : null,
      samples: { ours: expect.any(Array), peer: [] },
      versions: { selfedit: expect.any(String), libtorch: expect.stringMatching(/^2\./) },
    });
    const samples = (report.samples as { ours: number[] }).ours;
    expect(samples.length).toBeGreaterThanOrEqual(3);
    const middle = [...samples].sort((a, b) => a - b)[samples.length >> 1];
    expect(report.ours).toBe(middle);
    if (limit) expect(report.fractionOfLimit).toBe((report.limit as number) / (report.ours as number));
  });

  it('event-loop prints the delays of every phase', async () => {
    const { code, stdout } = await selfedit(['bench', 'event-loop', ...TINY, ...NO_PYTHON, '--json']);
    expect(code).toBe(0);
    const { also, ...first } = JSON.parse(stdout) as Record<string, unknown> & {
      also: Record<string, unknown>[];
    };
    const phases = ['idle', 'load', 'adapt', 'generate', 'score', 'update', 'save', 'load of what was saved'];
    expect([first, ...also].map(({ name }) => name)).toEqual(phases.map((phase) => `event-loop: ${phase}`));
    for (const figure of [first, ...also]) {
      const { p50, p99, max, ticks } = figure.delay as Record<string, number>;
      expect(ticks).toBeGreaterThan(0);
      expect([p50, p99, max]).toEqual([p50!, p99!, max!].sort((a, b) => a - b));
      expect(figure).toMatchObject({
        bar: { delay: { p99: 0.01, max: 0.05 } },
        met: p99! < 0.01 && max! < 0.05,
      });
    }
  });

  it('prints a table for people', async () => {
    const { code, stdout } = await selfedit(['bench', 'score', ...TINY, ...NO_PYTHON]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^name +shape +dtype +ours +peer +ratio.*\nscore +tiny +float32 /);
  });
});

describe('with a peer', () => {
  /** Stands in for Python: has all modules, and answers that the model has so many parameters. */
  function impostor(parameters: number): string[] {
    const path = join(temporaryFolder(), 'python.mjs');
    const answer = JSON.stringify({ seconds: 1, result: { parameters }, versions: { torch: '0' } });
    writeFileSync(
      path,
      `#!${process.execPath}
import { createInterface } from 'node:readline';
if (process.argv[2] === '-c') console.log('[]');
else {
  let first = true;
  for await (const line of createInterface({ input: process.stdin })) {
    console.log(first ? '${answer}' : '{"seconds": 0.5}');
    first = false;
  }
}
`,
    );
    chmodSync(path, 0o755);
    return ['--python', path];
  }
  /** Of the tiny shape, counted by hand: embedding, two layers, last norm. */
  const parameters = 512 * 64 + 2 * (2 * 64 + 2 * 64 * 64 + 2 * 32 * 64 + 3 * 160 * 64) + 64;

  it('takes the ratio when both computed the same', async () => {
    const { code, stdout } = await selfedit(['bench', 'fork', ...TINY, ...impostor(parameters), '--json']);
    expect(code).toBe(0);
    const report = JSON.parse(stdout) as Record<string, unknown>;
    expect(report).toMatchObject({ peer: 0.5, samples: { peer: [0.5, 0.5, 0.5] }, versions: { torch: '0' } });
    expect(report.ratio).toBe(0.5 / (report.ours as number));
  });

  it('fails when they did not', async () => {
    const { code, stdout, stderr } = await selfedit(['bench', 'fork', ...TINY, ...impostor(parameters - 1)]);
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
    expect(stderr).toMatch(
      /error \[INTERNAL\]: fork: the two sides computed different things: difference in parameters is 1\.00, allowed is 0\n$/,
    );
  });
});
