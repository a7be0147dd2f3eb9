#!/usr/bin/env node
// `npm run check:cuda`: builds and links the whole addon with CUDA where no GPU need be: brings a CUDA libtorch with its
// nvidia packages into the cache (several GB; LIBTORCH names another), compiles kernels and glue with nvcc into build/cuda,
// then proves that nothing was left open: every symbol of the addon is defined by a library it names, and it loads.
//   --kernels-only   only the kernels, which need nvcc and no libtorch
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { compile, ROOT } from './build.mjs';
import { findLibtorch } from './find-libtorch.mjs';
import { withLock } from './lock.mjs';
import { openSymbols } from './symbols.mjs';

const FOLDER = join(ROOT, 'build', 'cuda');
const WORK = join(FOLDER, 'cmake');
const RELEASE = join(FOLDER, 'Release');
/** The newest supported torch: what PyPI carries for it is a CUDA build. */
const VERSION = '2.14.1';
const VARIANT = 'cu130';
const say = (line) => console.log(`check:cuda: ${line}`);

/** Compiles the kernels alone, with warnings as errors. */
function kernels() {
  const script = join(ROOT, 'scripts', 'check-cuda-kernels.mjs');
  const { status } = spawnSync(process.execPath, [script], { stdio: 'inherit' });
  if (status !== 0) throw new Error('the kernels do not compile');
}

/** Opens libtorch and the addon in a process of its own, as lib/load.ts does, and gives what the addon says of itself. */
function load(libraries) {
  const program = `const [release, ...libraries] = process.argv.slice(1);
    require(release + '/loader.node').load(libraries);
    const addon = require(release + '/selfedit.node');
    console.log(JSON.stringify({ ...addon.info(), gpus: addon.gpus() }));`;
  const args = ['-e', program, RELEASE, ...libraries];
  return JSON.parse(execFileSync(process.execPath, args, { encoding: 'utf8' }));
}

/** Links the kernels alone, every one of them, with nothing left open: the addon takes only those that it calls. */
function linkKernels(cudart) {
  const archive = join(WORK, 'libselfedit_kernels.a');
  const rules = JSON.parse(readFileSync(join(WORK, 'compile_commands.json'), 'utf8'));
  const count = rules.filter(({ file }) => file.endsWith('.cu')).length;
  if (count === 0) return 0;
  const whole = ['-Wl,--whole-archive', archive, '-Wl,--no-whole-archive', cudart];
  const output = join(FOLDER, 'kernels.so');
  execFileSync(process.env.CXX || 'c++', ['-shared', '-Wl,--no-undefined', '-o', output, ...whole], {
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  return count;
}

async function whole(env) {
  const torch = await findLibtorch({ env, log: say });
  if (torch.variant === 'cpu') throw new Error(`${torch.root} is a build without CUDA`);
  mkdirSync(RELEASE, { recursive: true });
  await compile({ torch, env: { ...env, SELFEDIT_CUDA: 'on' }, work: WORK, release: RELEASE });
  const { root, version, variant, source } = torch;
  writeFileSync(
    join(RELEASE, 'libtorch.json'),
    `${JSON.stringify({ root, version, variant, source }, null, 2)}\n`,
  );
  const addon = join(RELEASE, 'selfedit.node');
  say(`linked ${relative(ROOT, addon)} with libtorch ${version} (${variant}): ${root}`);

  const { needed, open, own, checked, paths } = openSymbols(addon, torch.libraries);
  say(`it needs ${needed.join(', ')}`);
  if (own.length > 0) throw new Error(`selfedit's own symbols are undefined: ${own.slice(0, 10).join(', ')}`);
  if (open.length > 0)
    throw new Error(`${open.length} symbols are defined by no library: ${open.slice(0, 10).join(', ')}`);
  say(`all ${checked} symbols that it takes from libraries are defined there; none is selfedit's own`);

  const cudart = [...paths.values()].find((path) => /libcudart\.so/.test(path));
  if (!cudart) throw new Error('libcudart is not among the libraries of libtorch');
  say(`kernels: ${linkKernels(cudart)} files, linked whole with ${cudart}`);

  const info = load(torch.libraries);
  if (!info.cuda) throw new Error('the addon says that it was built without CUDA');
  say(`it loads; devices: ${info.devices.join(', ')}${info.whyNoGpu ? `; no GPU: ${info.whyNoGpu}` : ''}`);
}

try {
  if (process.argv.includes('--kernels-only')) kernels();
  else {
    const env = {
      ...process.env,
      SELFEDIT_LIBTORCH_VERSION: process.env.SELFEDIT_LIBTORCH_VERSION || VERSION,
      SELFEDIT_LIBTORCH_VARIANT: process.env.SELFEDIT_LIBTORCH_VARIANT || VARIANT,
    };
    mkdirSync(FOLDER, { recursive: true });
    await withLock(join(FOLDER, '.lock'), say, () => whole(env));
  }
} catch (error) {
  console.error(`check:cuda: ${error.message}`);
  process.exitCode = 1;
}
