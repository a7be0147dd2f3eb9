#!/usr/bin/env node
// Biome and the type checker over TypeScript, clang-format over C++; `--fix` rewrites instead of complaining.
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const fix = process.argv.includes('--fix');
const bin = (name) => join(root, 'node_modules', '.bin', name);

function run(title, command, args) {
  const { status, error } = spawnSync(command, args, {
    cwd: root,
    stdio: 'inherit',
    shell: process.platform === 'win32',
  });
  if (error) console.error(`${title}: ${error.message}`);
  if (status !== 0) {
    console.error(`lint: ${title} complains`);
    process.exitCode = 1;
  }
}

const sources = ['native', 'bench']
  .filter((folder) => existsSync(join(root, folder)))
  .flatMap((folder) => readdirSync(join(root, folder), { recursive: true }).map((f) => join(folder, f)))
  .filter((f) => /\.(cc|h|cu|cuh)$/.test(f));

run('Biome', bin('biome'), fix ? ['check', '--write', '.'] : ['check', '--error-on-warnings', '.']);
if (!fix) run('TypeScript', bin('tsc'), ['-p', 'tsconfig.json', '--noEmit']);
run('clang-format', bin('clang-format'), [...(fix ? ['-i'] : ['--dry-run', '-Werror']), ...sources]);
