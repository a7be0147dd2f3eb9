// The model of a round on many ranks: each term against the same sum written out here.
import { describe, expect, it } from 'vitest';
import { gatherSeconds, imbalance, plan, reduceSeconds, strong, weak } from '../../bench/lib/scaling.mjs';

const network = { bandwidth: 1000, latency: 0.5, storeSeconds: 0.25, hash: 80, disk: 50 };
const parts = {
  seconds: { write: 1, baseline: 2, adapt: 3, evaluate: 4, update: 5 },
  parameters: 100,
  bytes: 10,
  readSeconds: 0.125,
};
const options = { parts, network, sizes: [7], update: { epochs: 2, minibatch: 4 } };

describe('a round on many ranks', () => {
  it('a ring gathers what others have, and sums what all have twice', () => {
    expect(gatherSeconds(4000, 4, network)).toBeCloseTo(3 + 3 * 0.5);
    expect(reduceSeconds(4000, 4, network)).toBeCloseTo(2 * 3 + 2 * 2 * 0.5);
    expect(reduceSeconds(4000, 1, network)).toBe(0);
  });

  it('the busiest rank: largest first, to the least laden', () => {
    // 5 | 4 | 3, then 2 to the third, 1 to the second: 5, 5, 5.
    expect(imbalance([1, 2, 3, 4, 5], 5, 3)).toBeCloseTo(1);
    expect(imbalance([9, 1, 1, 1], 4, 2)).toBeCloseTo(9 / 6);
    expect(imbalance([3], 2, 4)).toBeCloseTo(2);
  });

  it('one rank pays for nothing but its work and the disk', () => {
    const { seconds, total } = plan({ ...options, edits: 8, world: 1 });
    expect(seconds).toEqual({
      ...{ write: 8, baseline: 16, adapt: 24, evaluate: 32, update: 40 },
      ...{ gather: 0, read: 0, gradients: 0, meet: 0, fingerprint: 0, save: (1200 + 80) / 50 },
    });
    expect(total).toBeCloseTo(120 + 25.6);
  });

  it('every term of two ranks', () => {
    const { seconds, steps } = plan({ ...options, edits: 8, world: 2 });
    expect(steps).toBe(4);
    expect(seconds.adapt).toBe(12);
    expect(seconds.update).toBe(20);
    expect(seconds.gather).toBeCloseTo(80 / 1000 / 2 + 0.5);
    expect(seconds.read).toBe(1);
    expect(seconds.gradients).toBeCloseTo(4 * (400 / 1000 + 2 * 0.5));
    expect(seconds.meet).toBeCloseTo((2 * 4 + 8) * 2 * 0.25);
    expect(seconds.fingerprint).toBe(15);
  });

  it('a minibatch keeps no more ranks busy than it has edits', () => {
    expect(plan({ ...options, edits: 64, world: 16 }).seconds.update).toBeCloseTo((64 * 5) / 4);
  });

  it('deterministic: the gradient of every context travels alone', () => {
    const { seconds } = plan({ ...options, edits: 8, world: 2, deterministic: true });
    expect(seconds.gradients).toBeCloseTo(4 * 4 * (0.4 + 0.5));
  });

  it('efficiency, and what has grown most', () => {
    const [alone, two] = weak(options, [1, 2], 8);
    expect(alone).toMatchObject({ efficiency: 1, edits: 8 });
    expect(two).toMatchObject({ edits: 16, bottleneck: 'fingerprint' });
    expect(two!.efficiency).toBeCloseTo(alone!.total / two!.total);
    const [, spread] = strong(options, [1, 2], 8);
    expect(spread!.efficiency).toBeCloseTo(alone!.total / spread!.total / 2);
    // The minibatch does not grow with the ranks: the update takes longer with each.
    const network0 = { ...network, latency: 0, storeSeconds: 0 };
    expect(weak({ ...options, network: network0 }, [16], 8)[0]!.bottleneck).toBe('update');
    expect(weak(options, [16], 8, (world) => 4 * world)[0]!.seconds.update).toBeCloseTo(40);
  });
});
