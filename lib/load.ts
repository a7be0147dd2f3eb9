/**
 * Opens libtorch, then the addon. libtorch is looked for when the addon is loaded, not linked by path, so no environment
 * variable is needed and an addon built on one machine works on another.
 * A failed load is a diagnosis: what was tried, what was found, the next command to type.
 */
import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { cachedRoots, inspectRoot, type LibtorchRoot, pythonTorch } from '../scripts/libtorch/root.mjs';
import { makeError } from './errors.js';

/** The package's own folder; this file is in `lib/` (tests) or `dist/` (the package). */
export const packageRoot: string = join(dirname(fileURLToPath(import.meta.url)), '..');

/** What the build recorded about the libtorch it was made with. */
export interface BuiltWith {
  root: string;
  version: string;
  variant: string;
  source: string;
}

/** Where the addon is, and what it was built with. */
export interface AddonPlace {
  folder: string;
  addon: string;
  loader: string;
  built?: BuiltWith;
}

/** A libtorch that was looked at, and why it will not do (absent: it will). */
export interface LibtorchCandidate {
  from: string;
  found: LibtorchRoot;
  problem?: string;
}

const REBUILD = 'npm rebuild selfedit';
/** In a checkout `npm rebuild` would rebuild the dependencies. */
const inCheckout = existsSync(join(packageRoot, 'tsconfig.json'));
/** The command that builds the addon. */
export const buildCommand = inCheckout ? 'npm run build:native' : REBUILD;

/** Looks for the addon's files; nothing is opened. */
export function findAddon(root = packageRoot): AddonPlace {
  const folder = join(root, 'build', 'Release');
  const place: AddonPlace = {
    folder,
    addon: join(folder, 'selfedit.node'),
    loader: join(folder, 'loader.node'),
  };
  try {
    place.built = JSON.parse(readFileSync(join(folder, 'libtorch.json'), 'utf8')) as BuiltWith;
  } catch {
    // Absent or unreadable: reported together with whatever else is missing.
  }
  return place;
}

function minor(version: string | undefined): string {
  return version?.split('.').slice(0, 2).join('.') ?? '?';
}

/** Judges one folder against the version the addon was built with; C++ interfaces change with every minor version. */
function judge(from: string, folder: string, built: BuiltWith): LibtorchCandidate {
  // The folder that the build has checked is not checked again: asking the linker takes longer than opening it.
  const trusted = folder === built.root ? { missing: () => [] } : {};
  const found = inspectRoot(folder, { headers: false, ...trusted });
  let problem = found.problem;
  if (!problem && minor(found.version) !== minor(built.version)) {
    problem = `it is version ${found.version}, the addon was built with ${built.version}`;
  } else if (!problem && built.variant !== 'cpu' && found.variant !== built.variant) {
    problem = `it is ${found.variant}, the addon was built with ${built.variant}`;
  }
  return problem ? { from, found, problem } : { from, found };
}

/**
 * Looks for the libtorch to load, in the order: the one built with, LIBTORCH, the cache, python3's torch package. The
 * last candidate is the usable one, if any is.
 */
export function findLibtorch(built: BuiltWith, env: NodeJS.ProcessEnv = process.env): LibtorchCandidate[] {
  const sources: [string, () => string[]][] = [
    ['the libtorch built with', () => [built.root]],
    ['LIBTORCH', () => (env.LIBTORCH ? [env.LIBTORCH] : [])],
    ['the cache', () => cachedRoots(env)],
    ["python3's torch package", () => [pythonTorch(env)].filter((p) => p !== undefined)],
  ];
  const tried: LibtorchCandidate[] = [];
  for (const [from, folders] of sources) {
    for (const folder of folders()) {
      const candidate = judge(from, folder, built);
      tried.push(candidate);
      if (!candidate.problem) return tried;
    }
  }
  return tried;
}

function fail(what: string, details: string[], next: string, cause?: unknown): never {
  const lines = [what, ...details.map((d) => `  - ${d}`), `Next: ${next}`];
  throw makeError('ADDON_LOAD', lines.join('\n'), cause);
}

function words(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** The loaded addon's folder and libtorch, once `loadAddon` has succeeded. */
export let loaded: { place: AddonPlace; libtorch: LibtorchCandidate } | undefined;

/**
 * Opens libtorch and the addon, and returns the addon's exports. Safe in worker threads: the libraries are opened once a
 * process, the addon once an environment.
 * @throws AddonLoadError when the addon or a fitting libtorch is missing, or does not open.
 */
export function loadAddon(root = packageRoot, env: NodeJS.ProcessEnv = process.env): unknown {
  const place = findAddon(root);
  const missing = [place.addon, place.loader].filter((file) => !existsSync(file));
  if (missing.length > 0 || !place.built) {
    if (!place.built) missing.push(join(place.folder, 'libtorch.json'));
    fail(
      `The native addon is not built for ${process.platform} ${process.arch}.`,
      missing.map((file) => `missing: ${file}`),
      `run "${buildCommand}" (needs CMake and a C++20 compiler)`,
    );
  }
  const tried = findLibtorch(place.built, env);
  const libtorch = tried.at(-1);
  if (!libtorch || libtorch.problem) {
    fail(
      `No libtorch ${minor(place.built.version)} was found, the version that the native addon was built with.`,
      tried.map(({ from, found, problem }) => `${from}: ${found.root}: ${problem}`),
      `set LIBTORCH to a libtorch ${minor(place.built.version)} folder or Python torch package, or run "${buildCommand}"`,
    );
  }
  const require = createRequire(import.meta.url);
  const facts = [
    `addon: ${place.addon}`,
    `libtorch: ${libtorch.found.version} (${libtorch.found.variant}) from ${libtorch.from}: ${libtorch.found.root}`,
    `Node.js ${process.version}, ${process.platform} ${process.arch}`,
  ];
  try {
    const loader = require(place.loader) as { load(paths: string[]): void };
    loader.load(libtorch.found.libraries ?? []);
  } catch (error) {
    fail(`libtorch does not open: ${words(error)}`, facts, `run "${buildCommand}", or set LIBTORCH`, error);
  }
  try {
    const exports: unknown = require(place.addon);
    loaded = { place, libtorch };
    return exports;
  } catch (error) {
    fail(`The native addon does not open: ${words(error)}`, facts, `run "${buildCommand}"`, error);
  }
}
