/** Loading streams: the file is never resident beside the model that is made of it. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { sizedFolder, sizedGguf } from '../../scripts/fixtures/sized.mjs';
import { fixture } from '../support/fixtures.js';
import { child } from './child.js';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'selfedit-memory-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Peak of resident memory while loading, over what was resident before, in bytes a parameter byte of the loaded model. */
async function peakOf(path: string, dtype: string): Promise<number> {
  const source = `
    import { readFileSync, writeFileSync } from 'node:fs';
    const bytes = (name) => 1024 * Number(new RegExp(name + ':\\\\s+(\\\\d+)').exec(readFileSync('/proc/self/status', 'utf8'))[1]);
    // Code, threads and tables that every first load brings are there before.
    for (const small of ${JSON.stringify([fixture('models', 'llama-tied'), fixture('models', 'gguf', 'llama-q8_0.gguf')])}) {
      await (await se.Model.load(small, { dtype: '${dtype}' })).close();
    }
    gc();
    writeFileSync('/proc/self/clear_refs', '5'); // the peak begins anew
    const before = bytes('VmRSS');
    const model = await se.Model.load(${JSON.stringify(path)}, { dtype: '${dtype}' });
    const size = model.parameters * ${dtype === 'float32' ? 4 : 2};
    console.log(JSON.stringify({ size, ratio: (bytes('VmHWM') - before) / size }));`;
  const ended = await child(source, { flags: ['--expose-gc'] });
  expect(ended).toMatchObject({ status: 0, stderr: '' });
  const { size, ratio } = JSON.parse(ended.stdout) as { size: number; ratio: number };
  expect(size).toBeGreaterThan(50e6);
  return ratio;
}

const MOST = 1.2;

describe.each(['float32', 'bfloat16'])('the peak of memory while loading into %s', (dtype) => {
  it.each(['F32', 'F16', 'BF16'])(`is at most ${MOST} × the model, from safetensors of %s`, async (type) => {
    const path = join(folder, type);
    mkdirSync(path, { recursive: true });
    for (const [name, content] of Object.entries(sizedFolder(type))) writeFileSync(join(path, name), content);
    expect(await peakOf(path, dtype)).toBeLessThanOrEqual(MOST);
  });

  it.each([
    ['F32', 'own'],
    ['BF16', 'own'],
    ['F32', 'repeated'],
    ['BF16', 'repeated'],
  ] as const)(
    `is at most ${MOST} × the model, from safetensors of %s with a head: %s`,
    async (type, head) => {
      const path = join(folder, `${type}-${head}`);
      mkdirSync(path, { recursive: true });
      const files = sizedFolder(type, head);
      for (const [name, content] of Object.entries(files)) writeFileSync(join(path, name), content);
      expect(await peakOf(path, dtype)).toBeLessThanOrEqual(MOST);
    },
  );

  it.each(['F16', 'Q8_0'])(
    `is at most ${MOST} × the model, from GGUF of %s with a head of its own`,
    async (type) => {
      const path = join(folder, `${type}-own.gguf`);
      writeFileSync(path, sizedGguf(type, 'own'));
      expect(await peakOf(path, dtype)).toBeLessThanOrEqual(MOST);
    },
  );

  it.each([
    'F32',
    'F16',
    'BF16',
    'Q4_0',
    'Q4_1',
    'Q5_0',
    'Q5_1',
    'Q8_0',
    'Q2_K',
    'Q3_K',
    'Q4_K',
    'Q5_K',
    'Q6_K',
  ])(`is at most ${MOST} × the model, from GGUF of %s`, async (type) => {
    const path = join(folder, `${type}.gguf`);
    writeFileSync(path, sizedGguf(type));
    expect(await peakOf(path, dtype)).toBeLessThanOrEqual(MOST);
  });
});
