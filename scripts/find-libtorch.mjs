#!/usr/bin/env node
// Finds libtorch, or brings it: LIBTORCH, the cache, python3's torch package, the official archive, the PyPI wheel; the
// first that can be used is taken and named in one line. `--json` prints the result; `--no-download` stays on this machine.
import { pathToFileURL } from 'node:url';
import { fromArchive } from './libtorch/archive.mjs';
import {
  cachedRoots,
  DEFAULT_VERSION,
  inspectRoot,
  pythonTorch,
  SUPPORTED,
  supportedRange,
} from './libtorch/root.mjs';
import { fromWheel } from './libtorch/wheel.mjs';

/** What can be wanted: a variant (cpu where none is named, but then any complete local one will do) and a version. */
function wanted(env) {
  const named = env.SELFEDIT_LIBTORCH_VARIANT?.toLowerCase();
  if (named !== undefined && !/^(cpu|cu\d{3}|rocm[\d.]+)$/.test(named)) {
    throw new Error(
      `SELFEDIT_LIBTORCH_VARIANT is "${named}"; expected cpu, or a CUDA version such as cu128 or cu130`,
    );
  }
  const version = env.SELFEDIT_LIBTORCH_VERSION || DEFAULT_VERSION;
  const [major, minor] = version.split('.').map(Number);
  if (
    !/^\d+\.\d+\.\d+$/.test(version) ||
    major !== SUPPORTED.major ||
    minor < SUPPORTED.first ||
    minor > SUPPORTED.last
  ) {
    throw new Error(
      `SELFEDIT_LIBTORCH_VERSION is "${version}"; expected a version from ${supportedRange()}, such as 2.13.0`,
    );
  }
  return { variant: named ?? 'cpu', named, version, exactVersion: Boolean(env.SELFEDIT_LIBTORCH_VERSION) };
}

/** Why a local libtorch is passed over, or undefined when it will do. */
function mismatch(found, want) {
  if (found.problem) return found.problem;
  if (want.named && found.variant !== want.named)
    return `it is ${found.variant}, and the variant is ${want.named}`;
  if (want.exactVersion && found.version !== want.version)
    return `it is ${found.version}, not ${want.version}`;
  return undefined;
}

function fromCache(want, env) {
  const roots = cachedRoots(env).map((root) => inspectRoot(root));
  // What the cache holds was brought on request, so the variant counts even where none is named (it is then cpu).
  const named = { ...want, named: want.variant };
  const fitting = roots.filter((found) => !mismatch(found, named));
  const best = fitting.find((found) => found.version === want.version) ?? fitting[0];
  if (best) return best;
  throw new Error(
    roots.length === 0 ? 'it is empty' : roots.map((r) => `${r.root}: ${mismatch(r, named)}`).join('; '),
  );
}

function fromPython(want, env) {
  const folder = pythonTorch(env);
  if (!folder) throw new Error('it has none');
  const found = inspectRoot(folder);
  const why = mismatch(found, want);
  if (why) throw new Error(`${folder}: ${why}`);
  return found;
}

/**
 * Returns { root, version, variant, libraries, source, check }. Throws with everything that was tried when there is none.
 * `log` gets the one line that says which was taken; `sources` replaces the two that download, for tests.
 * @param {{ env?: NodeJS.ProcessEnv, log?: (line: string) => void, download?: boolean,
 *   sources?: Record<string, (want: object) => Promise<object>> }} [options]
 */
export async function findLibtorch({
  env = process.env,
  log = () => {},
  download = true,
  sources = {},
} = {}) {
  const want = wanted(env);
  const take = (found, source) => {
    const check = found.check ? `, SHA-256 ${found.check}` : '';
    log(`libtorch ${found.version} (${found.variant}) from ${source}${check}: ${found.root}`);
    return { ...found, source };
  };
  if (env.LIBTORCH) {
    const found = inspectRoot(env.LIBTORCH);
    // Named by the user: anything wrong with it is an error, never a reason to take another.
    if (found.problem) throw new Error(`LIBTORCH=${env.LIBTORCH} cannot be used: ${found.problem}`);
    return take(found, 'LIBTORCH');
  }
  const order = [
    ['the cache', () => fromCache(want, env)],
    ["python3's torch package", () => fromPython(want, env)],
  ];
  if (download) {
    order.push(
      ['the official archive', () => (sources.archive ?? fromArchive)({ ...want, env })],
      ['the PyPI wheel', () => (sources.wheel ?? fromWheel)({ ...want, env })],
    );
  }
  const tried = ['LIBTORCH is not set'];
  for (const [source, get] of order) {
    try {
      return take(await get(), source);
    } catch (error) {
      tried.push(`${source}: ${error.message}`);
    }
  }
  throw new Error(
    `no libtorch ${want.version} (${want.variant}) was found. Tried:\n${tried.map((t) => `  - ${t}`).join('\n')}\n` +
      'Next: set LIBTORCH to a libtorch folder or to a Python torch package folder ' +
      `(torch ${supportedRange()}), or connect to the network, and run: npm run build:native`,
  );
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const json = process.argv.includes('--json');
  try {
    const download = !process.argv.includes('--no-download');
    const found = await findLibtorch({ log: (line) => console.error(`selfedit: ${line}`), download });
    console.log(json ? JSON.stringify(found, null, 2) : found.root);
  } catch (error) {
    console.error(`selfedit: ${error.message}`);
    process.exitCode = 1;
  }
}
