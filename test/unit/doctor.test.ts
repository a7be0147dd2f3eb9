import { describe, expect, it } from 'vitest';
import { doctor } from '../../lib/doctor.js';
import { packageRoot } from '../../lib/load.js';

describe('doctor', () => {
  it('reports Node, addon, libtorch, devices, threads, memory and instruction set', async () => {
    const report = await doctor();
    expect(report.problems).toEqual([]);
    expect(report).toMatchObject({
      ok: true,
      next: null,
      node: { version: process.version, supported: true },
    });
    expect(report.addon.path.startsWith(packageRoot)).toBe(true);
    expect(report.addon.loads).toBe(true);
    expect(report.libtorch?.version).toMatch(/^2\.1[1-4]\.\d+$/);
    expect(report.devices).toContain('cpu');
    expect(report.threads).toBeGreaterThanOrEqual(1);
    expect(['avx512', 'avx2', 'portable']).toContain(report.simd);
    // Either ranks can talk, or the report says what to install.
    if (report.noRanks !== null) expect(report.noRanks).toContain('libgloo-dev');
    expect(report.memory.total).toBeGreaterThan(report.memory.free);
  });
});
