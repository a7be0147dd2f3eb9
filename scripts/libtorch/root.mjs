// What a libtorch folder is: where its libraries are, which version and variant it has, what it lacks.
// Used by the build scripts and, at load time, by lib/load.ts; so it needs no package and only reads.
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, realpathSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join, resolve } from 'node:path';

/** First and last supported minor version of torch 2. */
export const SUPPORTED = { major: 2, first: 11, last: 14 };
export const DEFAULT_VERSION = '2.13.0';

/** SELFEDIT_CACHE, else the user's cache folder. */
export function cacheFolder(env = process.env) {
  if (env.SELFEDIT_CACHE) return resolve(env.SELFEDIT_CACHE);
  return join(env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'selfedit');
}

/** 'libtorch_cpu' becomes 'libtorch_cpu.so' on Linux. */
export function libraryName(name, platform = process.platform) {
  if (platform === 'win32') return `${name.replace(/^lib/, '')}.dll`;
  return `${name}${platform === 'darwin' ? '.dylib' : '.so'}`;
}

function read(path) {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}

function list(path) {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}

/** '2.13.0+cu130' becomes { version: '2.13.0', variant: 'cu130' }. */
function splitVersion(text) {
  const match = /^(\d+\.\d+\.\d+)[^+]*(?:\+(.+))?$/.exec(text.trim());
  return match ? { version: match[1], variant: match[2] } : undefined;
}

function readVersion(root) {
  // A libtorch archive has build-version, a Python package version.py; both have the header.
  const build = read(join(root, 'build-version'));
  if (build) {
    const found = splitVersion(build);
    if (found) return found;
  }
  const python = read(join(root, 'version.py'));
  const quoted = python && /^__version__ = ['"]([^'"]+)['"]/m.exec(python);
  if (quoted) {
    const found = splitVersion(quoted[1]);
    const cuda = /^cuda: [^=]*= ['"](\d+)\.(\d+)['"]/m.exec(python);
    if (found)
      return {
        version: found.version,
        variant: found.variant ?? (cuda ? `cu${cuda[1]}${cuda[2]}` : undefined),
      };
  }
  for (const header of ['torch/headeronly/version.h', 'torch/csrc/api/include/torch/version.h']) {
    const text = read(join(root, 'include', header));
    const parts =
      text && ['MAJOR', 'MINOR', 'PATCH'].map((p) => new RegExp(`TORCH_VERSION_${p} (\\d+)`).exec(text)?.[1]);
    if (parts?.every(Boolean)) return { version: parts.join('.') };
  }
  return undefined;
}

/**
 * Looks at a folder that should hold libtorch: the libtorch folder itself, a Python `torch` package, or a folder with
 * one of them inside. Returns { root, version, variant, libraries, problem }: `libraries` in the order in which they have
 * to be opened, `problem` in words when the folder cannot be used.
 */
export function inspectRoot(folder, options = {}) {
  const { headers = true, missing = missingLibraries } = options;
  const start = resolve(folder);
  if (!existsSync(start)) return { root: start, problem: 'there is no such folder' };
  const cpu = libraryName('libtorch_cpu');
  const inside = [start, join(start, 'libtorch'), join(start, 'torch'), dirname(start)];
  const at = inside.find((root) => existsSync(join(root, 'lib', cpu)));
  if (!at || (at === dirname(start) && !/[/\\]lib$/.test(start))) {
    return { root: start, problem: `lib/${cpu} is not in it` };
  }
  const root = realpathSync(at);
  const files = list(join(root, 'lib'));
  const cuda = files.includes(libraryName('libtorch_cuda'));
  const found = readVersion(root);
  if (!found) return { root, problem: 'its version cannot be read (build-version, version.py or version.h)' };
  const variant = found.variant ?? (cuda ? 'cuda' : 'cpu');
  const result = {
    root,
    version: found.version,
    variant,
    libraries: libraries(root, files),
    problem: undefined,
  };
  const [major, minor] = found.version.split('.').map(Number);
  if (major !== SUPPORTED.major || minor < SUPPORTED.first || minor > SUPPORTED.last) {
    result.problem = `it is version ${found.version}; selfedit needs ${supportedRange()}`;
  } else if (headers && !existsSync(join(root, 'include', 'ATen', 'ATen.h'))) {
    result.problem = 'include/ATen/ATen.h is not in it (only the libraries are there)';
  } else if (cuda) {
    const lacking = missing(join(root, 'lib', libraryName('libtorch_cuda')));
    if (lacking.length > 0) {
      result.problem =
        `it is a CUDA build whose own libraries are not beside it (${lacking.slice(0, 4).join(', ')}` +
        `${lacking.length > 4 ? ', …' : ''}); install torch together with its nvidia packages, or use a CPU build`;
    }
  }
  return result;
}

export function supportedRange() {
  return `${SUPPORTED.major}.${SUPPORTED.first} to ${SUPPORTED.major}.${SUPPORTED.last}`;
}

/** The libraries to open, dependencies first. */
function libraries(root, files) {
  const openmp = files
    .filter((f) => /^(libgomp.*\.so|libi?omp5?\.(dylib|dll))/.test(f))
    .sort()
    .slice(0, 1);
  const names = ['libc10', 'libc10_cuda', 'libtorch_cpu', 'libtorch_cuda', 'libtorch'].map((n) =>
    libraryName(n),
  );
  return [...openmp, ...names.filter((n) => files.includes(n))].map((f) => join(root, 'lib', f));
}

/**
 * Shared libraries that the dynamic linker would not find for `library`, by name. The driver's own libcuda.so.1 does
 * not count: it comes with the driver, and a machine may build without one.
 */
export function missingLibraries(library) {
  if (process.platform !== 'linux') return [];
  try {
    const text = execFileSync('ldd', [library], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
    return [...text.matchAll(/^\s*(\S+) => not found/gm)]
      .map((m) => m[1])
      .filter((n) => n !== 'libcuda.so.1');
  } catch {
    return []; // No ldd: the loader will say what is missing.
  }
}

/** Folders in the cache that hold a complete libtorch, as paths; newest version first. */
export function cachedRoots(env = process.env) {
  const folder = join(cacheFolder(env), 'libtorch');
  return list(folder)
    .filter((name) => /^\d+\.\d+\.\d+-[a-z0-9]+$/.test(name))
    .sort((a, b) => b.localeCompare(a, 'en', { numeric: true }))
    .map((name) => join(folder, name, 'torch'));
}

/** The Python to ask: SELFEDIT_PYTHON, npm's `python` setting, else python3. */
export function pythonCommand(env = process.env) {
  return (
    env.SELFEDIT_PYTHON || env.npm_config_python || (process.platform === 'win32' ? 'python' : 'python3')
  );
}

/** Folder of the `torch` package that `python3` would import (it is not imported), or undefined. */
export function pythonTorch(env = process.env) {
  const code =
    'import sys, importlib.util as u\n' +
    'sys.path = [p for p in sys.path if p]\n' + // not the current folder
    "s = u.find_spec('torch')\n" +
    "print(s.submodule_search_locations[0] if s and s.submodule_search_locations else '')";
  try {
    const text = execFileSync(pythonCommand(env), ['-c', code], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
      timeout: 30_000,
      env,
    }).trim();
    return text || undefined;
  } catch {
    return undefined;
  }
}
