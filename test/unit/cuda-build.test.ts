/** When CMake takes CUDA, and what it says when it cannot; no compiler runs, so libtorch and nvcc are made up. */
import { spawnSync } from 'node:child_process';
import { chmodSync, mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { packageRoot } from '../../lib/load.js';
import { compile } from '../../scripts/build.mjs';
import { fakeTorch, temporary, write } from './helpers/libtorch.js';

const folder = temporary();
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const cpu = fakeTorch(join(folder, 'cpu'));
const cuda = fakeTorch(join(folder, 'site', 'torch'), { cuda: '13.0' });

function nvcc(release: string): string {
  const file = write(
    join(folder, release, 'nvcc'),
    `#!/bin/sh\necho "Cuda compilation tools, release ${release}"\n`,
  );
  chmodSync(file, 0o755);
  return file;
}

/** Configures in a fresh folder; what CMake printed, on one line. */
function configure(torch: string, ...settings: string[]) {
  const work = join(folder, 'work');
  rmSync(work, { recursive: true, force: true });
  mkdirSync(work);
  const args = ['-S', packageRoot, '-B', work, `-DSELFEDIT_TORCH_ROOT=${torch}`, ...settings];
  const { status, stdout, stderr } = spawnSync('cmake', args, { encoding: 'utf8' });
  return { status, text: `${stdout}\n${stderr}`.replace(/\s+/g, ' ') };
}

describe('CMake with CUDA', () => {
  it.each([
    [
      'a libtorch without CUDA',
      cpu,
      [],
      /libtorch at \S+ is a build without CUDA \(SELFEDIT_LIBTORCH_VARIANT=cu130/,
    ],
    [
      'an nvcc of another major version',
      cuda,
      [`-DSELFEDIT_NVCC=${nvcc('12.8')}`],
      /nvcc is CUDA 12, libtorch at \S+ is built with CUDA 13/,
    ],
    [
      'a libtorch and a toolkit without the runtime library',
      cuda,
      [
        `-DSELFEDIT_NVCC=${nvcc('13.0')}`,
        '-DSELFEDIT_CUDART=SELFEDIT_CUDART-NOTFOUND',
        '-DCMAKE_FIND_ROOT_PATH=/nowhere',
        '-DCMAKE_FIND_ROOT_PATH_MODE_LIBRARY=ONLY',
      ],
      /libcudart\.so\.13 is neither in torch's nvidia packages nor in the toolkit of \S+nvcc/,
    ],
  ])('goes on without it when it meets %s, unless it was asked for', (_, torch, settings, reason) => {
    const auto = configure(torch, ...settings);
    expect(auto.text).toMatch(new RegExp(`Built without CUDA: .*${reason.source}`));
    expect(auto.status).toBe(0);
    const on = configure(torch, '-DSELFEDIT_CUDA=ON', ...settings);
    expect(on.text).toMatch(new RegExp(`CMake Error.*CUDA was asked for: .*${reason.source}`));
    expect(on.status).not.toBe(0);
  });

  it('can be told to leave it out', () => {
    const off = configure(cuda, '-DSELFEDIT_CUDA=OFF', `-DSELFEDIT_NVCC=${nvcc('13.0')}`);
    expect(off.text).toContain('Built without CUDA: SELFEDIT_CUDA is OFF');
    expect(off.status).toBe(0);
  });

  it('takes no other word than auto, on and off', async () => {
    const wrong = configure(cpu, '-DSELFEDIT_CUDA=maybe');
    expect(wrong.text).toContain('SELFEDIT_CUDA is "maybe"; expected AUTO, ON or OFF');
    expect(wrong.status).not.toBe(0);
    const work = join(folder, 'never');
    await expect(
      compile({ torch: { root: cpu }, env: { SELFEDIT_CUDA: 'maybe' }, work, release: work }),
    ).rejects.toThrow('SELFEDIT_CUDA is "maybe"; expected auto, on or off');
  });
});
