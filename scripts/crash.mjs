#!/usr/bin/env node
// `npm run test:crash`: small runs that are killed at every file call and at random times, and whose disk fails at every file
// call once; each is resumed and compared, byte for byte, with one that nothing happened to. Prints one JSON object; exit code 1
// when anything differs. test/lifecycle/crash.test.ts is the part of it that runs with the tests.
//   --random N      runs killed at random times, one to three times each (20)
//   --first N       number of the first of them: slices of one seed (0)
//   --seed N        of the times (1)
//   --kinds a,b     kinds of runs, all by default: see test/crash/small-run.mjs
//   --kills         also kills at every file call of a whole run of these kinds, before it and in the middle of it
//   --failures      also lets every file call of a whole run of these kinds fail once: ENOSPC, EIO, short writes
//   SIGTERM ends it with what it has counted by then.
//   --width N       processes at a time (2)
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { KINDS } from '../test/crash/small-run.mjs';
import * as trials from '../test/crash/trials.mjs';

const ROOT = fileURLToPath(new URL('..', import.meta.url));

const { values: given } = parseArgs({
  options: {
    random: { type: 'string', default: '20' },
    first: { type: 'string', default: '0' },
    seed: { type: 'string', default: '1' },
    kinds: { type: 'string', default: KINDS.join(',') },
    width: { type: 'string', default: '2' },
    kills: { type: 'boolean', default: false },
    failures: { type: 'boolean', default: false },
  },
});

function number(name) {
  const value = Number(given[name]);
  if (Number.isInteger(value) && value >= 0) return value;
  throw new Error(`--${name} is "${given[name]}"; expected a whole number`);
}

function settings() {
  const kinds = given.kinds.split(',');
  const unknown = kinds.find((kind) => !KINDS.includes(kind));
  if (unknown !== undefined)
    throw new Error(`--kinds names "${unknown}"; expected some of ${KINDS.join(', ')}`);
  if (!existsSync(join(ROOT, 'dist', 'index.js')))
    throw new Error('there is no dist; run npm run build first');
  const [random, first, seed, width] = ['random', 'first', 'seed', 'width'].map(number);
  return {
    kinds,
    random,
    first,
    seed,
    width: Math.max(1, width),
    kills: given.kills,
    failures: given.failures,
  };
}

let ended = false;
process.once('SIGTERM', () => {
  ended = true;
});
const stopped = () => ended;

/** Runs killed at random; the times of run i depend on the seed and on i alone. */
async function randomly(world, { kinds, random, first, seed, width }) {
  const spans = {};
  for (const kind of kinds) spans[kind] = await trials.spanOf(world, kind);
  const indices = Array.from({ length: random }, (_, index) => first + index);
  const done = await trials.inParallel(
    indices,
    width,
    async (index) => {
      const kind = kinds[index % kinds.length];
      const draw = trials.randomOf(seed * 1_000_003 + index);
      const result = await trials.killRandomly(world, kind, draw, spans[kind], 3);
      for (const problem of result?.problems ?? []) console.error(`run ${index} (${kind}): ${problem}`);
      return result;
    },
    stopped,
  );
  return {
    first,
    runs: done.length,
    kills: done.reduce((sum, { kills }) => sum + kills, 0),
    neverKilled: done.filter(({ kills }) => kills === 0).length,
    identical: done.filter(({ problems }) => problems.length === 0).length,
  };
}

/** Every call of a whole run, `work` on each: what it gives are problems. */
async function atEveryCall(world, { kinds }, width, thingsOf, work) {
  const found = {};
  for (const kind of kinds) {
    const calls = await trials.callsOf(world, kind, 0);
    const things = calls.flatMap((call) => thingsOf(call).map((thing) => ({ call, thing })));
    const problems = await trials.inParallel(
      things,
      width,
      ({ call, thing }) => work(kind, calls, call, thing),
      stopped,
    );
    for (const problem of problems.flat()) console.error(`${kind}: ${problem}`);
    const identical = problems.filter((list) => list.length === 0).length;
    found[kind] = { calls: calls.length, planned: things.length, trials: problems.length, identical };
  }
  return found;
}

async function main() {
  const asked = settings();
  const folder = mkdtempSync(join(tmpdir(), 'selfedit-crash-'));
  const world = await trials.open(folder);
  const started = performance.now();
  const report = {
    commit: commitOf(),
    date: new Date().toISOString(),
    node: process.version,
    cpu: cpus()[0]?.model,
  };
  try {
    for (const kind of asked.kinds) await trials.expectedOf(world, kind);
    report.seed = asked.seed;
    report.kinds = asked.kinds;
    if (asked.random > 0) report.random = await randomly(world, asked);
    if (asked.kills) {
      const torn = ({ call }) => (/^(write|rename|mkdir|link) /.test(call) ? ['kill', 'torn'] : ['kill']);
      report.kills = await atEveryCall(world, asked, asked.width, torn, (kind, calls, call, effect) =>
        trials.killAt(world, kind, 0, calls, call, effect),
      );
    }
    if (asked.failures) {
      report.failures = await atEveryCall(
        world,
        asked,
        1,
        trials.failuresOf,
        (kind, calls, call, [effect, code]) => trials.failAt(world, kind, 0, calls, call, effect, code),
      );
    }
  } finally {
    await world.model.close();
  }
  if (ended) report.ended = 'early, by SIGTERM';
  report.seconds = Math.round((performance.now() - started) / 1000);
  console.log(JSON.stringify(report, null, 2));
  const counts = [
    report.random,
    ...Object.values(report.kills ?? {}),
    ...Object.values(report.failures ?? {}),
  ];
  const good = counts.every((one) => !one || one.identical === (one.trials ?? one.runs));
  if (good) rmSync(folder, { recursive: true });
  else console.error(`what differs is left in ${folder}`);
  process.exitCode = good ? 0 : 1;
}

function commitOf() {
  try {
    const git = (...args) => execFileSync('git', args, { cwd: ROOT, encoding: 'utf8' }).trim();
    const changed = git('status', '--porcelain', '--untracked-files=no') !== '';
    return git('rev-parse', '--short', 'HEAD') + (changed ? ' and changes' : '');
  } catch {
    return 'unknown';
  }
}

main().catch((error) => {
  console.error(`error: ${error.message}`);
  process.exitCode = 2;
});
