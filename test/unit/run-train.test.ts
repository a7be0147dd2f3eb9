import * as fs from 'node:fs/promises';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { comparisonText } from '../../lib/comparison-text.js';
import { Delta } from '../../lib/delta.js';
import type { RoundResult } from '../../lib/edit-result.js';
import type { Model } from '../../lib/model.js';
import { type RunConfig, type RunConfigInput, resolveConfig } from '../../lib/run/config.js';
import type { Disk } from '../../lib/run/disk.js';
import { realDisk } from '../../lib/run/disk.js';
import { type JournalLine, readJournal } from '../../lib/run/journal.js';
import { type TrainEvent, train } from '../../lib/run/train.js';
import { score } from '../../lib/score.js';
import { tinyModel } from './helpers/tiny-model.js';

// Whole runs on a tiny random model: every phase is the real one.
const PASSAGES = Array.from({ length: 7 }, (_, index) => ({
  title: `Title ${index}`,
  context: `The thing number ${index} is made of wood.`,
  questions: ['Made of what?', 'Which number?', 'Where?', 'When?'].map((question, q) => ({
    question: `${question} (${index})`,
    answer: ['wood', `${index}`, 'here', 'now'][q],
  })),
}));

let model: Model;
let folder: string;
beforeAll(async () => {
  model = await tinyModel();
});
afterAll(() => model.close());
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'selfedit-train-'));
  await writeFile(join(folder, 'data.json'), JSON.stringify(PASSAGES));
});
afterEach(() => rm(folder, { recursive: true }));

function configure(more: Partial<RunConfigInput> = {}): RunConfig {
  return resolveConfig({
    model: 'tiny',
    seed: 4,
    rounds: 3,
    contextsPerRound: 2,
    editsPerContext: 3,
    task: { data: join(folder, 'data.json'), evaluation: 2, retention: 1 },
    edit: { maxTokens: 12 },
    adapt: { rank: 2, alpha: 4, epochs: 1 },
    reward: { beta: 0.1, retentionTexts: 1, report: ['f1'], maxAnswerTokens: 4 },
    policy: { rank: 2, alpha: 4 },
    ppo: { klTarget: 0.001, learningRate: 1e-2, minibatch: 4 },
    ...more,
  });
}

/** The journal without what the clock writes into it. */
async function journalOf(run: string): Promise<JournalLine[]> {
  const { lines, torn } = await readJournal(realDisk, run);
  expect(torn).toBe(false);
  return lines.map((line) => ({ ...line, timings: undefined }) as unknown as JournalLine);
}
const bytesOf = (run: string, round: string) =>
  readFile(join(run, 'checkpoints', round, 'policy.safetensors'));
const stateOf = (run: string, round: string) =>
  readFile(join(run, 'checkpoints', round, 'state.json'), 'utf8');

/** Runs and stops at the first event that matches. */
async function stopAt(
  run: string,
  config: RunConfig,
  matches: (event: TrainEvent) => boolean,
  resume = false,
) {
  const controller = new AbortController();
  const onEvent = (event: TrainEvent) => matches(event) && controller.abort();
  await expect(
    train(config, { run, resume, model, signal: controller.signal, onEvent }),
  ).rejects.toMatchObject({
    code: 'ABORTED',
  });
}

