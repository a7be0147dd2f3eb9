import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { Model } from '../../lib/model.js';
import { type RunConfig, type RunConfigInput, readConfig, resolveConfig } from '../../lib/run/config.js';
import { realDisk } from '../../lib/run/disk.js';
import { readJournal } from '../../lib/run/journal.js';
import { train } from '../../lib/run/train.js';
import { failureOf } from '../support/tiny.js';
import { tinyModel } from './helpers/tiny-model.js';

// Whole runs with edits that are weight changes, on a tiny random model: every phase is the real one.
const PASSAGES = Array.from({ length: 6 }, (_, index) => ({
  title: `Title ${index}`,
  context: `The thing number ${index} is made of wood.`,
  questions: ['Made of what?', 'Which number?'].map((question, q) => ({
    question: `${question} (${index})`,
    answer: ['wood', `${index}`][q],
  })),
}));

let model: Model;
let folder: string;
beforeAll(async () => {
  model = await tinyModel();
});
afterAll(() => model.close());
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'selfedit-weights-'));
  await writeFile(join(folder, 'data.json'), JSON.stringify(PASSAGES));
});
afterEach(() => rm(folder, { recursive: true }));

function configure(more: Partial<RunConfigInput> = {}): RunConfig {
  return resolveConfig({
    model: 'tiny',
    seed: 4,
    rounds: 2,
    contextsPerRound: 2,
    editsPerContext: 4,
    task: { data: join(folder, 'data.json'), evaluation: 2, retention: 1 },
    edit: { kind: 'weights' },
    adapt: { rank: 2, alpha: 4, epochs: 1 },
    reward: { beta: 0.1, retentionTexts: 1, maxAnswerTokens: 4 },
    ...more,
  });
}
const bytesOf = (run: string, round: number) =>
  readFile(join(run, 'checkpoints', `round-000${round}`, 'head.safetensors'));

describe('a run of weight edits', () => {
  const list = [
    { space: 'lowRank', targets: ['q_proj'], size: 2 },
    { space: 'gradient', targets: ['v_proj'], size: 3 },
  ] as const;
  it.each<[string, Partial<RunConfigInput>]>([
    ['PPO over modulated deltas', {}],
    [
      'the gradient path over two spaces with a learnt basis',
      {
        algorithm: 'gradient',
        weights: {
          space: [...list].map((choice) => ({ ...choice, targets: [...choice.targets] })),
          basis: 'learnt',
        },
      },
    ],
  ])('by %s leaves a folder, and resumes to the same bits', async (_, more) => {
    const config = configure(more);
    const run = join(folder, 'run');
    const { comparison } = await train(config, { run, model });
    expect((await readdir(run)).sort()).toEqual([
      'checkpoints',
      'comparison.json',
      'comparison.txt',
      'config.json',
      'environment.json',
      'head.safetensors',
      'journal.jsonl',
    ]);
    expect(comparison!.methods.map(({ method, edits, invalid }) => [method, edits, invalid])).toEqual([
      ['unedited', 0, 0],
      ['passage only', 2, 0],
      ['untrained edits', 2, 0],
      ['trained edits', 2, 0],
      ['trained policy', 0, 0],
    ]);
    const score = (index: number) => comparison!.methods[index]!.intervals.likelihood!.mean;
    expect(score(3)).not.toBe(score(2));
    expect(score(4)).toBe(score(0)); // the policy itself stays
    const { lines } = await readJournal(realDisk, run);
    expect(lines.filter(({ type }) => type === 'edit')).toHaveLength(2 * 2 * 4);
    expect(lines.find(({ type }) => type === 'round')).toMatchObject({
      update: { noiseKl: expect.any(Number) },
    });

    const again = join(folder, 'again');
    const controller = new AbortController();
    const stopping = train(config, {
      run: again,
      model,
      signal: controller.signal,
      onEvent: (event) => {
        if (event.type === 'phase' && event.round === 1 && event.phase === 'evaluate') controller.abort();
      },
    });
    expect((await failureOf(stopping)).code).toBe('ABORTED');
    await train(config, { run: again, model, resume: true });
    for (const round of [0, 1]) expect(await bytesOf(again, round)).toEqual(await bytesOf(run, round));
    expect(await bytesOf(run, 1)).not.toEqual(await bytesOf(run, 0));
  });

  it('refuses settings that cannot work', async () => {
    const errors: [Partial<RunConfigInput>, RegExp][] = [
      [
        { algorithm: 'grpo' },
        /algorithm is "grpo", which does not train weight edits; expected one of ppo, gradient/,
      ],
      [{ algorithm: 'gradient', edit: { kind: 'text' } }, /"gradient", which does not train text edits/],
      [{ weights: { noiseKl: -1 } }, /weights.noiseKl is -1/],
      [{ weights: { lambda: -0.5 } }, /weights.lambda is -0.5/],
      [{ weights: { space: 'dense' as 'sparse' } }, /weights.space is "dense"/],
    ];
    for (const [more, message] of errors) expect(() => configure(more)).toThrow(message);
    const unknown = configure({ weights: { targets: ['x_proj'] } });
    const error = await failureOf(train(unknown, { run: join(folder, 'run'), model }));
    expect(error).toMatchObject({ code: 'TARGET_UNKNOWN' });
  });

  it('has an example', async () => {
    const config = await readConfig('examples/train-weights.yaml');
    expect(config).toMatchObject({
      edit: { kind: 'weights' },
      weights: { space: 'modulated' },
      algorithm: 'ppo',
    });
  });
});
