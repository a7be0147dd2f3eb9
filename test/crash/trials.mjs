/** Small runs that are killed or that meet a failing disk, resumed, and compared with one that nothing happened to. */
import { spawn } from 'node:child_process';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { plan } from './faults.mjs';
import { contentsOf, copyRun, differencesOf, load, openModel, play } from './small-run.mjs';

const CHILD = fileURLToPath(new URL('child.mjs', import.meta.url));

/** The package, a model, and a folder for runs. */
export async function open(folder) {
  const { se, ...layers } = await load();
  return { se, layers, folder, model: await openModel(se), count: 0, made: {} };
}

const pathOf = (world, kind, name) => join(world.folder, kind, name);

/** What `make` gives, made once: trials that run side by side share it. */
const once = (world, key, make) => {
  world.made[key] ??= make();
  return world.made[key];
};

/** What an undisturbed run of this kind has in the end. */
export function expectedOf(world, kind) {
  return once(world, `${kind} whole`, async () => {
    const run = pathOf(world, kind, 'whole');
    await play(world.se, world.model, kind, run);
    return contentsOf(run);
  });
}

/** A run that was stopped after so many rounds; none: where a run will be. */
function startOf(world, kind, rounds) {
  return once(world, `${kind} ${rounds}`, async () => {
    const run = pathOf(world, kind, `start-${rounds}`);
    if (rounds === 0) return run;
    const controller = new AbortController();
    const onEvent = (event) =>
      event.type === 'round' && event.result.round === rounds - 1 && controller.abort();
    await play(world.se, world.model, kind, run, { onEvent, signal: controller.signal }).catch((error) => {
      if (error.code !== 'ABORTED') throw error;
    });
    return run;
  });
}

async function freshRun(world, kind, rounds) {
  const start = await startOf(world, kind, rounds);
  const run = pathOf(world, kind, `trial-${world.count++}`);
  return rounds === 0 ? run : copyRun(start, run);
}

/**
 * The file calls of a run that goes on after so many rounds.
 * @returns {Promise<{ layer: string, at: number, call: string }[]>}
 */
export async function callsOf(world, kind, rounds) {
  const run = await freshRun(world, kind, rounds);
  const planned = plan(world.layers);
  const calls = await play(world.se, world.model, kind, run).then(planned.end, (error) => {
    planned.end();
    throw error;
  });
  rmSync(run, { recursive: true });
  return calls;
}

/**
 * Only the calls by which the last round is saved: from its journal to the removal of old checkpoints.
 * @param {{ layer: string, at: number, call: string }[]} calls
 */
export function savingOf(calls) {
  const from = calls.findLastIndex(({ call }) => /^open .*journal\.jsonl$/.test(call));
  const to = calls.findIndex(
    ({ call }, index) =>
      index > from &&
      /^\w+ .*\/(policy|head\.safetensors[^/]*)$/.test(call) &&
      !call.includes('/checkpoints/'),
  );
  return calls.slice(from, to);
}

/** Complete rounds once all these calls are made: a checkpoint counts when it has its name. */
const roundsIn = (calls) =>
  calls.filter(({ call }) => /^rename .*\.partial\t.*\/round-\d+$/.test(call)).length;

/**
 * Goes on with a disturbed run to its end. Gives what is wrong: with what it went on from, by what it warned of, and by its
 * contents; nothing when it is as if nothing had happened.
 */
async function finish(world, kind, run, least) {
  const problems = [];
  let first;
  const onEvent = (event) => {
    if (event.type === 'warning') problems.push(`warning: ${event.message}`);
    if (event.type === 'begin') first = event.firstRound;
  };
  try {
    await play(world.se, world.model, kind, run, { onEvent });
    if (first < least) problems.push(`went on from round ${first} although ${least} were done`);
    problems.push(...differencesOf(await expectedOf(world, kind), run).map((name) => `differs: ${name}`));
  } catch (error) {
    problems.push(`resuming: ${error.code ?? ''} ${error.message}`);
  }
  if (problems.length === 0) rmSync(run, { recursive: true });
  return problems;
}

/** Goes on with a run that was stopped after so many rounds. Gives what is wrong. */
export async function finishAfter(world, kind, rounds) {
  return finish(world, kind, await freshRun(world, kind, rounds), rounds);
}

