#!/usr/bin/env node
// `npm run test:sanitize`: the C++ tests with the compiler's sanitizers, in a build folder of their own.
//   npm run test:sanitize -- address              AddressSanitizer and UndefinedBehaviorSanitizer, all tests
//   npm run test:sanitize -- address --light      the same, what needs no libtorch: readers, writers, CPU kernels, queue
//   npm run test:sanitize -- thread               ThreadSanitizer, the job queue (without libtorch, see below)
//   --filter PATTERN   GoogleTest's filter      --shards N   the tests in N processes, one after the other (8)
//   --build-only       --json FILE   what was run: counts and findings
// ThreadSanitizer must see every synchronisation: libtorch and the OpenMP runtime are not built with it, so that all that
// they order would look like races. The queue, its owners and the mailboxes need neither; they are tested by themselves.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { ROOT } from './build.mjs';
import { findGoogleTest } from './find-gtest.mjs';
import { findLibtorch } from './find-libtorch.mjs';
import { countGoogleTest } from './gtest-counts.mjs';

const SUPPRESSIONS = join(ROOT, 'scripts', 'sanitize');
const KINDS = {
  address: {
    sanitizers: 'address,undefined',
    target: 'selfedit_tests',
    env: {
      // libtorch is not built with it: containers that cross the border carry no marks.
      ASAN_OPTIONS: 'detect_container_overflow=0:detect_leaks=1:strict_string_checks=1',
      LSAN_OPTIONS: `suppressions=${join(SUPPRESSIONS, 'leaks.txt')}:print_suppressions=0`,
      UBSAN_OPTIONS: 'print_stacktrace=1',
    },
  },
  thread: {
    sanitizers: 'thread',
    target: 'selfedit_queue_tests',
    env: { TSAN_OPTIONS: 'halt_on_error=0:exitcode=66' },
  },
};
const FINDING = /^(?:.*ERROR: (?:Address|Leak)Sanitizer.*|.*runtime error:.*|WARNING: ThreadSanitizer.*)$/gm;

function run(command, args, options = {}) {
  const { status, error } = spawnSync(command, args, { cwd: ROOT, stdio: ['ignore', 2, 2], ...options });
  if (error || status !== 0) throw new Error(`${command}: ${error?.message ?? `status ${status}`}`);
}

async function build(kind, torch, light) {
  const { sanitizers, target: all } = KINDS[kind];
  const target = light ? 'selfedit_light_tests' : all;
  const folder = join(ROOT, 'build', `sanitize-${kind}`);
  run('cmake', [
    '-S',
    ROOT,
    '-B',
    folder,
    // A folder that was configured for one generator refuses another.
    ...(spawnSync('ninja', ['--version']).status === 0 ? ['-G', 'Ninja'] : []),
    '-DCMAKE_BUILD_TYPE=Release',
    '-DCMAKE_CXX_FLAGS_RELEASE=-O1',
    `-DSELFEDIT_SANITIZE=${sanitizers}`,
    '-DSELFEDIT_TESTS=ON',
    '-DSELFEDIT_CUDA=OFF',
    `-DSELFEDIT_TORCH_ROOT=${torch.root}`,
    `-DSELFEDIT_GTEST_ROOT=${await findGoogleTest({ log: console.error })}`,
  ]);
  run('cmake', ['--build', folder, '--target', target, '--parallel', process.env.SELFEDIT_BUILD_JOBS ?? '2']);
  return join(folder, 'Release', target);
}

/** One process: its counts, and what the sanitizers said. */
function shard(program, kind, torch, index, total, filter) {
  const report = join(ROOT, 'build', `sanitize-${kind}.json`);
  rmSync(report, { force: true });
  const { status, signal, stdout, stderr } = spawnSync(
    program,
    ['--gtest_brief=1', `--gtest_output=json:${report}`, `--gtest_filter=${filter}`],
    {
      encoding: 'utf8',
      maxBuffer: 1 << 28,
      env: {
        ...process.env,
        LD_LIBRARY_PATH: join(torch.root, 'lib'),
        OMP_NUM_THREADS: '2',
        ...KINDS[kind].env,
        GTEST_TOTAL_SHARDS: String(total),
        GTEST_SHARD_INDEX: String(index),
      },
    },
  );
  const found = [...new Set([...stderr.matchAll(FINDING)].map(([line]) => line.trim()))];
  const none = { passed: 0, failed: 1, skipped: [] };
  const counts = existsSync(report)
    ? countGoogleTest(JSON.parse(readFileSync(report, 'utf8')), stdout)
    : none;
  if (status !== 0 || found.length > 0) console.error(stdout.slice(-8000), stderr.slice(-20_000));
  if (status !== 0 && counts.failed === 0 && found.length === 0) found.push(`ended with ${signal ?? status}`);
  return { ...counts, found };
}

async function main() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      filter: { type: 'string', default: '*' },
      shards: { type: 'string' },
      'build-only': { type: 'boolean' },
      light: { type: 'boolean', default: false },
      json: { type: 'string' },
    },
  });
  const [kind] = positionals;
  if (!Object.hasOwn(KINDS, kind ?? ''))
    throw new Error(`expected ${Object.keys(KINDS).join(' or ')}, found ${kind ?? 'nothing'}`);
  mkdirSync(join(ROOT, 'build'), { recursive: true });
  const torch = await findLibtorch({ env: process.env, log: console.error });
  const program = await build(kind, torch, values.light);
  if (values['build-only']) return;
  const shards = Number(values.shards ?? (kind === 'address' ? 8 : 1));
  const total = { passed: 0, failed: 0, skipped: 0, found: [] };
  const start = performance.now();
  for (let index = 0; index < shards; index++) {
    const { passed, failed, skipped, found } = shard(program, kind, torch, index, shards, values.filter);
    total.passed += passed;
    total.failed += failed;
    total.skipped += skipped.length;
    total.found.push(...found);
    console.error(
      `shard ${index + 1} of ${shards}: ${passed} passed, ${failed} failed, ${found.length} findings`,
    );
  }
  const seconds = Math.round((performance.now() - start) / 1000);
  console.log(
    `${kind}: ${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped, ` +
      `${total.found.length} findings in ${seconds} s`,
  );
  for (const line of total.found) console.log(`  ${line}`);
  if (values.json)
    writeFileSync(
      values.json,
      `${JSON.stringify({ kind, light: values.light, ...total, seconds }, null, 2)}\n`,
    );
  if (total.failed + total.found.length > 0 || total.passed === 0) process.exitCode = 1;
}

await main().catch((error) => {
  console.error(`selfedit: ${error.message}`);
  process.exitCode = 1;
});
