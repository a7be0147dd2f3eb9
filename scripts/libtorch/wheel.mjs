// libtorch out of the PyPI wheel of torch, brought by pip.
import { execFile } from 'node:child_process';
import { readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { temporaryFolder, unpackIntoCache, verify } from './install.mjs';
import { pythonCommand } from './root.mjs';

const run = promisify(execFile);

async function pip(env, ...args) {
  try {
    return await run(pythonCommand(env), ['-m', 'pip', ...args], {
      env: { ...env, PIP_DISABLE_PIP_VERSION_CHECK: '1', PIP_NO_INPUT: '1' },
      maxBuffer: 1 << 26,
    });
  } catch (error) {
    if (error.code === 'ENOENT') throw new Error(`there is no ${pythonCommand(env)}`);
    const lines = String(error.stderr || error.message)
      .trim()
      .split('\n');
    throw new Error(lines.findLast((line) => line.startsWith('ERROR')) ?? lines.at(-1));
  }
}

/**
 * Which wheel to ask for. The libraries are the same for every Python, so the one whose hash is known is asked for first,
 * whatever Python runs pip.
 */
function tagSets() {
  if (process.platform === 'linux' && process.arch === 'x64') {
    const platform = [
      '--platform',
      'manylinux_2_28_x86_64',
      '--python-version',
      '3.11',
      '--implementation',
      'cp',
    ];
    return [[...platform, '--abi', 'cp311', '--only-binary=:all:'], []];
  }
  return [[]];
}

/** Requirements of the wheel on CUDA's own packages (markers left for pip to judge); empty for a CPU build. */
export function cudaRequirements(requiresDist = []) {
  return requiresDist.filter((r) => /^(nvidia-|cuda-toolkit\b)/.test(r) && !/;\s*extra ==/.test(r));
}

/** Asks pip what it would take, without taking it; undefined where this pip cannot say. */
async function dryRun(env, version, tags, work) {
  const report = join(work, 'report.json');
  const target = tags.length > 0 ? ['--target', join(work, 'none')] : ['--ignore-installed'];
  try {
    await pip(
      env,
      'install',
      '--quiet',
      '--dry-run',
      '--no-deps',
      '--report',
      report,
      ...target,
      ...tags,
      `torch==${version}`,
    );
    return JSON.parse(await readFile(report, 'utf8')).install[0]?.metadata.requires_dist ?? [];
  } catch {
    return undefined;
  }
}

function refuse(variant) {
  return new Error(
    `the wheel is a CUDA build, and the variant is ${variant}: it would need several gigabytes of nvidia wheels. ` +
      'For a GPU set SELFEDIT_LIBTORCH_VARIANT (for example cu130); for the CPU install one yourself and point ' +
      'LIBTORCH to it, or put the CPU wheel into a folder and set PIP_FIND_LINKS to it',
  );
}

export async function fromWheel({ version, variant, env, known }) {
  const work = await temporaryFolder(env);
  try {
    let failure;
    for (const tags of tagSets()) {
      const requires = await dryRun(env, version, tags, work);
      const cuda = cudaRequirements(requires);
      if (variant === 'cpu' && cuda.length > 0) throw refuse(variant);
      try {
        await pip(env, 'download', '--quiet', '--no-deps', '--dest', work, ...tags, `torch==${version}`);
      } catch (error) {
        failure = error;
        continue;
      }
      return await unpack({ work, variant, env, known, cuda, version });
    }
    throw failure;
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

async function unpack({ work, variant, env, known, cuda, version }) {
  const wheel = (await readdir(work)).find((f) => f.startsWith('torch-') && f.endsWith('.whl'));
  if (!wheel) throw new Error('pip brought no wheel');
  const check = await verify(join(work, wheel), wheel, env, known);
  const files = [join(work, wheel)];
  if (variant !== 'cpu') {
    if (cuda.length === 0) throw new Error(`the wheel is not a CUDA build, and the variant is ${variant}`);
    // pip judges the markers and brings what these need in turn.
    const beside = join(work, 'nvidia');
    await pip(env, 'download', '--quiet', '--dest', beside, ...cuda);
    for (const file of await readdir(beside))
      if (/^nvidia_.*\.whl$/.test(file)) files.push(join(beside, file));
  }
  const found = await unpackIntoCache(files, { source: `wheel ${wheel}`, version, ...check }, env);
  if (variant !== 'cpu' && found.variant !== variant) {
    throw new Error(`the wheel is ${found.variant}, and the variant is ${variant}; it is kept in the cache`);
  }
  return { ...found, check: check.state, wheel };
}