describe('a run', () => {
  it('leaves a folder with everything that happened', async () => {
    const run = join(folder, 'run');
    const events: TrainEvent[] = [];
    const result = await train(configure(), { run, model, onEvent: (event) => events.push(event) });
    expect(result.rounds).toBe(3);
    expect((await readdir(run)).sort()).toEqual([
      'checkpoints',
      'comparison.json',
      'comparison.txt',
      'config.json',
      'environment.json',
      'journal.jsonl',
      'policy',
    ]);
    expect(await readdir(join(run, 'checkpoints'))).toEqual(['round-0000', 'round-0001', 'round-0002']);
    const lines = await journalOf(run);
    expect(lines.filter(({ type }) => type === 'edit')).toHaveLength(3 * 2 * 3);
    expect(lines.filter(({ type }) => type === 'round').map(({ round }) => round)).toEqual([0, 1, 2]);
    const edit = lines[0]!;
    expect(edit).toMatchObject({ type: 'edit', round: 0, sample: 0 });
    for (const key of ['text', 'documents', 'reward', 'parts', 'scores']) expect(edit).toHaveProperty(key);
    const round = lines[6]!;
    expect(round).toMatchObject({
      type: 'round',
      policyVersion: 4,
      update: { steps: 4, importanceWeighted: false },
    });
    expect(events.filter(({ type }) => type === 'round')).toHaveLength(3);
    expect(result.comparison).toMatchObject({ passages: 2, questions: 8, measures: ['likelihood', 'f1'] });
    const environment = JSON.parse(await readFile(join(run, 'environment.json'), 'utf8')) as object;
    expect(environment).toMatchObject({
      inputs: { model: await model.fingerprint() },
      sessions: [{ device: 'cpu' }],
    });

    // The exported adapter is the policy: the same log-probs on another fork of the model.
    const state = JSON.parse(await stateOf(run, 'round-0002')) as { policyVersion: number };
    expect(state.policyVersion).toBe(12);
    await using delta = await Delta.load(model, join(run, 'policy'));
    await using edited = model.fork().apply(delta);
    const [after, before] = await score([
      { fork: edited, tokens: 'The thing is made of wood.' },
      { fork: model, tokens: 'The thing is made of wood.' },
    ]);
    expect(Array.from(after!.subarray(1))).not.toEqual(Array.from(before!.subarray(1)));
  });

  it('is a function of its configuration', async () => {
    const [first, second] = [join(folder, 'a'), join(folder, 'b')];
    for (const run of [first, second]) await train(configure({ rounds: 2 }), { run, model });
    expect(await journalOf(second)).toEqual(await journalOf(first));
    expect(await bytesOf(second, 'round-0001')).toEqual(await bytesOf(first, 'round-0001'));
    const other = join(folder, 'c');
    await train(configure({ rounds: 2, seed: 5 }), { run: other, model });
    expect(await journalOf(other)).not.toEqual(await journalOf(first));
  });

  it.each([
    [
      'before its first checkpoint',
      (event: TrainEvent) => event.type === 'phase' && event.phase === 'evaluate',
    ],
    ['between two rounds', (event: TrainEvent) => event.type === 'round' && event.result.round === 0],
    [
      'in the middle of a later round',
      (e: TrainEvent) => e.type === 'phase' && e.round === 2 && e.phase === 'update',
    ],
    [
      'in the closing table',
      (event: TrainEvent) => event.type === 'method' && event.method === 'trained edits',
    ],
  ])('stopped %s and resumed, ends in the same bits', async (_, matches) => {
    const [whole, broken] = [join(folder, 'whole'), join(folder, 'broken')];
    const expected = await train(configure(), { run: whole, model });
    await stopAt(broken, configure(), matches);
    const result = await train(configure(), { run: broken, resume: true, model });
    expect(await journalOf(broken)).toEqual(await journalOf(whole));
    expect(await bytesOf(broken, 'round-0002')).toEqual(await bytesOf(whole, 'round-0002'));
    expect(await stateOf(broken, 'round-0002')).toEqual(await stateOf(whole, 'round-0002'));
    expect(result.comparison).toEqual(expected.comparison);
  });

  it.each(['grpo', 'rloo', 'restem'] as const)(
    'of %s, stopped and resumed, ends in the same bits',
    async (name) => {
      const own = { klTarget: 0.001, klCoefficient: 0.1, learningRate: 1e-2, minibatch: 4 };
      const config = configure({ algorithm: name, [name]: own });
      const [whole, broken] = [join(folder, 'whole'), join(folder, 'broken')];
      await train(config, { run: whole, model });
      await stopAt(broken, config, (event) => event.type === 'round' && event.result.round === 1);
      await train(config, { run: broken, resume: true, model });
      expect(await journalOf(broken)).toEqual(await journalOf(whole));
      expect(await bytesOf(broken, 'round-0002')).toEqual(await bytesOf(whole, 'round-0002'));
      expect(await stateOf(broken, 'round-0002')).toEqual(await stateOf(whole, 'round-0002'));
      const rounds = (await journalOf(whole)).filter(({ type }) => type === 'round');
      const updates = rounds.map((line) => (line as unknown as { update: Record<string, number> }).update);
      // The coefficient has moved, so that it would be noticed if a resumed run began with the first one.
      expect(updates[1]!.klCoefficient).not.toBe(0.1);
      expect(updates[2]).toHaveProperty('entropy');
      expect(updates[2]!.kept === undefined).toBe(name !== 'restem');
      const state = JSON.parse(await stateOf(whole, 'round-0002')) as { algorithm: { name: string } };
      expect(state.algorithm.name).toBe(name);
      await expect(
        train({ ...config, algorithm: 'ppo' }, { run: whole, resume: true, model }),
      ).rejects.toMatchObject({ code: 'RUN_INVALID' });
    },
  );

  it('killed while it wrote its journal, ends in the same bits', async () => {
    const [whole, broken] = [join(folder, 'whole'), join(folder, 'broken')];
    await train(configure(), { run: whole, model });
    await stopAt(broken, configure(), (event) => event.type === 'round' && event.result.round === 1);
    // As a crash leaves it: lines of a round without its checkpoint, the last one torn, a checkpoint half-built.
    const lines = (await readFile(join(whole, 'journal.jsonl'), 'utf8')).split('\n');
    await fs.appendFile(join(broken, 'journal.jsonl'), `${lines[14]}\n${lines[15]!.slice(0, 40)}`);
    await fs.mkdir(join(broken, 'checkpoints/round-0002.partial'));
    await train(configure(), { run: broken, resume: true, model });
    expect(await journalOf(broken)).toEqual(await journalOf(whole));
    expect(await bytesOf(broken, 'round-0002')).toEqual(await bytesOf(whole, 'round-0002'));
    expect(await readdir(join(broken, 'checkpoints'))).toEqual(['round-0000', 'round-0001', 'round-0002']);
  });

  it('that is finished resumes to what it has', async () => {
    const run = join(folder, 'run');
    // A single unseen passage has intervals without ends, which JSON does not know.
    const task = { data: join(folder, 'data.json'), evaluation: 1, retention: 1 };
    const config = configure({ rounds: 1, task });
    const first = await train(config, { run, model });
    const again = await train(config, { run, resume: true, model });
    expect(again).toEqual({ ...first, rounds: 0 });
    expect(again.comparison!.methods[0]!.intervals.f1!.high).toBe(Number.POSITIVE_INFINITY);
    expect(comparisonText(again.comparison!)).toEqual(comparisonText(first.comparison!));
  });

  it('refuses to overwrite, to go on under other settings, data or weights, or where there is no run', async () => {
    const run = join(folder, 'run');
    const config = configure({
      rounds: 1,
      task: { data: join(folder, 'data.json'), evaluation: 0, retention: 1 },
    });
    await train(config, { run, model });
    const before = await readFile(join(run, 'journal.jsonl'), 'utf8');
    await expect(train(config, { run, model })).rejects.toMatchObject({ code: 'RUN_EXISTS' });
    const changed = { ...config, ppo: { ...config.ppo, epochs: 9 } };
    await expect(train(changed, { run, resume: true, model })).rejects.toMatchObject({
      code: 'RUN_INVALID',
      message: expect.stringContaining('ppo.epochs: 2 → 9') as unknown,
    });
    await expect(train(config, { run: join(folder, 'none'), resume: true, model })).rejects.toMatchObject({
      code: 'RUN_INVALID',
    });
    const other = await tinyModel(6);
    await expect(train(config, { run, resume: true, model: other })).rejects.toMatchObject({
      code: 'RUN_INVALID',
      message: expect.stringContaining('the model of run') as unknown,
    });
    await other.close();
    await writeFile(join(folder, 'data.json'), JSON.stringify(PASSAGES.slice(0, 6)));
    await expect(train(config, { run, resume: true, model })).rejects.toMatchObject({
      code: 'RUN_INVALID',
      message: expect.stringContaining('the data of run') as unknown,
    });
    expect(await readFile(join(run, 'journal.jsonl'), 'utf8')).toBe(before);
  });

  it('on a disk that fills up: IO, earlier checkpoints intact, and resumable once there is room', async () => {
    const [whole, broken] = [join(folder, 'whole'), join(folder, 'broken')];
    await train(configure(), { run: whole, model });
    let full = false;
    const disk: Disk = {
      ...fs,
      rename: async (from, to) => {
        if (full && String(to).includes('round-')) {
          throw Object.assign(new Error('ENOSPC: no space left on device'), { code: 'ENOSPC' });
        }
        await fs.rename(from, to);
      },
    };
    const onEvent = (event: TrainEvent) => {
      if (event.type === 'round' && event.result.round === 0) full = true;
    };
    await expect(train(configure(), { run: broken, model, disk, onEvent })).rejects.toMatchObject({
      code: 'IO',
    });
    expect(await readdir(join(broken, 'checkpoints'))).toEqual(['round-0000']);
    full = false;
    await train(configure(), { run: broken, resume: true, model, disk });
    expect(await bytesOf(broken, 'round-0002')).toEqual(await bytesOf(whole, 'round-0002'));
    expect(await journalOf(broken)).toEqual(await journalOf(whole));
  });

  it('takes retention texts from a file of their own, which is then part of what must not change', async () => {
    const run = join(folder, 'run');
    const path = join(folder, 'kept.json');
    await writeFile(path, JSON.stringify(['Water boils.', 'Bread rises.']));
    const task = { data: join(folder, 'data.json'), retentionData: path, evaluation: 0 };
    await train(configure({ rounds: 1, task }), { run, model });
    await writeFile(path, JSON.stringify(['Water boils.', 'Bread sinks.']));
    await expect(train(configure({ rounds: 1, task }), { run, resume: true, model })).rejects.toMatchObject({
      code: 'RUN_INVALID',
    });
    await writeFile(path, '["a", ""]');
    await expect(train(configure({ task }), { run: join(folder, 'other'), model })).rejects.toMatchObject({
      code: 'INPUT_INVALID',
      message: expect.stringMatching(/kept\.json \[1\] is empty; expected a string/) as unknown,
    });
  });

  it('keeps as many checkpoints as asked', async () => {
    const run = join(folder, 'run');
    await train(configure({ keepCheckpoints: 1, keepBest: 0 }), { run, model });
    expect(await readdir(join(run, 'checkpoints'))).toEqual(['round-0002']);
    // And the best of the older ones: its policy wrote the edits of the next round.
    const other = join(folder, 'other');
    await train(configure({ keepCheckpoints: 1 }), { run: other, model });
    const rounds = (await journalOf(other)).filter(
      ({ type }) => type === 'round',
    ) as unknown as RoundResult[];
    const best = rounds[1]!.reward.mean > rounds[2]!.reward.mean ? 'round-0000' : 'round-0001';
    expect(await readdir(join(other, 'checkpoints'))).toEqual([best, 'round-0002']);
  });

  it.each([
    ['the policy', 'policy.safetensors', /policy\.safetensors is damaged: \d+ bytes with SHA-256/],
    ['the state', 'state.json', /state\.json is damaged: its CRC-32 is/],
  ])('whose newest checkpoint is damaged in %s goes on from the one before it', async (_, file, message) => {
    const [whole, broken] = [join(folder, 'whole'), join(folder, 'broken')];
    await train(configure(), { run: whole, model });
    await stopAt(broken, configure(), (event) => event.type === 'round' && event.result.round === 1);
    const path = join(broken, 'checkpoints', 'round-0001', file);
    const bytes = await readFile(path);
    bytes[bytes.length - 40]! ^= 4;
    await writeFile(path, bytes);
    const events: TrainEvent[] = [];
    await train(configure(), { run: broken, resume: true, model, onEvent: (event) => events.push(event) });
    const warnings = events.flatMap((event) => (event.type === 'warning' ? [event.message] : []));
    expect(warnings).toEqual([expect.stringMatching(message)]);
    expect(warnings[0]).toMatch(/; going on from round 1, the checkpoint is kept as .*round-0001\.damaged$/);
    expect(events.find(({ type }) => type === 'begin')).toMatchObject({ firstRound: 1 });
    expect(await journalOf(broken)).toEqual(await journalOf(whole));
    for (const round of ['round-0001', 'round-0002']) {
      expect(await bytesOf(broken, round)).toEqual(await bytesOf(whole, round));
    }
    expect(await readFile(join(broken, 'checkpoints/round-0001.damaged', file))).toEqual(bytes);
  });

  it('whose journal lacks rounds goes on from where it ends', async () => {
    const [whole, broken] = [join(folder, 'whole'), join(folder, 'broken')];
    await train(configure(), { run: whole, model });
    await stopAt(broken, configure(), (event) => event.type === 'round' && event.result.round === 1);
    const journal = await readFile(join(broken, 'journal.jsonl'));
    await writeFile(join(broken, 'journal.jsonl'), journal.subarray(0, journal.length - 9));
    const warnings: string[] = [];
    const onEvent = (event: TrainEvent) => event.type === 'warning' && warnings.push(event.message);
    await train(configure(), { run: broken, resume: true, model, onEvent });
    expect(warnings[0]).toMatch(
      /the journal of .* ends with round 0; expected one up to the checkpoint of round 1/,
    );
    expect(await journalOf(broken)).toEqual(await journalOf(whole));
    expect(await bytesOf(broken, 'round-0002')).toEqual(await bytesOf(whole, 'round-0002'));
  });

  it('without a whole checkpoint is refused and left as it is', async () => {
    const run = join(folder, 'run');
    await stopAt(run, configure(), (event) => event.type === 'round' && event.result.round === 0);
    await writeFile(join(run, 'checkpoints/round-0000/policy.safetensors'), '');
    const before = await readdir(run, { recursive: true });
    await expect(train(configure(), { run, resume: true, model })).rejects.toMatchObject({
      code: 'RUN_INVALID',
      message: expect.stringMatching(
        /has no checkpoint that is whole: .*0 bytes.*; expected at least one/,
      ) as unknown,
    });
    expect(await readdir(run, { recursive: true })).toEqual(before);
  });

  it('tells what differs from where it was begun', async () => {
    const run = join(folder, 'run');
    await stopAt(run, configure(), (event) => event.type === 'round' && event.result.round === 0);
    const path = join(run, 'environment.json');
    const environment = JSON.parse(await readFile(path, 'utf8')) as { sessions: { threads: number }[] };
    environment.sessions[0]!.threads = 96;
    await writeFile(path, JSON.stringify(environment));
    const warnings: string[] = [];
    const onEvent = (event: TrainEvent) => event.type === 'warning' && warnings.push(event.message);
    await train(configure(), { run, resume: true, model, onEvent });
    expect(warnings).toEqual([expect.stringMatching(/so its bits may differ: threads: 96 → \d+$/)]);
  });

  it('is open to one call at a time', async () => {
    const run = join(folder, 'run');
    let second: Promise<unknown> | undefined;
    const onEvent = (event: TrainEvent) => {
      if (event.type === 'begin')
        second = train(configure(), { run, resume: true, model }).catch((e: unknown) => e);
    };
    await train(configure({ rounds: 1 }), { run, model, onEvent });
    expect(await second).toMatchObject({ code: 'RUN_INVALID' }); // other rounds
    second = undefined;
    const again = (event: TrainEvent) => {
      if (event.type !== 'begin') return;
      second = train(configure({ rounds: 1 }), { run, resume: true, model }).catch((e: unknown) => e);
    };
    await train(configure({ rounds: 1 }), { run, resume: true, model, onEvent: again });
    expect(await second).toMatchObject({
      code: 'RUN_LOCKED',
      exitCode: 1,
      message: expect.stringContaining(`is in use by process ${process.pid} on `) as unknown,
    });
    expect(await readdir(run)).not.toContain('lock');
  });

  it('makes a closing table that cannot be read again, and one whose rounds are played again', async () => {
    const run = join(folder, 'run');
    const { comparison } = await train(configure(), { run, model });
    const path = join(run, 'comparison.json');
    const whole = await readFile(path, 'utf8');
    await writeFile(path, whole.slice(0, 99));
    expect((await train(configure(), { run, resume: true, model })).comparison).toEqual(comparison);
    expect(await readFile(path, 'utf8')).toBe(whole);
    await writeFile(path, '{"passages": 77}');
    await writeFile(join(run, 'checkpoints/round-0002/state.json'), '');
    expect((await train(configure(), { run, resume: true, model })).comparison).toEqual(comparison);
    expect(await readFile(path, 'utf8')).toBe(whole);
  });

  it('reports bad data before it makes a folder', async () => {
    await writeFile(join(folder, 'data.json'), '[{"title": "T"}]');
    await expect(train(configure(), { run: join(folder, 'run'), model })).rejects.toMatchObject({
      code: 'INPUT_INVALID',
    });
    expect(await readdir(folder)).toEqual(['data.json']);
  });

  it.each(['value', 'group'] as const)('works with the %s baseline and adaptFrom base', async (baseline) => {
    const run = join(folder, 'run');
    await train(configure({ rounds: 1, adaptFrom: 'base', repeats: 2, ppo: { baseline, klIn: 'reward' } }), {
      run,
      model,
    });
    const round = (await journalOf(run)).at(-1) as unknown as { update: Record<string, number | null> };
    expect(round.update.explainedVariance === null).toBe(baseline === 'group');
    expect(round.update.klLoss).toBe(0);
    expect(round.update.trainerGap).toBeLessThan(1e-4);
  });
});