/** A child that plays the run; `kill` milliseconds after it is ready it is killed. Gives the signal that ended it and the time. */
function child(kind, run, { fault, kill } = {}) {
  const args = [CHILD, kind, run, ...(fault ? [JSON.stringify(fault)] : [])];
  const started = spawn(process.execPath, args, {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, OMP_NUM_THREADS: '1' },
  });
  let ready = 0;
  let errors = '';
  started.stderr.on('data', (chunk) => {
    errors += chunk;
  });
  started.stdout.once('data', () => {
    ready = performance.now();
    if (kill !== undefined) setTimeout(() => started.kill('SIGKILL'), kill);
  });
  return new Promise((done, fail) => {
    started.on('error', fail);
    started.on('close', (status, signal) =>
      done({ status, signal, errors, time: performance.now() - ready }),
    );
  });
}

/** Kills a child at a file call of a run that goes on after `rounds`, and resumes it. Gives what is wrong. */
export async function killAt(world, kind, rounds, calls, { layer, at, call }, effect) {
  const run = await freshRun(world, kind, rounds);
  const { status, signal, errors } = await child(kind, run, { fault: { layer, at, effect } });
  if (signal === 'SIGTERM') return undefined; // all of this is being ended
  if (signal !== 'SIGKILL') return [`${layer} ${at} was not reached: ended with ${status} ${errors}`];
  const index = calls.findIndex((one) => one.layer === layer && one.at === at);
  const least = rounds + roundsIn(calls.slice(0, index + (effect === 'torn' ? 1 : 0)));
  const problems = await finish(world, kind, run, least);
  return problems.map((problem) => `${effect} at ${layer} ${at}, ${call}: ${problem}`);
}

/** Lets a file call of a run in this process fail, and resumes it. Gives what is wrong. */
export async function failAt(world, kind, rounds, calls, { layer, at, call }, effect, code) {
  const run = await freshRun(world, kind, rounds);
  const planned = plan(world.layers, { layer, at, effect, code });
  let failure;
  try {
    await play(world.se, world.model, kind, run).catch((error) => {
      failure = error;
    });
  } finally {
    planned.end();
  }
  const problems = [];
  if (failure && !(failure instanceof world.se.WorkError && failure.code === 'IO')) {
    problems.push(`error ${failure.code} ${failure.stack}; expected IO`);
  }
  if (effect === 'short' && failure) problems.push(`a short write was not gone on with: ${failure.message}`);
  const index = calls.findIndex((one) => one.layer === layer && one.at === at);
  const least = rounds + roundsIn(failure ? calls.slice(0, index) : calls);
  problems.push(...(await finish(world, kind, run, least)));
  return problems.map((problem) => `${effect} ${code} at ${layer} ${at}, ${call}: ${problem}`);
}

/** What can happen to a call, once each. */
export function failuresOf({ call }) {
  const errors = [
    ['error', 'ENOSPC'],
    ['error', 'EIO'],
  ];
  return call.startsWith('write ') ? [...errors, ['short', 'EIO']] : errors;
}

/**
 * Kills a run at random moments, up to `most` times, and lets it go to its end. Gives what is wrong, and how often it was killed
 * before it was done.
 */
export async function killRandomly(world, kind, random, span, most) {
  const run = pathOf(world, kind, `trial-${world.count++}`);
  const times = 1 + Math.floor(random() * most);
  let kills = 0;
  for (let time = 0; time < times; time++) {
    const { signal, status, errors } = await child(kind, run, { kill: random() * span });
    if (signal === 'SIGTERM') return undefined; // all of this is being ended
    if (signal === 'SIGKILL') kills++;
    else if (status === 0) break;
    else return { kills, problems: [`ended with ${status}: ${errors}`] };
  }
  return { kills, problems: await finish(world, kind, run, 0) };
}

/** Milliseconds that an undisturbed run takes in a child. */
export async function spanOf(world, kind) {
  const run = pathOf(world, kind, `trial-${world.count++}`);
  const { time } = await child(kind, run);
  rmSync(run, { recursive: true });
  return time;
}

/** Numbers in [0, 1) by mulberry32. */
export function randomOf(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Works off a list, so many at a time, in order; what comes after `stopped` is left out. */
export async function inParallel(items, width, work, stopped = () => false) {
  const results = [];
  let next = 0;
  const lane = async () => {
    while (next < items.length && !stopped()) {
      const index = next++;
      results[index] = await work(items[index], index);
    }
  };
  await Promise.all(Array.from({ length: width }, lane));
  return results.filter((result) => result !== undefined);
}
