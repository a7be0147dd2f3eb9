/** The check that an addon leaves no symbol open (`npm run check:cuda`), on small libraries made here. */
import { execFileSync } from 'node:child_process';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { openSymbols } from '../../scripts/symbols.mjs';
import { temporary, write } from './helpers/libtorch.js';

const folder = temporary();
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function library(name: string, source: string, ...beside: string[]): string {
  const output = join(folder, name);
  const file = write(join(folder, `${name}.cc`), source);
  const named = `-Wl,-soname,${name}`;
  execFileSync(process.env.CXX ?? 'c++', ['-shared', '-fPIC', named, '-o', output, file, ...beside]);
  return output;
}

describe.runIf(process.platform === 'linux')('symbols of an addon', () => {
  const torch = library('libfake.so', 'namespace torch { int Version() { return 2; } }');
  const declarations = `namespace torch { int Version(); }
    namespace selfedit { struct Model; int Kernel(const Model*); }
    extern "C" void napi_throw(void*, void*);
    extern "C" void omp_somewhere();`;

  it('are closed when libraries, Node-API and the compiler define them', () => {
    const source = `${declarations} int Use() { napi_throw(nullptr, nullptr); return torch::Version(); }`;
    const found = openSymbols(library('closed.node', source, torch), [torch]);
    expect(found).toMatchObject({ open: [], own: [] });
    expect(found.needed).toContain('libfake.so');
    expect(found.checked).toBeGreaterThanOrEqual(2);
  });

  it('are named when nobody defines them, our own apart', () => {
    const source = `${declarations} int Use(selfedit::Model* model) {
      omp_somewhere();
      return torch::Version() + selfedit::Kernel(model);
    }`;
    const found = openSymbols(library('open.node', source, torch), [torch]);
    expect(new Set(found.open)).toEqual(new Set(['omp_somewhere', '_ZN8selfedit6KernelEPKNS_5ModelE']));
    expect(found.own).toEqual(['_ZN8selfedit6KernelEPKNS_5ModelE']);
  });

  it('count as open when the library that has them is not among those that are opened', () => {
    const source = `${declarations} int Use() { return torch::Version(); }`;
    const addon = library('lonely.node', source, torch);
    expect(() => openSymbols(addon, [])).toThrow(/libfake\.so.*not found/);
  });
});
