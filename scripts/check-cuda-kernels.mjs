#!/usr/bin/env node
// Compiles all CUDA kernels with nvcc for sm_80 and sm_90a, warnings as errors, into build/cuda-kernels. No GPU, no
// libtorch. Skips with a line where nvcc is not.
//   --tests    links the kernels with their GoogleTest cases and runs them on the GPU; they skip where none is
//   --emulate  compiles the kernels as C++ and runs the same cases thread by thread on the host (minutes)
// Both need an earlier `node scripts/build.mjs --tests` (GoogleTest and the CPU kernels). Further arguments go to the
// test program, e.g. --gtest_filter=*LowRank*.
import { execFile, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, realpathSync, statSync } from 'node:fs';
import { basename, delimiter, dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import { findGoogleTest } from './find-gtest.mjs';

const ROOT = join(dirname(fileURLToPath(import.meta.url)), '..');
const KERNELS = join(ROOT, 'native', 'cuda', 'kernels');
const TESTS = join(ROOT, 'native', 'tests');
const OUT = join(ROOT, 'build', 'cuda-kernels');
const PARALLEL = 2;
const run = promisify(execFile);
const log = (line) => console.error(`selfedit: ${line}`);

/** nvcc of CUDACXX, CUDA_HOME or PATH; undefined where there is none. */
export function findNvcc(env = process.env) {
  const places = [
    env.CUDACXX,
    env.CUDA_HOME && join(env.CUDA_HOME, 'bin', 'nvcc'),
    ...(env.PATH ?? '').split(delimiter).map((folder) => join(folder, 'nvcc')),
    '/usr/local/cuda/bin/nvcc',
  ];
  return places.find((place) => place && existsSync(place));
}

const files = (folder, pattern) =>
  readdirSync(folder)
    .filter((file) => pattern.test(file))
    .sort()
    .map((file) => join(folder, file));

/** When the newest of the headers that any of these sources may include was written. */
function newestHeader() {
  const folders = [KERNELS, TESTS, join(TESTS, 'emulator'), join(ROOT, 'native', 'core')];
  const headers = folders.flatMap((folder) => files(folder, /\.(h|cuh)$/));
  return Math.max(...[fileURLToPath(import.meta.url), ...headers].map((file) => statSync(file).mtimeMs));
}

/** Runs the compilers of objects that are older than their source or any header; throws with their output. */
async function compile(jobs) {
  const since = newestHeader();
  const fresh = ({ source, object }) =>
    existsSync(object) && statSync(object).mtimeMs > Math.max(since, statSync(source).mtimeMs);
  const queue = jobs.filter((job) => !fresh(job));
  const failed = [];
  const work = async () => {
    for (let job = queue.shift(); job; job = queue.shift()) {
      try {
        const { stderr } = await run(job.command, [...job.flags, '-c', job.source, '-o', job.object]);
        if (stderr.trim()) process.stderr.write(stderr);
      } catch (error) {
        failed.push(`${basename(job.source)}:\n${error.stderr || error.message}`);
      }
    }
  };
  await Promise.all(Array.from({ length: PARALLEL }, work));
  if (failed.length > 0) throw new Error(`does not compile:\n${failed.join('\n')}`);
  return jobs.map(({ object }) => object);
}

const objectsOf = (sources, tail, command, flags) =>
  sources.map((source) => ({
    source,
    object: join(OUT, basename(source).replace(/\.(cu|cc)$/, tail)),
    command,
    flags,
  }));

/** One object a kernel file, with code for both architectures. */
export function compileKernels(nvcc) {
  mkdirSync(OUT, { recursive: true });
  const flags = [
    ...[
      '-std=c++20',
      '-O3',
      '-Werror',
      'all-warnings',
      '-Xcompiler',
      '-Wall,-Wextra,-fPIC',
      `-I${join(ROOT, 'native')}`,
    ],
    ...['-gencode', 'arch=compute_80,code=sm_80', '-gencode', 'arch=compute_90a,code=sm_90a'],
  ];
  return compile(objectsOf(files(KERNELS, /\.cu$/), '.o', nvcc, flags));
}

/** The kernels as C++ over fibers; see native/tests/emulator. */
function compileEmulated(include) {
  mkdirSync(OUT, { recursive: true });
  const flags = [
    ...['-std=c++20', '-O1', '-Wall', '-Wextra', '-Werror', '-Wno-unknown-pragmas', '-DSELFEDIT_EMULATE'],
    ...[`-I${join(ROOT, 'native')}`, '-isystem', include],
  ];
  const compiler = process.env.CXX ?? 'g++';
  return compile([
    ...objectsOf(files(KERNELS, /\.cu$/), '.emulated.o', compiler, [...flags, '-x', 'c++']),
    ...objectsOf(files(join(TESTS, 'emulator'), /\.cc$/), '.emulated.o', compiler, flags),
  ]);
}

/** Links the cases with these kernels and runs them; the exit status. */
async function runTests(kernels, name, flags, libraries, options) {
  const build = join(ROOT, 'build', 'cmake');
  const built = ['libselfedit_gtest_main.a', 'libselfedit_cpu.a'].map((file) => join(build, file));
  const missing = built.find((file) => !existsSync(file));
  if (missing) throw new Error(`${missing} is missing. Next: node scripts/build.mjs --tests`);
  const gtest = await findGoogleTest({ log });
  const includes = [gtest, join(gtest, 'googletest')].map((folder) => join(folder, 'include'));
  const compiler = process.env.CXX ?? 'g++';
  const cases = await compile(
    objectsOf(files(TESTS, /^cuda_.*\.cc$/), `.${name}.o`, compiler, [
      ...['-std=c++20', '-O1', '-Wall', '-Wextra', `-I${join(ROOT, 'native')}`],
      ...includes.flatMap((folder) => ['-isystem', folder]),
      ...flags,
    ]),
  );
  const program = join(OUT, name);
  await run(compiler, [...cases, ...kernels, ...built, '-o', program, ...libraries, '-fopenmp', '-lpthread']);
  return spawnSync(program, options, { stdio: 'inherit' }).status ?? 1;
}

/** The folder with nvcc's own include/ and lib/; nvcc may be a wrapper, so it is asked. */
async function toolkit(nvcc) {
  const { stderr } = await run(nvcc, [
    '--dryrun',
    '-c',
    join(KERNELS, 'common.cu'),
    '-o',
    join(OUT, 'common.o'),
  ]);
  const include = /^#\$ INCLUDES="-I([^"]+)"/m.exec(stderr)?.[1];
  if (!include) throw new Error(`${nvcc} --dryrun names no include folder`);
  return dirname(realpathSync(include));
}

async function main() {
  const nvcc = findNvcc();
  if (!nvcc) {
    log('check:cuda:kernels is skipped: no nvcc in CUDACXX, CUDA_HOME, PATH or /usr/local/cuda');
    return 0;
  }
  const base = await toolkit(nvcc);
  const options = process.argv.slice(2).filter((option) => option !== '--tests' && option !== '--emulate');
  if (process.argv.includes('--emulate')) {
    const kernels = await compileEmulated(join(base, 'include'));
    // Thousands of draws take too long here; the cut and the noise are compared draw by draw in the other cases.
    const chosen = options.some((option) => option.startsWith('--gtest_filter'));
    const all = chosen ? options : [...options, '--gtest_filter=-*Frequencies*'];
    return runTests(kernels, 'emulated_tests', [], [], all);
  }
  const objects = await compileKernels(nvcc);
  log(`${objects.length} kernel files compile for sm_80 and sm_90a without a warning`);
  if (!process.argv.includes('--tests')) return 0;
  const library = ['lib', 'lib64'].map((folder) => join(base, folder)).find(existsSync);
  const flags = ['-DSELFEDIT_CUDA', '-isystem', join(base, 'include')];
  const libraries = [`-L${library}`, '-lcudart_static', '-ldl', '-lrt'];
  return runTests(objects, 'kernel_tests', flags, libraries, options);
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  try {
    process.exitCode = await main();
  } catch (error) {
    log(error.message);
    process.exitCode = 1;
  }
}
