import { copyFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { AddonLoadError } from '../../lib/errors.js';
import { findAddon, findLibtorch, loadAddon, packageRoot } from '../../lib/load.js';
import { fakePython, fakeTorch, temporary, write } from './helpers/libtorch.js';

let folder: string;
let env: NodeJS.ProcessEnv;

beforeEach(() => {
  folder = temporary();
  env = { PATH: process.env.PATH, SELFEDIT_CACHE: join(folder, 'cache'), SELFEDIT_PYTHON: 'no-python' };
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const built = (root: string, version = '2.13.0', variant = 'cpu') => ({
  root,
  version,
  variant,
  source: 'LIBTORCH',
});

/** A package folder with an addon that is not one, built with the libtorch at `root`. */
function fakeBuild(root: string, loader = join(packageRoot, 'build/Release/loader.node')): string {
  const release = join(folder, 'package/build/Release');
  write(join(release, 'selfedit.node'), 'not a library');
  write(join(release, 'libtorch.json'), JSON.stringify(built(root)));
  copyFileSync(loader, join(release, 'loader.node'));
  return join(folder, 'package');
}

function diagnosis(root: string): string {
  try {
    loadAddon(root, env);
  } catch (error) {
    expect(error).toBeInstanceOf(AddonLoadError);
    expect(error).toMatchObject({ code: 'ADDON_LOAD', exitCode: 1 });
    return (error as Error).message;
  }
  throw new Error('loadAddon should have thrown');
}

describe('the libtorch to load', () => {
  it('is the one built with, then LIBTORCH, the cache and python3', () => {
    const first = fakeTorch(join(folder, 'first'));
    const named = fakeTorch(join(folder, 'named'));
    const cached = fakeTorch(join(folder, 'cache/libtorch/2.13.0-cpu/torch'));
    const python = fakeTorch(join(folder, 'site/torch'));
    env.LIBTORCH = named;
    env.SELFEDIT_PYTHON = fakePython(folder, { torch: python });
    for (const root of [first, named, cached, python]) {
      const last = findLibtorch(built(first), env).at(-1);
      expect(last?.found.root).toBe(root);
      expect(last?.problem).toBeUndefined();
      rmSync(root, { recursive: true });
    }
    expect(findLibtorch(built(first), env).every(({ problem }) => problem)).toBe(true);
  });

  it('must have the minor version built with, and a CUDA addon needs the same CUDA', () => {
    const other = fakeTorch(join(folder, 'other'), { version: '2.12.0' });
    env.LIBTORCH = other;
    expect(findLibtorch(built(join(folder, 'gone')), env)[1]?.problem).toBe(
      'it is version 2.12.0, the addon was built with 2.13.0',
    );
    fakeTorch(other, { version: '2.13.5' });
    expect(findLibtorch(built(join(folder, 'gone')), env)[1]?.problem).toBeUndefined();
    expect(findLibtorch(built(join(folder, 'gone'), '2.13.0', 'cu130'), env)[1]?.problem).toBe(
      'it is cpu, the addon was built with cu130',
    );
  });

  it('needs no headers', () => {
    const root = fakeTorch(join(folder, 'a'), { headers: false });
    expect(findLibtorch(built(root), env)[0]?.problem).toBeUndefined();
  });
});

describe('a failed load', () => {
  it('without an addon says which files are missing and how to build them', () => {
    const text = diagnosis(join(folder, 'package'));
    expect(text).toContain('The native addon is not built');
    expect(text).toContain(findAddon(join(folder, 'package')).addon);
    expect(text).toMatch(/^Next: run "npm run build:native"/m);
  });

  it('without a fitting libtorch lists every place that was looked at', () => {
    env.LIBTORCH = fakeTorch(join(folder, 'other'), { version: '2.11.0' });
    const text = diagnosis(fakeBuild(join(folder, 'gone')));
    expect(text).toContain('No libtorch 2.13 was found');
    expect(text).toContain(`the libtorch built with: ${join(folder, 'gone')}: there is no such folder`);
    expect(text).toContain('it is version 2.11.0, the addon was built with 2.13.0');
    expect(text).toMatch(/^Next: set LIBTORCH/m);
  });

  it('with a damaged libtorch gives the words of the dynamic linker and the facts', () => {
    const root = fakeTorch(join(folder, 'damaged'));
    const text = diagnosis(fakeBuild(root));
    expect(text).toMatch(/libtorch does not open: .*libgomp\.so\.1: (file too short|invalid ELF header)/);
    expect(text).toContain(`libtorch: 2.13.0 (cpu) from the libtorch built with: ${root}`);
    expect(text).toContain(`Node.js ${process.version}`);
    expect(text).toMatch(/^Next: /m);
  });

  it('with a damaged addon says so', () => {
    const root = fakeTorch(join(folder, 'empty'));
    const libraries = findLibtorch(built(root), env)[0]?.found.libraries ?? [];
    // Libraries that open: copies of the loader itself.
    for (const file of libraries) copyFileSync(join(packageRoot, 'build/Release/loader.node'), file);
    const text = diagnosis(fakeBuild(root));
    expect(text).toMatch(
      /The native addon does not open: .*selfedit\.node: (file too short|invalid ELF header)/,
    );
    expect(text).toMatch(/^Next: run "npm run build:native"/m);
  });
});
