import { describe, expect, it } from 'vitest';
import { bestCheckpoints } from '../../lib/run/retention.js';

const played = (means: (number | null)[], alarm = -1) =>
  means.map((mean, round) => ({ round, reward: { mean }, guards: { alarms: round === alarm ? [{}] : [] } }));

describe('the best checkpoints', () => {
  it('are those whose policy wrote the edits of the best rounds', () => {
    expect(bestCheckpoints(played([9, 0.2, 0.5, 0.1]), 1)).toEqual([1]);
    expect(bestCheckpoints(played([9, 0.2, 0.5, 0.1]), 2)).toEqual([1, 0]);
    expect(bestCheckpoints(played([9, 0.2]), 0)).toEqual([]);
    expect(bestCheckpoints(played([9]), 1)).toEqual([]);
  });

  it('are the later ones of equals, and never of rounds with an alarm or an unknown reward', () => {
    expect(bestCheckpoints(played([0, 0.5, 0.5, 0.4]), 1)).toEqual([1]);
    expect(bestCheckpoints(played([0, 0.5, 0.7, 0.4], 2), 1)).toEqual([0]);
    expect(bestCheckpoints(played([0, 0.5, null, Number.NaN]), 3)).toEqual([0]);
  });
});
