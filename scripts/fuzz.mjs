#!/usr/bin/env node
// `npm run fuzz`: the C++ readers of files from outside under libFuzzer, with clang's address and undefined-behaviour sanitizers.
//   npm run fuzz -- --seconds 30          every target, 30 s each (the default)
//   npm run fuzz -- gguf --runs 10000000  one target, so many executions
// Seeds are the good and the malformed files of scripts/fixtures/malformed.mjs; what is found to reach new code stays in
// build/fuzz/corpus. An input that crashes a target stays in build/fuzz/crashes, and the exit status is 1.
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const ROOT = join(dirname(fileURLToPath(import.meta.url)), '..');
const SOURCES = join(ROOT, 'native', 'tests', 'fuzz');
const WORK = join(ROOT, 'build', 'fuzz');
const CRASHES = join(WORK, 'crashes');
/** Longer inputs say little more and take longer; the large files have tests of their own. */
const MOST_BYTES = 8192;
/** Targets, and which files of the corpus are their seeds. */
const TARGETS = {
  safetensors: { dictionary: 'json.dict', seed: /\.safetensors$/ },
  gguf: { dictionary: 'gguf.dict', seed: /\.gguf$/ },
  json: { dictionary: 'json.dict', seed: /\.json$/ },
};

function findClang(env) {
  const names = [
    env.FUZZ_CXX,
    'clang++',
    ...[20, 19, 18, 17, 16, 15, 14].map((version) => `clang++-${version}`),
  ];
  const found = names.find((name) => name && spawnSync(name, ['--version']).status === 0);
  if (!found)
    throw new Error(
      'libFuzzer needs clang++ and its runtime (Debian: apt-get install clang); or set FUZZ_CXX',
    );
  return found;
}

function run(command, args) {
  const { status, error } = spawnSync(command, args, { stdio: ['ignore', 'ignore', 'inherit'] });
  if (error || status !== 0)
    throw new Error(`${command} ${args.join(' ')}: ${error?.message ?? `status ${status}`}`);
}

function build() {
  const folder = join(WORK, 'cmake');
  run('cmake', ['-S', SOURCES, '-B', folder, `-DCMAKE_CXX_COMPILER=${findClang(process.env)}`]);
  run('cmake', ['--build', folder, '--parallel', '2']);
  return folder;
}

async function writeSeeds() {
  const { malformed, wellFormed } = await import('./fixtures/malformed.mjs');
  for (const { files } of [...wellFormed(), ...malformed()]) {
    for (const [name, content] of Object.entries(files)) {
      if (content.length > MOST_BYTES) continue;
      for (const [target, { seed }] of Object.entries(TARGETS)) {
        if (!seed.test(name)) continue;
        const file = createHash('sha256').update(content).digest('hex').slice(0, 16);
        writeFileSync(join(WORK, 'seeds', target, file), content);
      }
    }
  }
}

/** Runs one target and gives its figures; `crashed` is the input that it ended with, or what else went wrong. */
function fuzz(target, folder, { seconds, runs }) {
  const limits = runs ? [`-runs=${runs}`] : [`-max_total_time=${seconds}`];
  const args = [
    ...limits,
    `-max_len=${MOST_BYTES}`,
    `-dict=${join(SOURCES, TARGETS[target].dictionary)}`,
    `-artifact_prefix=${CRASHES}/${target}-`,
    '-timeout=10',
    '-malloc_limit_mb=256',
    '-print_final_stats=1',
    '-verbosity=1',
    join(WORK, 'corpus', target),
    join(WORK, 'seeds', target),
  ];
  return new Promise((done) => {
    const child = spawn(join(folder, target), args, { stdio: ['ignore', 'ignore', 'pipe'] });
    let text = '';
    let tail = '';
    child.stderr.on('data', (chunk) => {
      tail = (tail + chunk).slice(-20_000);
      text += String(chunk).match(/\((\d+) inline 8-bit counters\)/g) ?? '';
    });
    child.on('error', (error) => done({ target, crashed: error.message, tail }));
    child.on('close', (status, signal) => {
      const figure = (pattern) => Number(pattern.exec(tail)?.[1] ?? Number.NaN);
      const crashed =
        status === 0
          ? undefined
          : (/Test unit written to (\S+)/.exec(tail)?.[1] ?? `no input (ended with ${signal ?? status})`);
      done({
        target,
        crashed,
        tail,
        executions: figure(/number_of_executed_units: (\d+)/),
        rate: figure(/average_exec_per_sec: +(\d+)/),
        memory: figure(/peak_rss_mb: +(\d+)/),
        edges: figure(/[\s\S]*cov: (\d+)/),
        allEdges: Number(/\((\d+) inline/.exec(text)?.[1] ?? Number.NaN),
      });
    });
  });
}

function report({ target, crashed, tail, executions, rate, edges, allEdges, memory }, folder) {
  if (crashed) {
    console.error(tail.split('\n').slice(-60).join('\n'));
    console.error(`fuzz: ${target} FAILED: ${crashed}`);
    console.error(`fuzz: again: ${relative(ROOT, join(folder, target))} ${crashed}`);
    return;
  }
  console.log(
    `fuzz: ${target}: ${executions} executions, ${rate} a second, ${edges} of ${allEdges} edges, at most ${memory} MB, no finding`,
  );
}

async function main() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { seconds: { type: 'string', default: '30' }, runs: { type: 'string' } },
  });
  const targets = positionals.length > 0 ? positionals : Object.keys(TARGETS);
  const unknown = targets.find((target) => !(target in TARGETS));
  if (unknown) throw new Error(`no target "${unknown}"; expected ${Object.keys(TARGETS).join(', ')}`);
  for (const [name, value] of Object.entries(values)) {
    if (!/^[1-9]\d*$/.test(value)) throw new Error(`--${name} ${value}: expected a positive whole number`);
  }
  const folder = build();
  for (const target of Object.keys(TARGETS)) {
    for (const kind of ['corpus', 'seeds']) mkdirSync(join(WORK, kind, target), { recursive: true });
  }
  mkdirSync(CRASHES, { recursive: true });
  await writeSeeds();
  for (const target of targets) {
    const result = await fuzz(target, folder, values);
    report(result, folder);
    if (result.crashed) process.exitCode = 1;
  }
  const left = existsSync(CRASHES) ? readdirSync(CRASHES) : [];
  if (left.length > 0) console.log(`fuzz: ${left.length} input(s) in ${relative(ROOT, CRASHES)}`);
}

try {
  await main();
} catch (error) {
  console.error(`fuzz: ${error.message}`);
  process.exitCode = 1;
}
