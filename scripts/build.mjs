#!/usr/bin/env node
// Builds the addon (build/Release/selfedit.node, loader.node) with cmake-js, and the C++ tests with --tests.
// Nothing is done when the last build was made from the same sources, compiler and libtorch (--force: build anyway).
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism, totalmem } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { findGoogleTest } from './find-gtest.mjs';
import { findLibtorch } from './find-libtorch.mjs';
import { withLock } from './lock.mjs';

export const ROOT = join(dirname(fileURLToPath(import.meta.url)), '..');
export const RELEASE = join(ROOT, 'build', 'Release');
/** CMake's own files; apart from build/ itself, where node-gyp writes a Makefile. */
const WORK = join(ROOT, 'build', 'cmake');
const log = (line) => console.error(`selfedit: ${line}`);
const require = createRequire(import.meta.url);

/** All files below a folder, sorted, as paths relative to the package. */
function filesBelow(folder) {
  if (!existsSync(join(ROOT, folder))) return [];
  return readdirSync(join(ROOT, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .sort();
}

/** Hash of everything that the native build is made from, apart from libtorch. */
export function sourceHash() {
  const hash = createHash('sha256');
  const files = [join(ROOT, 'CMakeLists.txt'), ...filesBelow('scripts/cmake'), ...filesBelow('native')];
  for (const file of files)
    hash.update(file.slice(ROOT.length)).update('\0').update(readFileSync(file)).update('\0');
  for (const name of ['node-addon-api', 'node-api-headers'])
    hash.update(require(`${name}/package.json`).version);
  hash.update(`${process.platform} ${process.arch} ${process.env.CXX ?? ''} ${process.env.CXXFLAGS ?? ''}`);
  hash.update(`${process.env.SELFEDIT_CUDA ?? ''} ${process.env.TORCH_CUDA_ARCH_LIST ?? ''}`);
  return hash.digest('hex');
}

function readJson(path) {
  try {
    return JSON.parse(readFileSync(path, 'utf8'));
  } catch {
    return undefined;
  }
}

/** The variables by which the user asks for a certain libtorch, as they were when `libtorch.json` was written. */
const asked = (env) =>
  [env.LIBTORCH, env.SELFEDIT_LIBTORCH_VARIANT, env.SELFEDIT_LIBTORCH_VERSION].map((v) => v || null);

/** True when the user names a libtorch now, and not the one that the last build was made with. */
function asksForAnother(torch, env) {
  const named = asked(env);
  return named.some(Boolean) && JSON.stringify(torch?.asked) !== JSON.stringify(named);
}

/** True when the addon is there and was made from these very sources, with a libtorch that is still there and wanted. */
export function isUpToDate({ tests = false, env = process.env } = {}) {
  const made = readJson(join(RELEASE, 'build.json'));
  const torch = readJson(join(RELEASE, 'libtorch.json'));
  if (!made || !torch || asksForAnother(torch, env)) return false;
  const files = ['selfedit.node', 'loader.node', ...(tests ? ['selfedit_tests'] : [])];
  if (files.some((file) => !existsSync(join(RELEASE, file))) || (tests && !made.tests)) return false;
  return made.sources === sourceHash() && existsSync(torch.root);
}

/** Compiling one file over ATen takes up to 2 GB. */
function jobs() {
  const named = Number(process.env.SELFEDIT_BUILD_JOBS);
  if (named > 0) return named;
  const memory = Math.min(totalmem(), process.constrainedMemory() || Number.POSITIVE_INFINITY);
  return Math.max(1, Math.min(availableParallelism(), Math.floor(memory / 2 ** 31)));
}

/** `SELFEDIT_CUDA`: auto (CUDA when libtorch and nvcc have it), on (or an error) or off. */
function wantsCuda(env) {
  const wanted = (env.SELFEDIT_CUDA || 'auto').toUpperCase();
  if (!['AUTO', 'ON', 'OFF'].includes(wanted))
    throw new Error(`SELFEDIT_CUDA is "${env.SELFEDIT_CUDA}"; expected auto, on or off`);
  return wanted;
}

/** The value of one variable of an earlier configuration in the folder `work`. */
function cached(work, name) {
  const file = join(work, 'CMakeCache.txt');
  const cache = existsSync(file) ? readFileSync(file, 'utf8') : '';
  return new RegExp(`^${name}:[^=]*=(.*)$`, 'm').exec(cache)?.[1];
}

/** Configures in `work` and builds into `release`, against the libtorch `torch`. */
export async function compile({ torch, tests = false, env = process.env, work = WORK, release = RELEASE }) {
  // A build folder belongs to one libtorch and one place: start afresh when either has moved.
  const home = cached(work, 'CMAKE_HOME_DIRECTORY');
  const before = cached(work, 'SELFEDIT_TORCH_ROOT');
  if ((home && home !== ROOT.replace(/[/\\]$/, '')) || (before && before !== torch.root)) {
    log('another libtorch or another folder than last time: building from scratch');
    rmSync(work, { recursive: true, force: true });
  }
  const { BuildSystem } = require('cmake-js');
  const options = {
    directory: ROOT,
    out: work,
    config: 'Release',
    noLog: !env.SELFEDIT_DEBUG,
    // A folder configured for one generator refuses another, for example after ninja was installed.
    generator: cached(work, 'CMAKE_GENERATOR'),
    parallel: jobs(),
    cMakeOptions: {
      SELFEDIT_TORCH_ROOT: torch.root,
      SELFEDIT_TESTS: tests ? 'ON' : 'OFF',
      SELFEDIT_OUTPUT_DIR: release,
      SELFEDIT_CUDA: wantsCuda(env),
    },
  };
  if (tests) options.cMakeOptions.SELFEDIT_GTEST_ROOT = await findGoogleTest({ log });
  // One after the other by hand: cmake-js's own "compile" answers a compiler error with a full rebuild.
  await new BuildSystem(options).configure();
  await new BuildSystem({ ...options, target: tests ? 'everything' : 'addons' }).build();
}

/** Builds what is not up to date. Returns what was done: 'up to date' or 'built'. */
export async function build({ tests = false, force = false, env = process.env } = {}) {
  mkdirSync(RELEASE, { recursive: true });
  return withLock(join(ROOT, 'build', '.lock'), log, async () => {
    if (!force && isUpToDate({ tests, env })) {
      log('the addon is up to date');
      return 'up to date';
    }
    // A rebuild keeps the libtorch it had, unless the user names another or it has gone.
    const last = readJson(join(RELEASE, 'libtorch.json'));
    const keep =
      last && !asksForAnother(last, env) && existsSync(join(last.root, 'include', 'ATen', 'ATen.h'));
    const torch = keep ? last : await findLibtorch({ env, log });
    const sources = sourceHash();
    await compile({ torch, tests, env });
    const { root, version, variant, source } = torch;
    const facts = { root, version, variant, source, asked: keep ? last.asked : asked(env) };
    writeFileSync(join(RELEASE, 'libtorch.json'), `${JSON.stringify(facts, null, 2)}\n`);
    writeFileSync(join(RELEASE, 'build.json'), `${JSON.stringify({ sources, tests }, null, 2)}\n`);
    log(`built ${join('build', 'Release', 'selfedit.node')}`);
    return 'built';
  });
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  try {
    await build({ tests: process.argv.includes('--tests'), force: process.argv.includes('--force') });
  } catch (error) {
    log(`the build failed: ${error.message}`);
    process.exitCode = 1;
  }
}
