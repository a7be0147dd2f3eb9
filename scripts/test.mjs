#!/usr/bin/env node
// `npm test`: builds what is stale, runs the C++ tests and vitest, and ends with "N passed, N failed, N skipped".
//   npm test -- PATTERN…         only vitest, only files that match (npm run test:gpu: those that need a GPU)
//   SELFEDIT_STRICT_SKIPS=1      a skip for any reason but a missing GPU counts as a failure
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { build, RELEASE, ROOT } from './build.mjs';
import { countGoogleTest } from './gtest-counts.mjs';

const total = { passed: 0, failed: 0, skipped: [] };

function add({ passed, failed, skipped }) {
  total.passed += passed;
  total.failed += failed;
  total.skipped.push(...skipped);
}

/** Runs a program, showing what it prints, and gives its status and text. */
function show(command, args) {
  return new Promise((done) => {
    const child = spawn(command, args, { cwd: ROOT, stdio: ['ignore', 'pipe', 'inherit'] });
    let text = '';
    child.stdout.on('data', (chunk) => {
      text += chunk;
      process.stdout.write(chunk);
    });
    child.on('error', (error) => done({ status: -1, text: error.message }));
    child.on('close', (status, signal) => done({ status: status ?? signal, text }));
  });
}

function compileTypeScript() {
  const tsc = join(ROOT, 'node_modules', 'typescript', 'bin', 'tsc');
  // A GPU machine gets the compiled files without the compiler.
  if (!existsSync(tsc) && existsSync(join(ROOT, 'dist', 'index.js'))) return;
  const { status } = spawnSync(process.execPath, [tsc, '-p', 'tsconfig.build.json'], {
    cwd: ROOT,
    stdio: 'inherit',
  });
  if (status !== 0) throw new Error('TypeScript does not compile');
}

async function cppTests() {
  const program = join(RELEASE, 'selfedit_tests');
  if (!existsSync(program)) return;
  const file = join(ROOT, 'build', 'gtest.json');
  rmSync(file, { force: true });
  const { status, text } = await show(program, [`--gtest_output=json:${file}`, '--gtest_brief=0']);
  if (existsSync(file)) {
    const counts = countGoogleTest(JSON.parse(readFileSync(file, 'utf8')), text);
    add(counts);
    if (status === 0 || counts.failed > 0) return;
  }
  console.error(`The C++ tests ended with ${status}.`);
  add({ passed: 0, failed: 1, skipped: [] });
}

function vitest(patterns) {
  const file = join(ROOT, 'build', 'vitest.json');
  mkdirSync(join(ROOT, 'build'), { recursive: true });
  rmSync(file, { force: true });
  const entry = join(ROOT, 'node_modules', 'vitest', 'vitest.mjs');
  const args = [entry, 'run', '--reporter=default', '--reporter=./scripts/vitest-summary.mjs', ...patterns];
  const env = { ...process.env, SELFEDIT_VITEST_SUMMARY: file };
  const { status } = spawnSync(process.execPath, args, { cwd: ROOT, stdio: 'inherit', env });
  const counts = existsSync(file)
    ? JSON.parse(readFileSync(file, 'utf8'))
    : { passed: 0, failed: 1, skipped: [] };
  if (status !== 0 && counts.failed === 0) counts.failed = 1;
  add(counts);
}

function finish() {
  const strict = process.env.SELFEDIT_STRICT_SKIPS === '1';
  const forGpu = total.skipped.filter(({ reason }) => /\b(GPU|CUDA)\b/i.test(reason));
  const allowed = strict ? forGpu : total.skipped;
  for (const skip of total.skipped) {
    const verdict = allowed.includes(skip) ? 'skipped' : 'skipped, which counts as a failure here';
    console.log(`${verdict}: ${skip.name} (${skip.reason || 'no reason given'})`);
  }
  const failed = total.failed + total.skipped.length - allowed.length;
  console.log(`${total.passed} passed, ${failed} failed, ${allowed.length} skipped`);
  // Where nothing ran at all, something is wrong, unless it was all for want of a GPU.
  process.exitCode = failed === 0 && total.passed + forGpu.length > 0 ? 0 : 1;
}

try {
  const patterns = process.argv.slice(2);
  compileTypeScript();
  await build({ tests: true });
  if (patterns.length === 0) await cppTests();
  vitest(patterns);
} catch (error) {
  console.error(`selfedit: ${error.message}`);
  total.failed++;
}
finish();
