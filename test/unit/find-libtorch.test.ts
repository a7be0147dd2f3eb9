import { existsSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { findLibtorch } from '../../scripts/find-libtorch.mjs';
import { archiveUrl, fromArchive } from '../../scripts/libtorch/archive.mjs';
import { sha256 } from '../../scripts/libtorch/install.mjs';
import { inspectRoot } from '../../scripts/libtorch/root.mjs';
import { fromWheel } from '../../scripts/libtorch/wheel.mjs';
import { fakePython, fakeTorch, temporary, wheel, write, zip } from './helpers/libtorch.js';

const WHEEL = 'torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl';
let folder: string;
let env: NodeJS.ProcessEnv;
/** Stands in for the network: the official archive does not answer. */
const offline = { archive: () => Promise.reject(new Error('no answer')) };

beforeEach(() => {
  folder = temporary();
  env = {
    PATH: process.env.PATH,
    SELFEDIT_CACHE: join(folder, 'cache'),
    SELFEDIT_PYTHON: join(folder, 'no-python'),
  };
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

/** The finder with the line it prints. */
async function find(more: NodeJS.ProcessEnv = {}) {
  const lines: string[] = [];
  const log = (line: string) => lines.push(line);
  const found = await findLibtorch({ env: { ...env, ...more }, log, sources: offline });
  return { ...found, line: lines.join('\n'), lines };
}
const cached = (name: string, fake = {}) => fakeTorch(join(folder, 'cache/libtorch', name, 'torch'), fake);

describe('a libtorch folder', () => {
  it.each(['python', 'archive', 'header'] as const)('tells its version from the %s files', (style) => {
    const root = fakeTorch(join(folder, 'a'), { version: '2.12.1', style });
    expect(inspectRoot(root)).toMatchObject({ root, version: '2.12.1', variant: 'cpu', problem: undefined });
  });

  it('is found from a folder around it and from its lib folder', () => {
    const root = fakeTorch(join(folder, 'site/torch'));
    expect(inspectRoot(join(folder, 'site')).root).toBe(root);
    expect(inspectRoot(join(root, 'lib')).root).toBe(root);
    expect(inspectRoot(join(root, 'include')).problem).toContain('is not in it');
  });

  it('lists its libraries in the order in which they open', () => {
    const root = fakeTorch(join(folder, 'a'), { cuda: '13.0' });
    const { libraries, variant } = inspectRoot(root, { missing: () => [] });
    const names = libraries?.map((path) => path.slice(root.length + 5).split('.')[0]);
    expect(names).toEqual(['libgomp', 'libc10', 'libc10_cuda', 'libtorch_cpu', 'libtorch_cuda', 'libtorch']);
    expect(variant).toBe('cu130');
  });

  it.each(['2.10.2', '2.15.0', '1.13.1', '3.0.0'])('of version %s is refused', (version) => {
    const { problem } = inspectRoot(fakeTorch(join(folder, 'a'), { version }));
    expect(problem).toBe(`it is version ${version}; selfedit needs 2.11 to 2.14`);
  });

  it.each(['2.11.0', '2.14.9'])('of version %s is taken', (version) => {
    expect(inspectRoot(fakeTorch(join(folder, 'a'), { version })).problem).toBeUndefined();
  });

  it('without headers can be loaded, not built with', () => {
    const root = fakeTorch(join(folder, 'a'), { headers: false });
    expect(inspectRoot(root).problem).toContain('include/ATen/ATen.h');
    expect(inspectRoot(root, { headers: false }).problem).toBeUndefined();
  });

  it('with CUDA but without the nvidia libraries is refused with advice', () => {
    const root = fakeTorch(join(folder, 'a'), { cuda: '12.8' });
    const { problem } = inspectRoot(root, { missing: () => ['libcudart.so.12', 'libcublas.so.12'] });
    expect(problem).toContain('libcudart.so.12, libcublas.so.12');
    expect(problem).toContain('nvidia packages');
  });
});

describe('the order', () => {
  it('is LIBTORCH, cache, python, archive, wheel; one line says which', async () => {
    const own = fakeTorch(join(folder, 'own/libtorch'), { style: 'archive' });
    const inCache = cached('2.13.0-cpu');
    const inPython = fakeTorch(join(folder, 'site/torch'));
    write(join(folder, WHEEL), wheel());
    const python = fakePython(folder, { torch: inPython, wheel: { path: join(folder, WHEEL), name: WHEEL } });
    const steps: [string, string | undefined, () => void][] = [
      ['LIBTORCH', own, () => delete env.LIBTORCH],
      ['the cache', inCache, () => rmSync(join(folder, 'cache'), { recursive: true })],
      ["python3's torch package", inPython, () => rmSync(inPython, { recursive: true })],
      ['the PyPI wheel', join(folder, 'cache/libtorch/2.13.0-cpu/torch'), () => {}],
    ];
    Object.assign(env, { LIBTORCH: join(folder, 'own'), SELFEDIT_PYTHON: python });
    delete env.SELFEDIT_LIBTORCH_SHA256;
    for (const [source, root, removeIt] of steps) {
      if (source === 'the PyPI wheel') env.SELFEDIT_LIBTORCH_SHA256 = await sha256(join(folder, WHEEL));
      const found = await find();
      expect(found).toMatchObject({ source, root });
      expect(found.lines).toHaveLength(1);
      expect(found.line).toContain(`from ${source}`);
      removeIt();
    }
  });

  it('asks the official archive before the wheel', async () => {
    const root = fakeTorch(join(folder, 'fetched'));
    const sources = { archive: async () => inspectRoot(root) };
    const found = await findLibtorch({ env, sources });
    expect(found).toMatchObject({ source: 'the official archive', root });
  });

  it('never passes over a LIBTORCH that cannot be used', async () => {
    cached('2.13.0-cpu');
    await expect(find({ LIBTORCH: join(folder, 'nowhere') })).rejects.toThrow(
      /LIBTORCH=.*there is no such folder/,
    );
    const old = fakeTorch(join(folder, 'old'), { version: '2.4.0' });
    await expect(find({ LIBTORCH: old })).rejects.toThrow(
      /it is version 2\.4\.0; selfedit needs 2\.11 to 2\.14/,
    );
  });

  it('passes over a broken cached copy and a python torch of another version', async () => {
    rmSync(join(cached('2.13.0-cpu'), 'include'), { recursive: true });
    const python = fakePython(folder, { torch: fakeTorch(join(folder, 'torch'), { version: '2.3.0' }) });
    const error = await find({ SELFEDIT_PYTHON: python }).then(String, String);
    expect(error).toContain('include/ATen/ATen.h is not in it');
    expect(error).toContain('it is version 2.3.0');
    expect(error).toContain('the official archive: no answer');
    expect(error).toContain('the PyPI wheel: ERROR: No matching distribution found');
    expect(error).toMatch(/Next: set LIBTORCH/);
  });

  it('tells the variants of the cache apart; unset means cpu', async () => {
    const cpu = cached('2.12.0-cpu', { version: '2.12.0' });
    const newer = cached('2.14.0-cpu', { version: '2.14.0' });
    expect((await find()).root).toBe(newer);
    const usual = cached('2.13.0-cpu');
    expect((await find()).root).toBe(usual);
    expect((await find({ SELFEDIT_LIBTORCH_VERSION: '2.12.0' })).root).toBe(cpu);
    await expect(find({ SELFEDIT_LIBTORCH_VARIANT: 'cu130' })).rejects.toThrow(
      /it is cpu, and the variant is cu130/,
    );
    rmSync(join(folder, 'cache/libtorch'), { recursive: true });
    cached('2.13.0-cu130', { cuda: '13.0' });
    await expect(find()).rejects.toThrow(/it is cu130, and the variant is cpu/);
  });

  it('refuses a variant or a version that does not exist', async () => {
    await expect(find({ SELFEDIT_LIBTORCH_VARIANT: 'cuda' })).rejects.toThrow(/"cuda"; expected cpu, or/);
    await expect(find({ SELFEDIT_LIBTORCH_VERSION: '2.5.1' })).rejects.toThrow(
      /expected a version from 2\.11 to 2\.14/,
    );
  });
});

describe('the wheel', () => {
  const take = (python: string, more: object = {}, moreEnv: NodeJS.ProcessEnv = {}) =>
    fromWheel({
      version: '2.13.0',
      variant: 'cpu',
      env: { ...env, SELFEDIT_PYTHON: python, ...moreEnv },
      known: {},
      ...more,
    });
  const python = (bytes: Buffer, more: object = {}) =>
    fakePython(folder, { wheel: { path: write(join(folder, 'w', WHEEL), bytes), name: WHEEL }, ...more });

  it('is unpacked without what is not needed, and nothing is left behind', async () => {
    const found = await take(python(wheel()));
    expect(found).toMatchObject({ version: '2.13.0', variant: 'cpu', check: 'unverified' });
    const root = join(folder, 'cache/libtorch/2.13.0-cpu/torch');
    expect(found.root).toBe(root);
    expect(readFileSync(join(root, 'lib/libtorch_cpu.so'), 'utf8')).toBe('fake libtorch_cpu');
    expect(readdirSync(root).sort()).toEqual(['LICENSE', 'include', 'lib', 'version.py']);
    expect(readdirSync(join(root, 'lib'))).not.toContain('libtorch_python.so');
    expect(readdirSync(join(folder, 'cache/libtorch'))).toEqual(['2.13.0-cpu']);
  });

  it('is checked against known hashes and SELFEDIT_LIBTORCH_SHA256', async () => {
    const program = python(wheel());
    const right = await sha256(join(folder, 'w', WHEEL));
    await expect(take(program, { known: { [WHEEL]: '0'.repeat(64) } })).rejects.toThrow(
      `is ${right}, expected 000`,
    );
    expect(existsSync(join(folder, 'cache/libtorch/2.13.0-cpu'))).toBe(false);
    const own = { SELFEDIT_LIBTORCH_SHA256: '1'.repeat(64) };
    await expect(take(program, { known: { [WHEEL]: right } }, own)).rejects.toThrow('expected 111');
    expect((await take(program, { known: { [WHEEL]: right } })).check).toBe('verified');
  });

  it('with CUDA is refused for the CPU before it is downloaded', async () => {
    const requires = ['sympy>=1.13.3', 'nvidia-cublas==13.1.0.3; platform_system == "Linux"'];
    const program = python(wheel({ cuda: '13.0' }), { requires });
    await expect(take(program)).rejects.toThrow(
      /CUDA build, and the variant is cpu.*SELFEDIT_LIBTORCH_VARIANT/,
    );
    expect(readFileSync(`${program}.log`, 'utf8')).not.toContain(' download ');
  });

  it('with CUDA is taken together with its nvidia wheels', async () => {
    const nvidia = {
      'nvidia/cu13/lib/libcudart.so.13': 'fake',
      'nvidia/cu13/include/cublas_v2.h': '// fake',
      'nvidia/cu13/bin/nvblas.conf': 'not needed',
    };
    write(join(folder, 'n', 'nvidia_cuda_runtime-13.0-py3-none-any.whl'), zip(nvidia));
    const requires = ['nvidia-cuda-runtime==13.0; platform_system == "Linux"'];
    const program = python(wheel({ cuda: '13.0' }), { requires, beside: join(folder, 'n') });
    const found = await take(program, { variant: 'cu130' });
    expect(found.variant).toBe('cu130');
    const place = join(folder, 'cache/libtorch/2.13.0-cu130');
    expect(readFileSync(join(place, 'nvidia/cu13/lib/libcudart.so.13'), 'utf8')).toBe('fake');
    expect(existsSync(join(place, 'nvidia/cu13/include/cublas_v2.h'))).toBe(true);
    expect(existsSync(join(place, 'nvidia/cu13/bin'))).toBe(false);
  });

  it('without CUDA is refused when CUDA was asked for', async () => {
    await expect(take(python(wheel()), { variant: 'cu130' })).rejects.toThrow(/not a CUDA build/);
  });

  it('that is no zip, is truncated or climbs out of its folder leaves the cache empty', async () => {
    const bytes = wheel();
    for (const bad of [
      Buffer.from('<html>'),
      bytes.subarray(0, bytes.length - 30),
      zip({ 'torch/include/../../../x': '' }),
    ]) {
      await expect(take(python(bad))).rejects.toThrow(/not a zip file|names torch|truncated|damaged/);
    }
    expect(readdirSync(join(folder, 'cache/libtorch'))).toEqual([]);
    expect(existsSync(join(folder, 'x'))).toBe(false);
  });

  it('can be brought by two installs at once', async () => {
    const program = python(wheel());
    const both = await Promise.all([take(program), take(program), take(program)]);
    expect(new Set(both.map((found) => found.root)).size).toBe(1);
    expect(both.every((found) => found.problem === undefined)).toBe(true);
    expect(readdirSync(join(folder, 'cache/libtorch'))).toEqual(['2.13.0-cpu']);
  });

  it('replaces a broken copy in the cache', async () => {
    rmSync(join(cached('2.13.0-cpu'), 'lib/libtorch_cpu.so'));
    expect((await take(python(wheel()))).problem).toBeUndefined();
  });
});

describe('the official archive', () => {
  let server: Server | undefined;
  afterEach(() => {
    server?.closeAllConnections();
    server?.close();
    server = undefined;
  });
  async function serve(handler: Parameters<typeof createServer>[1]): Promise<string> {
    const own = createServer(handler as never);
    server = own;
    await new Promise<void>((done) => own.listen(0, '127.0.0.1', done));
    return `http://127.0.0.1:${(own.address() as AddressInfo).port}/cpu/libtorch-2.13.0%2Bcpu.zip`;
  }
  const take = (url: string, connectMs = 2000) =>
    fromArchive({ version: '2.13.0', variant: 'cpu', env, url, connectMs });

  it('is unpacked into the cache', async () => {
    const entries: Record<string, string> = { 'libtorch/': '' };
    const files = fakeTorch(join(folder, 'made'), { style: 'archive' });
    for (const path of readdirSync(files, { recursive: true }) as string[]) {
      const full = join(files, path);
      if (/\.\w+$|-version$/.test(path)) entries[`libtorch/${path}`] = readFileSync(full, 'utf8');
    }
    const url = await serve((_request, response) => response.end(zip(entries)));
    const found = await take(url);
    expect(found).toMatchObject({
      version: '2.13.0',
      variant: 'cpu',
      problem: undefined,
      check: 'unverified',
    });
  });

  it('is given up quickly where nobody answers or answers no', async () => {
    await expect(take(await serve(() => {}), 100)).rejects.toThrow(/no answer within 0\.1 s/);
    server?.closeAllConnections();
    server?.close();
    const url = await serve((_request, response) => response.writeHead(404).end());
    await expect(take(url)).rejects.toThrow(/the host answers 404/);
    await expect(take('http://127.0.0.1:1/x.zip')).rejects.toThrow(/127\.0\.0\.1:1/);
  });

  it('has an address where there is an archive', () => {
    expect(archiveUrl('2.13.0', 'cu130', 'linux', 'x64')).toMatch(
      /cu130\/libtorch-.*-2\.13\.0%2Bcu130\.zip$/,
    );
    expect(archiveUrl('2.13.0', 'cpu', 'darwin', 'arm64')).toMatch(/macos-arm64-2\.13\.0\.zip$/);
    expect(archiveUrl('2.13.0', 'cu130', 'darwin', 'arm64')).toBeUndefined();
    expect(archiveUrl('2.13.0', 'cpu', 'freebsd', 'x64')).toBeUndefined();
  });
});
