#!/usr/bin/env node
// npm's "install" script: builds the addon, unless it is there already. Without a toolchain it prints one notice and exits 0
// (everything that needs no model still works, and loading says what to do); a build that started and failed exits 1.
//   SELFEDIT_SKIP_BUILD=1       leave the addon out
//   SELFEDIT_PREBUILT_DIR=DIR   take selfedit.node, loader.node and libtorch.json of another build
import { execFileSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { build, isUpToDate, RELEASE } from './build.mjs';

const say = (line) => console.error(`selfedit: ${line}`);

function works(command, args = ['--version']) {
  try {
    return execFileSync(command, args, {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
      timeout: 30_000,
    });
  } catch {
    return undefined;
  }
}

/** What the build needs and this machine lacks, in words. */
function missingTools() {
  const missing = [];
  const cmake = /version (\d+)\.(\d+)/.exec(works('cmake') ?? '');
  if (!cmake) missing.push('CMake');
  else if (Number(cmake[1]) * 100 + Number(cmake[2]) < 318)
    missing.push(`CMake 3.18 or newer (found ${cmake[1]}.${cmake[2]})`);
  if (process.platform !== 'win32') {
    if (![process.env.CXX, 'c++', 'g++', 'clang++'].some((c) => c && works(c)))
      missing.push('a C++20 compiler');
    if (!['ninja', 'make'].some((c) => works(c))) missing.push('make or Ninja');
  }
  return missing;
}

function usePrebuilt(folder) {
  const files = ['selfedit.node', 'loader.node', 'libtorch.json'];
  const lacking = files.filter((f) => !existsSync(join(folder, f)));
  if (lacking.length > 0) throw new Error(`SELFEDIT_PREBUILT_DIR=${folder} lacks ${lacking.join(', ')}`);
  mkdirSync(RELEASE, { recursive: true });
  for (const file of files) copyFileSync(join(folder, file), join(RELEASE, file));
  say(`took the addon from ${folder}`);
}

try {
  const prebuilt = process.env.SELFEDIT_PREBUILT_DIR;
  const missing = missingTools();
  if (process.env.SELFEDIT_SKIP_BUILD === '1') {
    say('SELFEDIT_SKIP_BUILD=1: the native addon is not built; "npm rebuild selfedit" builds it');
  } else if (prebuilt) {
    usePrebuilt(prebuilt);
  } else if (isUpToDate()) {
    say('the addon is up to date');
  } else if (missing.length > 0) {
    say(
      `the native addon was not built: ${missing.join(', ')} not found. Install it, then run "npm rebuild selfedit"`,
    );
  } else {
    await build();
  }
} catch (error) {
  say(`the native addon could not be built: ${error.message}`);
  process.exitCode = 1;
}
