// Puts a downloaded libtorch into the cache: hash first, then unpack beside the final place, then one rename, so that two
// installs at once, or a killed one, never leave a half folder under the final name.
import { createHash, randomBytes } from 'node:crypto';
import { createReadStream, existsSync } from 'node:fs';
import { mkdir, readdir, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { cacheFolder, inspectRoot } from './root.mjs';
import { unzip } from './unzip.mjs';

/** SHA-256 of files that the maintainers have looked at. */
export const KNOWN = {
  'torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl':
    '6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b',
  'torch-2.14.1-cp311-cp311-manylinux_2_28_x86_64.whl':
    '305a61f61f35f128579f299c5bd33d475f6a01c6307336139632e30856c4854d',
};

export async function sha256(path) {
  const hash = createHash('sha256');
  await pipeline(createReadStream(path, { highWaterMark: 1 << 20 }), hash);
  return hash.digest('hex');
}

/**
 * Checks a file against SELFEDIT_LIBTORCH_SHA256, else the known hashes. Returns 'verified' or 'unverified'; throws on a
 * mismatch.
 */
export async function verify(path, name, env = process.env, known = KNOWN) {
  const found = await sha256(path);
  const expected = env.SELFEDIT_LIBTORCH_SHA256?.toLowerCase() ?? known[name];
  if (expected === undefined) return { sha256: found, state: 'unverified' };
  if (found !== expected) throw new Error(`the SHA-256 of ${name} is ${found}, expected ${expected}`);
  return { sha256: found, state: 'verified' };
}

/** Parts of a wheel or archive that building and running need, as paths under torch/ (or nvidia/ beside it). */
export function neededPart(name) {
  const path = name.replace(/^libtorch\//, 'torch/').replace(/^[^/]+\.data\/purelib\//, '');
  const library = /^torch\/lib\/([^/]+)$/.exec(path);
  if (library)
    return /python|_test|^libshm|backend_with_compiler|aoti_custom_ops|\.a$/.test(library[1])
      ? undefined
      : path;
  if (/^torch\/(include|share\/cmake)\//.test(path)) return path;
  if (/^torch\/(version\.py|build-version|build-hash)$/.test(path)) return path;
  // torch's CUDA headers include those of cuBLAS, cuSPARSE and cuSOLVER, which a toolkit with nvcc alone lacks.
  if (/^nvidia\/.*\/(lib\/[^/]+\.so|include\/)/.test(path)) return path;
  // The licence travels with the libraries.
  const licence = /\.dist-info\/(?:licenses\/)?((?:LICENSE|NOTICE)[^/]*)$/.exec(path);
  return licence && path.startsWith('torch-') ? `torch/${licence[1]}` : undefined;
}

/** A fresh folder in the cache for work in progress; leftovers of killed installs older than a day are removed. */
export async function temporaryFolder(env = process.env) {
  const parent = join(cacheFolder(env), 'libtorch');
  await mkdir(parent, { recursive: true });
  for (const name of await readdir(parent)) {
    if (!name.startsWith('.tmp-')) continue;
    const age = Date.now() - ((await stat(join(parent, name)).catch(() => undefined))?.mtimeMs ?? Date.now());
    if (age > 86_400_000) await rm(join(parent, name), { recursive: true, force: true });
  }
  const folder = join(parent, `.tmp-${process.pid}-${randomBytes(4).toString('hex')}`);
  await mkdir(folder);
  return folder;
}

/** Unpacks files (torch's first) and moves the result to its place. Returns what inspectRoot says of that place. */
export async function unpackIntoCache(files, origin, env = process.env) {
  const work = await temporaryFolder(env);
  try {
    for (const file of files) await unzip(file, work, neededPart);
    const found = inspectRoot(join(work, 'torch'));
    if (found.problem) throw new Error(`what was unpacked cannot be used: ${found.problem}`);
    await writeFile(join(work, 'selfedit.json'), `${JSON.stringify(origin, null, 2)}\n`);
    const place = join(cacheFolder(env), 'libtorch', `${found.version}-${found.variant}`);
    await moveIntoPlace(work, place);
    return inspectRoot(join(place, 'torch'));
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

async function moveIntoPlace(work, place) {
  for (let attempt = 0; ; attempt++) {
    try {
      await rename(work, place);
      return;
    } catch (error) {
      if (!existsSync(place) || attempt > 2) throw error;
      // Somebody else was faster: theirs is as good, unless it is broken.
      if (!inspectRoot(join(place, 'torch')).problem) return;
      await rm(place, { recursive: true, force: true });
    }
  }
}
