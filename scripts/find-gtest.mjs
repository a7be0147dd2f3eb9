#!/usr/bin/env node
// Finds GoogleTest's sources, or brings them without root: GTEST_ROOT, the system, the cache, the distribution's package.
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import { temporaryFolder } from './libtorch/install.mjs';
import { cacheFolder } from './libtorch/root.mjs';

const run = promisify(execFile);

/** A folder that scripts/cmake/SelfeditGTest.cmake can use: GoogleTest's sources or an installed prefix. */
export function usable(folder) {
  return ['src/gtest-all.cc', 'googletest/src/gtest-all.cc', 'include/gtest/gtest.h'].some((f) =>
    existsSync(join(folder, f)),
  );
}

/** Debian's package holds the sources. apt unpacks nothing and needs no root as long as its lists are our own. */
export async function fromApt(env) {
  const work = await temporaryFolder(env);
  try {
    const lists = join(work, 'state', 'lists');
    await mkdir(join(lists, 'partial'), { recursive: true });
    await mkdir(join(work, 'archives', 'partial'), { recursive: true });
    const own = [
      '-o',
      `Dir::State::lists=${lists}`,
      '-o',
      `Dir::Cache=${work}`,
      '-o',
      'APT::Sandbox::User=',
      '-qq',
    ];
    const options = { cwd: work, timeout: 180_000 };
    // First with the lists that the system already has, then with lists fetched into our own folder.
    await run('apt-get', ['download', '-qq', 'googletest'], options).catch(async () => {
      await run('apt-get', [...own, 'update'], options);
      await run('apt-get', [...own, 'download', 'googletest'], options);
    });
    const archive = (await readdir(work)).find((f) => /^googletest_.*\.deb$/.test(f));
    if (!archive) throw new Error('apt-get brought no package');
    await run('dpkg-deb', ['-x', join(work, archive), join(work, 'unpacked')]);
    const place = join(cacheFolder(env), 'googletest');
    await rename(join(work, 'unpacked', 'usr', 'src', 'googletest'), place).catch((error) => {
      if (!usable(place)) throw error; // else somebody else was faster
    });
    return place;
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

/** Where it may be without being brought. */
function usualPlaces(env) {
  return ['/usr/src/googletest', join(cacheFolder(env), 'googletest'), '/usr/local', '/opt/homebrew', '/usr'];
}

/**
 * @param {{ env?: NodeJS.ProcessEnv, log?: (line: string) => void, places?: string[],
 *   apt?: (env: NodeJS.ProcessEnv) => Promise<string> }} [options] `places` and `apt` are replaced by tests
 */
export async function findGoogleTest({ env = process.env, log = () => {}, places, apt = fromApt } = {}) {
  if (env.GTEST_ROOT) {
    if (!usable(env.GTEST_ROOT)) throw new Error(`GTEST_ROOT=${env.GTEST_ROOT} holds no GoogleTest`);
    return env.GTEST_ROOT;
  }
  places ??= usualPlaces(env);
  const place = places.find(usable);
  if (place) return place;
  try {
    const brought = await apt(env);
    log(`GoogleTest from the distribution's package: ${brought}`);
    return brought;
  } catch (error) {
    throw new Error(
      `no GoogleTest was found (looked at GTEST_ROOT, ${places.join(', ')}; apt-get: ${String(error.message).split('\n')[0]}). ` +
        'Next: install it (Debian: apt-get install googletest; macOS: brew install googletest), or set GTEST_ROOT to its sources',
    );
  }
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  try {
    console.log(await findGoogleTest({ log: (line) => console.error(`selfedit: ${line}`) }));
  } catch (error) {
    console.error(`selfedit: ${error.message}`);
    process.exitCode = 1;
  }
}
