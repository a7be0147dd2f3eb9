/**
 * Runs that are killed, or meet a failing disk, and are resumed: as if nothing had happened, to the bit. The same at every file
 * call of whole runs of every kind, and at 500 random times: `npm run test:crash` (docs/reliability.md has the figures).
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { lossesOf } from '../crash/durability.mjs';
import { KINDS } from '../crash/small-run.mjs';
import {
  callsOf,
  expectedOf,
  failAt,
  failuresOf,
  finishAfter,
  inParallel,
  killAt,
  killRandomly,
  open,
  randomOf,
  savingOf,
  spanOf,
} from '../crash/trials.mjs';

// Many processes are started, on machines that may have other work.
const TIME = 300_000;

let world: Awaited<ReturnType<typeof open>>;
beforeAll(async () => {
  world = await open(mkdtempSync(join(tmpdir(), 'selfedit-crash-')));
});
afterAll(async () => {
  await world.model.close();
  rmSync(world.folder, { recursive: true });
});

describe('a run of every kind', () => {
  it.each(KINDS)(
    '%s: stopped after any round and resumed, it has the same files to the byte',
    async (kind) => {
      const contents = await expectedOf(world, kind);
      expect(Object.keys(contents)).toEqual(
        expect.arrayContaining(['config.json', 'journal line 1', 'comparison.json']),
      );
      for (const rounds of kind === 'halted' ? [1] : [1, 2, 3]) {
        expect(await finishAfter(world, kind, rounds)).toEqual([]);
      }
    },
  );

  it.each(['ppo', 'weights'])(
    '%s: shows nothing that is not on disk, should the power fail',
    async (kind) => {
      const calls = await callsOf(world, kind, 0);
      expect(calls.length).toBeGreaterThan(100);
      expect(calls.some(({ layer }) => layer === 'native')).toBe(true);
      expect(lossesOf(calls)).toEqual([]);
    },
  );
});

describe('the save of a round', () => {
  it(
    'killed at every write, fsync and rename, and in the middle of writes, is resumed to the bit',
    async () => {
      const calls = await callsOf(world, 'brief', 1);
      const saving = savingOf(calls).filter(({ call }) => /^(write|fsync|rename) /.test(call));
      expect(saving.filter(({ layer }) => layer === 'native').length).toBeGreaterThan(5);
      expect(saving.filter(({ layer }) => layer === 'disk').length).toBeGreaterThan(7);
      const torn = saving.filter(({ layer, call }) => layer === 'disk' && call.startsWith('write '));
      const kills = [
        ...saving.map((call) => ({ call, effect: 'kill' })),
        ...torn.map((call) => ({ call, effect: 'torn' })),
      ];
      const problems = await inParallel(kills, 2, ({ call, effect }: (typeof kills)[number]) =>
        killAt(world, 'brief', 1, calls, call, effect),
      );
      expect(problems.flat()).toEqual([]);
    },
    TIME,
  );

  it(
    'with each of its file calls failing once: typed, nothing lost, and the process goes on',
    async () => {
      const calls = await callsOf(world, 'brief', 1);
      const saving = savingOf(calls);
      const problems: string[] = [];
      for (const call of saving) {
        for (const [effect, code] of failuresOf(call)) {
          problems.push(...(await failAt(world, 'brief', 1, calls, call, effect, code)));
        }
      }
      expect(problems).toEqual([]);
    },
    TIME,
  );
});

it(
  'killed at 20 random times, is resumed to the bit',
  async () => {
    const random = randomOf(7);
    const span = await spanOf(world, 'ppo');
    let killed = 0;
    const trials = await inParallel(Array.from({ length: 20 }), 2, () =>
      killRandomly(world, 'ppo', random, span, 1),
    );
    for (const { kills } of trials) killed += kills;
    expect(trials.flatMap(({ problems }) => problems)).toEqual([]);
    expect(killed).toBeGreaterThan(0);
  },
  TIME,
);
