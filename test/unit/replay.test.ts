/** The published recording through our reward and best-of-n code (bench/replay.mjs), and the choice by itself. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { chooseEdits } from '../../lib/algorithm/restem.js';
import { sharedData, sharedJson } from './helpers/shared-data.js';

interface Row {
  what: string;
  n: number;
  ours: number;
  recorded: number;
  difference: number;
  agrees: boolean;
  why: string;
}

interface Recording {
  articles: {
    completions: { stats: { adapter_mean: number }; questions: { adapter_correct: boolean }[] }[];
  }[];
}

const script = fileURLToPath(new URL('../../bench/replay.mjs', import.meta.url));

function replayed(recording: string): { code: number | null; rows: Row[] } {
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    [script, '--json', '--recording', recording],
    {
      encoding: 'utf8',
    },
  );
  if (stdout === '') throw new Error(stderr);
  return { code: status, rows: JSON.parse(stdout) as Row[] };
}

describe('the published recording, replayed', () => {
  const path = sharedData('seal/recorded_rewards.json');
  const reason = 'no ../shared/data/seal/recorded_rewards.json beside the repository';

  it('gives the recorded means, choices, ties and reliability', ({ skip }) => {
    if (!path) return skip(reason);
    const { code, rows } = replayed(path);
    expect(rows.filter(({ agrees }) => !agrees)).toEqual([]);
    expect(code).toBe(0);
    const row = (what: string) => rows.find((one) => one.what.startsWith(what))!;
    for (const what of ['edited (shares', 'baseline (shares', 'reward (gains', 'spread of three (shares']) {
      expect(row(what)).toMatchObject({ n: 200, why: '' });
    }
    expect(row('chosen (published rule on the recorded means), from shares')).toMatchObject({
      n: 40,
      ours: 0,
    });
    expect(row('articles with a tie')).toMatchObject({ ours: 18 });
    expect(row('reliability of three seeds')).toMatchObject({ ours: 0.31 });
  });

  it('notices one verdict that was turned, and one mean that was changed', ({ skip }) => {
    if (!path) return skip(reason);
    const folder = mkdtempSync(join(tmpdir(), 'selfedit-replay-'));
    try {
      const changed = (change: (recording: Recording) => void) => {
        const recording = sharedJson<Recording>(path);
        change(recording);
        const copy = join(folder, 'changed.json');
        writeFileSync(copy, JSON.stringify(recording));
        return replayed(copy);
      };
      const turned = changed(({ articles }) => {
        const question = articles[3]!.completions[2]!.questions[1]!;
        question.adapter_correct = !question.adapter_correct;
      });
      const raised = changed(({ articles }) => {
        articles[3]!.completions[2]!.stats.adapter_mean += 1e-4;
      });
      expect([turned.code, raised.code]).toEqual([1, 1]);
      expect(turned.rows.filter(({ agrees }) => !agrees).map(({ what }) => what)).toContain('reward');
      expect(raised.rows.filter(({ agrees }) => !agrees).map(({ what }) => what)).toContain('edited');
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});

describe('chooseEdits', () => {
  const edits = [
    { name: 'a0', group: 0, reward: -1 },
    { name: 'b0', group: 1, reward: Number.NaN },
    { name: 'a1', group: 0, reward: 2 },
    { name: 'a2', group: 0, reward: 2 },
    { name: 'b1', group: 1, reward: -3 },
    { name: 'c0', group: 2, reward: 5, invalid: true },
    { name: 'd0', group: 3, reward: Number.NaN },
  ];
  const names = (...options: Parameters<typeof chooseEdits> extends [unknown, ...infer O] ? O : never) =>
    chooseEdits(edits, ...options).map(({ name }) => name);

  it('takes the first of the best of each group, never an invalid or an unknown one', () => {
    expect(names()).toEqual(['a1', 'b1']);
  });

  it('takes all above a threshold', () => {
    expect(names({ keep: 'aboveThreshold', threshold: 0 })).toEqual(['a1', 'a2']);
  });
});
