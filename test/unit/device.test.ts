/** Names of devices: what is there, and typed errors for what is not. */
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { type DoctorReport, doctor, Model } from '../../lib/index.js';
import { packageRoot } from '../../lib/load.js';

const TINY = join(packageRoot, 'test', 'fixtures', 'models', 'llama-tied');
let report: DoctorReport;

beforeAll(async () => {
  report = await doctor();
});

async function refusal(device: string): Promise<string> {
  const error: unknown = await Model.load(TINY, { device }).then(
    async (model) => {
      await model.close();
      return new Error(`"${device}" was accepted`);
    },
    (reason: unknown) => reason,
  );
  expect(error).toMatchObject({ name: 'ModelError', code: 'DEVICE_UNAVAILABLE', exitCode: 2 });
  return (error as Error).message;
}

describe('a device', () => {
  it.each([
    'tpu',
    'CPU',
    'cpu:0',
    'cuda:',
    'cuda:-1',
    'cuda:01',
    'cuda:1.5',
    'cuda:1000',
    ' cuda',
    'mps',
    '',
  ])('cannot be called "%s"', async (name) => {
    const message = await refusal(name);
    expect(message).toContain(`there is no device "${name}"; expected cpu, cuda, cuda:N or auto`);
    expect(message).toContain(`available: ${report.devices.join(', ')}`);
  });

  it('that is not there is refused, and the error says what is there', async () => {
    const message = await refusal('cuda:99');
    expect(message).toContain('"cuda:99"');
    expect(message).toContain(`available: ${report.devices.join(', ')}`);
    if (report.noGpu) expect(message).toContain(report.noGpu);
  });

  it('is the CPU unless another is asked for', async () => {
    const model = await Model.load(TINY);
    expect(model.device).toBe('cpu');
    await model.close();
  });
});

describe('without a GPU', () => {
  it('cuda is refused with the reason and what to do', async ({ skip }) => {
    if (!report.noGpu) return skip('this machine has a GPU');
    const message = await refusal('cuda');
    expect(message).toContain(`device "cuda" is not available: ${report.noGpu}`);
    expect(report.noGpu).toContain(`libtorch ${report.libtorch?.version}`);
    // A build without CUDA: what to build. A build with it: the driver is what is missing.
    expect(report.noGpu).toMatch(
      report.libtorch?.variant === 'cpu'
        ? /without CUDA; build it with SELFEDIT_LIBTORCH_VARIANT=cu130/
        : /has CUDA, but .*NVIDIA driver|is a CUDA build, but selfedit was built without/,
    );
  });

  it('auto is the CPU', async ({ skip }) => {
    if (!report.noGpu) return skip('this machine has a GPU');
    const model = await Model.load(TINY, { device: 'auto' });
    expect(model.device).toBe('cpu');
    await model.close();
  });

  it('the doctor lists the CPU alone, and that is no problem', ({ skip }) => {
    if (!report.noGpu) return skip('this machine has a GPU');
    expect(report).toMatchObject({ ok: true, devices: ['cpu'], gpus: [] });
  });
});

describe('with a GPU', () => {
  it('the doctor lists its facts', ({ skip }) => {
    if (report.noGpu) return skip(`no GPU: ${report.noGpu}`);
    expect(report.devices).toEqual(['cpu', ...report.gpus.map(({ name }) => name)]);
    for (const gpu of report.gpus) {
      expect(gpu.product).not.toBe('');
      expect(gpu.capability).toMatch(/^\d+\.\d$/);
      expect(gpu.total).toBeGreaterThan(gpu.free);
      expect(gpu.free).toBeGreaterThanOrEqual(0);
    }
  });
});
