/** The fast tiers of docs/reliability.md: the soaks of scripts/soak.mjs, fewer times each, in processes of their own. */
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { packageRoot } from '../../lib/load.js';

type Figures = Record<string, unknown> & { byKind?: Record<string, number> };

/** Runs a soak, which fails by itself where bits, states or live tensors are not as they were. */
async function soak(name: string, times: number, seed = 1): Promise<Figures> {
  const script = join(packageRoot, 'scripts', 'soak.mjs');
  const args = ['--expose-gc', script, name, '--times', String(times), '--seed', String(seed)];
  const running = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  let stdout = '';
  let stderr = '';
  running.stdout.on('data', (chunk: Buffer) => {
    stdout += chunk.toString();
  });
  running.stderr.on('data', (chunk: Buffer) => {
    stderr += chunk.toString();
  });
  const status = await new Promise((done) => running.on('close', done));
  // A warning that work goes on with less is none of these.
  expect({ status, stderr: status === 0 ? '' : stderr }).toEqual({ status: 0, stderr: '' });
  return (JSON.parse(stdout) as Record<string, Figures>)[name]!;
}

describe('calls aborted at random times', () => {
  it('end with their step; nothing stays, and the next call gives the same bits', async () => {
    const found = await soak('abort', 24);
    expect(found).toMatchObject({ times: 24, afterClose: 0 });
    expect(Object.keys(found.byKind!).length).toBeGreaterThanOrEqual(5);
    expect(found.mostReportsAfter).toBeLessThanOrEqual(2);
  });
});

describe('fork, adapt, score, drop', () => {
  it('500 times leaves the same live tensors, and far less than a delta each in memory', async () => {
    const found = await soak('leak', 500);
    const { before, after } = found.liveTensors as Record<string, number>;
    expect(after).toBe(before);
    expect(found.deltaBytes).toBeGreaterThan(100_000);
    expect(found.bytesPerCycle).toBeLessThan((found.deltaBytes as number) / 4);
  });
});

describe('worker threads', () => {
  it('come and go, with work running and without; the main thread works on', async () => {
    expect(await soak('workers', 8)).toMatchObject({
      cycles: 8,
      terminatedAtWork: 4,
      terminatedIdle: 2,
      endedByThemselves: 2,
    });
  });
});

describe('numbers that are not finite', () => {
  it('are refused or skipped 100 times of 100; the policy and all else are untouched', async () => {
    const found = await soak('nan', 100);
    expect(found).toMatchObject({ injections: 100 });
    expect(Object.keys(found.byKind!)).toHaveLength(10);
  });
});

describe('allocations that fail', () => {
  it('are typed errors 100 times of 100; the state is as it was, and the next call right', async () => {
    const found = await soak('memory', 100);
    expect(found).toMatchObject({ injections: 100 });
    expect((found.typed as number) + (found.goneOnWithLess as number)).toBe(100);
    expect(found.typed).toBeGreaterThan(70);
    expect(Object.keys(found.byKind!).length).toBeGreaterThanOrEqual(8);
  });
});
