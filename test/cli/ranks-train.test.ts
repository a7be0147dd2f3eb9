// Whole runs by several processes under torchrun, on loopback: the number of ranks does not show in the result, and a rank that
// is killed does neither.
import { cpSync, existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { native } from '../../lib/binding.js';
import { findTorchrun, ranksOf, startTorchrun, whyNoTorchrun } from '../../scripts/torchrun.mjs';
import { fixture } from '../support/fixtures.js';
import { selfedit, temporaryFolder } from './helpers.js';

const folder = temporaryFolder();
const torchrun = findTorchrun();
const missing = native().info().whyNoGloo || whyNoTorchrun();
beforeEach(({ skip }) => {
  if (missing) skip(missing);
});

const passages = Array.from({ length: 8 }, (_, index) => ({
  title: `Title ${index}`,
  context: `The thing number ${index} is made of wood.`,
  questions: [
    { question: `Made of what? (${index})`, answer: 'wood' },
    { question: `Which number? (${index})`, answer: `${index}` },
  ],
}));
const config = {
  model: './model',
  seed: 4,
  rounds: 3,
  contextsPerRound: 3,
  editsPerContext: 3,
  deterministic: true,
  task: { data: 'data.json', evaluation: 2, retention: 1 },
  edit: { maxTokens: 12 },
  adapt: { rank: 2, alpha: 4, epochs: 1 },
  reward: { beta: 0.1, retentionTexts: 1, report: ['f1'], maxAnswerTokens: 4 },
  policy: { rank: 2, alpha: 4 },
};
const value = { ...config, ppo: { baseline: 'value', klTarget: 0.001, learningRate: 1e-2, minibatch: 4 } };

function configured(name: string, contents: object): string {
  writeFileSync(join(folder, `${name}.yaml`), JSON.stringify(contents));
  return `${name}.yaml`;
}

beforeAll(() => {
  const model = join(folder, 'model');
  cpSync(fixture('models', 'llama-tied'), model, { recursive: true });
  const path = join(model, 'config.json');
  writeFileSync(path, readFileSync(path, 'utf8').replace(/("max_position_embeddings": )128/, '$11024'));
  writeFileSync(join(folder, 'data.json'), JSON.stringify(passages));
});

async function alone(file: string, out: string): Promise<void> {
  const { code, stderr } = await selfedit(['train', file, '--out', out], { cwd: folder });
  expect({ code, stderr }).toMatchObject({ code: 0 });
}

async function together(ranks: number, file: string, out: string): Promise<string> {
  const args = ['train', file, '--out', out, '--resume-or-begin'];
  const { code, output } = await startTorchrun(torchrun!, ranks, args, { cwd: folder }).ended;
  expect({ code, output }).toMatchObject({ code: 0 });
  return output;
}

interface Line {
  type: string;
  round: number;
  ranks?: {
    world: number;
    policy: string;
    phases: Record<string, { seconds: number; reduced: number; gathered: number }>[];
  };
}
const journal = (run: string) =>
  readFileSync(join(folder, run, 'journal.jsonl'), 'utf8')
    .split('\n')
    // What is after the last newline is being written.
    .slice(0, -1)
    .map((line) => JSON.parse(line) as Line & Record<string, unknown>);
/** Without what the clock writes, and the checksums over it. */
const figures = (run: string) => journal(run).map(({ timings: _, ranks: __, crc32: ___, ...line }) => line);
const checkpoints = (run: string) => readdirSync(join(folder, run, 'checkpoints')).sort();
const weights = (run: string, name = 'policy.safetensors') =>
  checkpoints(run).map((round) => readFileSync(join(folder, run, 'checkpoints', round, name)));

function expectSame(run: string, reference: string, files = ['policy.safetensors']): void {
  expect(figures(run)).toEqual(figures(reference));
  expect(checkpoints(run)).toEqual(checkpoints(reference));
  for (const name of files) {
    weights(run, name).forEach((bytes, round) => {
      expect(bytes.equals(weights(reference, name)[round]!)).toBe(true);
    });
  }
  const table = (name: string) => readFileSync(join(folder, name, 'comparison.txt'), 'utf8');
  expect(table(run)).toBe(table(reference));
}

const roundsOf = (run: string) => journal(run).filter(({ type }) => type === 'round');

describe('a run by several ranks', () => {
  it('is to the bit the run by one: 1, 2 and 4 ranks, PPO with a value head', async () => {
    const file = configured('value', value);
    await alone(file, 'alone');
    for (const ranks of [1, 2, 4]) {
      const output = await together(ranks, file, `by-${ranks}`);
      expectSame(`by-${ranks}`, 'alone');
      // Rank 0 alone talks.
      expect(output.split('\n').filter((line) => line.startsWith('round 1/3:'))).toHaveLength(1);
    }
    // What the plan for large clusters is computed from.
    for (const { ranks } of roundsOf('by-4')) {
      expect(ranks).toMatchObject({ world: 4, policy: expect.stringMatching(/^[0-9a-f]{64}$/) });
      expect(ranks!.phases).toHaveLength(4);
      for (const phases of ranks!.phases) {
        expect(Object.keys(phases)).toEqual(['write', 'baseline', 'adapt', 'evaluate', 'update']);
        expect(phases.update!.reduced).toBeGreaterThan(0);
        expect(phases.write!.gathered).toBeGreaterThan(0);
      }
    }
    expect(roundsOf('alone').every(({ ranks }) => ranks === undefined)).toBe(true);
  }, 300_000);

  it.each(['grpo', 'restem'])(
    'is to the bit the run by one under %s',
    async (algorithm) => {
      const file = configured(algorithm, { ...config, rounds: 2, algorithm });
      await alone(file, algorithm);
      await together(2, file, `${algorithm}-2`);
      expectSame(`${algorithm}-2`, algorithm);
    },
    300_000,
  );

  it.each(['ppo', 'gradient'])(
    'is to the bit the run by one with weight edits, %s',
    async (algorithm) => {
      const file = configured(`weights-${algorithm}`, {
        ...config,
        ...{ rounds: 2, algorithm, editsPerContext: 4, edit: { kind: 'weights' } },
        weights: { space: 'lowRank', size: 2, targets: ['q_proj'] },
      });
      await alone(file, `weights-${algorithm}`);
      await together(2, file, `weights-${algorithm}-2`);
      expectSame(`weights-${algorithm}-2`, `weights-${algorithm}`, [
        'policy.safetensors',
        'head.safetensors',
      ]);
    },
    300_000,
  );

  it('has the same weights within rounding where gradients are summed in any order', async () => {
    const { deterministic: _, ...rest } = config;
    const file = configured('reduced', { ...rest, rounds: 2 });
    await alone(file, 'reduced');
    await together(2, file, 'reduced-2');
    const values = (run: string) => weights(run).map((bytes) => floatsOf(bytes));
    values('reduced-2').forEach((found, round) => {
      const expected = values('reduced')[round]!;
      let difference = 0;
      let size = 0;
      found.forEach((one, index) => {
        difference += (one - expected[index]!) ** 2;
        size += expected[index]! ** 2;
      });
      expect(Math.sqrt(difference / size)).toBeLessThan(1e-6);
    });
    const texts = (run: string) =>
      journal(run)
        .filter(({ type }) => type === 'edit')
        .map(({ text }) => text);
    expect(texts('reduced-2')).toEqual(texts('reduced'));
  }, 300_000);
});

describe('a run of which a rank is killed', () => {
  // npm run test:ranks kills any; this one has the folder.
  it.each([0])(
    'goes on to the same result under torchrun, rank %i',
    async (victim) => {
      const file = configured('killed', { ...value, rounds: 5 });
      const reference = 'uninterrupted';
      if (!existsSync(join(folder, reference))) await alone(file, reference);
      const out = `killed-${victim}`;
      const args = ['train', file, '--out', out, '--resume-or-begin'];
      const { child, ended } = startTorchrun(torchrun!, 2, args, { cwd: folder, restarts: 2 });
      const journalPath = join(folder, out, 'journal.jsonl');
      const rounds = () => (existsSync(journalPath) ? roundsOf(out).length : 0);
      while (rounds() < 2 && child.exitCode === null) await new Promise((done) => setTimeout(done, 20));
      const pids = ranksOf(child.pid!);
      expect(pids).toHaveLength(2);
      process.kill(pids[victim]!, 'SIGKILL');
      const { code, output } = await ended;
      expect({ code, output }).toMatchObject({ code: 0 });
      expect(output).toMatch(/resumed after round [1-4]/);
      expectSame(out, reference);
    },
    300_000,
  );
});

describe('what ends a run on all ranks', () => {
  it('a rank with other data', async () => {
    const file = configured('other', config);
    // Each rank reads the file of its own number.
    writeFileSync(
      join(folder, 'task.mjs'),
      `export default () => ({ name: 'own ' + process.env.RANK, contexts: () => [], evaluation: [], retention: [] });`,
    );
    configured('other', {
      ...config,
      task: { kind: 'module', module: 'task.mjs', options: {} },
      reward: { beta: 0 },
    });
    const args = ['train', file, '--out', 'other', '--resume-or-begin'];
    const { code, output } = await startTorchrun(torchrun!, 2, args, { cwd: folder }).ended;
    expect(code).not.toBe(0);
    expect(output).toMatch(/error \[INPUT_INVALID\]: rank \d of 2: /);
  }, 120_000);

  it('a folder of rank 0 that cannot be used, with the rank in every line', async () => {
    writeFileSync(join(folder, 'file'), '');
    const file = configured('folder', config);
    const args = ['train', file, '--out', 'file/run', '--resume-or-begin'];
    const { code, output } = await startTorchrun(torchrun!, 2, args, { cwd: folder }).ended;
    expect(code).not.toBe(0);
    const errors = output.split('\n').filter((line) => line.startsWith('error ['));
    expect(errors.some((line) => /^error \[IO\]: rank 0 of 2: .*file\/run/.test(line))).toBe(true);
    for (const line of errors) expect(line).toMatch(/^error \[(IO|ABORTED)\]: rank \d of 2: /);
  }, 120_000);
});

/** The values of a checkpoint's policy. */
function floatsOf(file: Buffer): Float32Array {
  const header = Number(file.readBigUInt64LE(0));
  const { values } = JSON.parse(file.toString('utf8', 8, 8 + header)) as {
    values: { data_offsets: [number, number] };
  };
  const [from, to] = values.data_offsets.map((offset) => offset + 8 + header) as [number, number];
  return new Float32Array(Uint8Array.from(file.subarray(from, to)).buffer);
}
