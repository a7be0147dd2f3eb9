import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { RoundResult } from '../../lib/edit-result.js';
import type { Model } from '../../lib/model.js';
import { type RunConfigInput, readConfig, resolveConfig } from '../../lib/run/config.js';
import { realDisk } from '../../lib/run/disk.js';
import { readJournal } from '../../lib/run/journal.js';
import { type TrainEvent, train } from '../../lib/run/train.js';
import { knowledge } from '../../lib/task/knowledge.js';
import { parsePassages } from '../../lib/task/passages.js';
import { tinyModel } from './helpers/tiny-model.js';

// Runs whose guards give alarm, and rewards that a configuration names, on a tiny random model.
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
  folder = await mkdtemp(join(tmpdir(), 'selfedit-guards-'));
  await writeFile(join(folder, 'data.json'), JSON.stringify(PASSAGES));
});
afterEach(() => rm(folder, { recursive: true }));

const configure = (more: Partial<RunConfigInput> = {}) =>
  resolveConfig({
    ...{ model: 'tiny', seed: 4, rounds: 5, contextsPerRound: 2, editsPerContext: 3 },
    task: { data: join(folder, 'data.json'), evaluation: 1, retention: 1 },
    edit: { maxTokens: 12 },
    adapt: { rank: 2, alpha: 4, epochs: 1 },
    reward: { beta: 0.1, retentionTexts: 1 },
    policy: { rank: 2, alpha: 4 },
    ppo: { learningRate: 2e-2, minibatch: 4, klStop: 100 },
    ...more,
  });
const bytesOf = (run: string, ...path: string[]) => readFile(join(run, ...path));
async function roundsOf(run: string) {
  const { lines } = await readJournal(realDisk, run);
  return lines.flatMap((line) => (line.type === 'round' ? [line as unknown as RoundResult] : []));
}

describe('an alarm', () => {
  /** A limit that the policy's KL first passes in `round`, from a run without it. */
  async function limitFor(round: number) {
    const run = join(folder, 'free');
    const { alarms } = await train(configure({ guards: { policyKl: false } }), { run, model });
    expect(alarms).toEqual([]);
    const kl = (await roundsOf(run)).map(({ guards }) => guards.figures.policyKl);
    const before = Math.max(...kl.slice(0, round));
    expect(kl[round]).toBeGreaterThan(before);
    return { run, limit: (before + kl[round]!) / 2 };
  }

  it('rolls a run back to the policy whose edits last passed, for good', async () => {
    const { run: free, limit } = await limitFor(3);
    const run = join(folder, 'run');
    const config = configure({ guards: { onAlarm: 'rollback', policyKl: limit }, keepCheckpoints: 1 });
    const result = await train(config, { run, model });
    expect(result).toMatchObject({ rounds: 4, halted: 'rollback', alarms: [{ guard: 'policyKl', limit }] });
    const rounds = await roundsOf(run);
    expect(rounds.map(({ halted }) => halted)).toEqual([undefined, undefined, undefined, 'rollback']);
    // The edits of round 3 were written by the policy of round 2; those that passed last by that of round 1.
    const good = await bytesOf(free, 'checkpoints', 'round-0001', 'policy.safetensors');
    expect(await bytesOf(run, 'checkpoints', 'round-0003', 'policy.safetensors')).toEqual(good);
    expect(await bytesOf(free, 'checkpoints', 'round-0003', 'policy.safetensors')).not.toEqual(good);
    expect(await readFile(join(run, 'comparison.txt'), 'utf8')).toMatch(
      /KL\(policy ‖ base\).*ALARM in round 4/,
    );
    // It does not go on, and its results stay.
    const adapter = await bytesOf(run, 'policy', 'adapter_model.safetensors');
    const again = await train(config, { run, model, resume: true });
    expect(again).toMatchObject({ rounds: 0, halted: 'rollback', alarms: result.alarms });
    expect(await bytesOf(run, 'policy', 'adapter_model.safetensors')).toEqual(adapter);
    expect(await roundsOf(run)).toHaveLength(4);
  });

  it('in the first rounds goes back to where the run began', async () => {
    const run = join(folder, 'run');
    const guards = { onAlarm: 'rollback' as const, editKl: 1e-12 };
    const result = await train(configure({ guards }), { run, model });
    expect(result).toMatchObject({ rounds: 1, halted: 'rollback', alarms: [{ guard: 'editKl' }] });
    const initial = await bytesOf(run, 'checkpoints', 'initial', 'policy.safetensors');
    expect(await bytesOf(run, 'checkpoints', 'round-0000', 'policy.safetensors')).toEqual(initial);
    expect((await roundsOf(run))[0]!.update).toEqual({});
  });

  it('stops a run with the policy as the alarm found it', async () => {
    const run = join(folder, 'run');
    await train(configure({ rounds: 1 }), { run: join(folder, 'one'), model });
    const guards = { onAlarm: 'stop' as const, gap: 1e-9, policyKl: 1e-9 };
    const result = await train(configure({ guards }), { run, model });
    expect(result.halted).toBe('stop');
    // Round 0 begins at the base model, whose KL is 0.
    const last = `round-${String(result.rounds - 1).padStart(4, '0')}`;
    expect(await readdir(join(run, 'checkpoints'))).toContain(last);
    const first = await bytesOf(run, 'checkpoints', 'round-0000', 'policy.safetensors');
    expect(first).toEqual(
      await bytesOf(join(folder, 'one'), 'checkpoints', 'round-0000', 'policy.safetensors'),
    );
  });

  it('is only written down by default, and a resumed run remembers what the guards saw', async () => {
    const config = configure({ guards: { gap: 1e-9, window: 1 } });
    await train(config, { run: join(folder, 'whole'), model });
    const run = join(folder, 'run');
    const controller = new AbortController();
    const stopped = train(config, {
      ...{ run, model, signal: controller.signal },
      onEvent: (event) => event.type === 'phase' && event.round === 3 && controller.abort(),
    });
    await expect(stopped).rejects.toMatchObject({ code: 'ABORTED' });
    expect((await train(config, { run, model, resume: true })).halted).toBeUndefined();
    const guardsOf = async (of: string) => (await roundsOf(of)).map(({ guards }) => guards);
    expect(await guardsOf(run)).toEqual(await guardsOf(join(folder, 'whole')));
  });
});

describe('majority votes as labels', () => {
  it('stand in for answers that nobody has given, and resume to the same bits', async () => {
    const bare = PASSAGES.map(({ questions, ...passage }, index) => ({
      ...passage,
      // The last question of each passage has its answer: it alone is in the closing table.
      questions: questions.map(({ question, answer }, q) => (q < 3 ? { question } : { question, answer })),
      title: `Talk ${index}`,
    }));
    await writeFile(join(folder, 'bare.json'), JSON.stringify(bare));
    const task = { data: join(folder, 'bare.json'), evaluation: 1, retention: 1 };
    const config = configure({ task, rounds: 2, labels: { samples: 3, maxTokens: 4 } });
    const whole = await train(config, { run: join(folder, 'whole'), model });
    expect(whole.comparison).toMatchObject({ questions: 1 });
    const [first] = await roundsOf(join(folder, 'whole'));
    expect(first!.guards.figures.votes).toMatchObject({ questions: expect.any(Number) });
    const run = join(folder, 'run');
    const controller = new AbortController();
    const onEvent = (event: TrainEvent) => event.type === 'round' && controller.abort();
    await expect(train(config, { run, model, signal: controller.signal, onEvent })).rejects.toMatchObject({
      code: 'ABORTED',
    });
    await train(config, { run, model, resume: true });
    const last = ['checkpoints', 'round-0001', 'policy.safetensors'];
    expect(await bytesOf(run, ...last)).toEqual(await bytesOf(join(folder, 'whole'), ...last));
    // Without votes such a file is refused, by the first question.
    const plain = configure({ task });
    await expect(train(plain, { run: join(folder, 'plain'), model })).rejects.toThrow(
      'bare.json [0].questions[0].answer is missing; expected a string',
    );
  });
});

describe('a reward that a configuration names', () => {
  const write = (name: string, text: string) => writeFile(join(folder, name), text);
  const yaml = (reward: string) => `
model: tiny
rounds: 1
contextsPerRound: 1
editsPerContext: 2
task: { data: data.json, evaluation: 0, retention: 1 }
edit: { maxTokens: 8 }
adapt: { rank: 2, alpha: 4, epochs: 1 }
policy: { rank: 2, alpha: 4 }
reward: ${reward}
`;

  it('is loaded from its module, beside the file', async () => {
    await write('mine.mjs', 'export const length = ({ edit }) => edit.text.length;\n');
    await write(
      'c.yaml',
      yaml(
        '{ measure: {}, beta: 0, functions: [{ name: size, module: mine.mjs, export: length, weight: 0.5 }] }',
      ),
    );
    const run = join(folder, 'run');
    await train(await readConfig(join(folder, 'c.yaml')), { run, model });
    const { lines } = await readJournal(realDisk, run);
    const edits = lines.flatMap((line) => (line.type === 'edit' && !line.invalid ? [line] : []));
    expect(edits.length).toBeGreaterThan(0);
    for (const { text, reward, parts } of edits) {
      expect(parts.terms).toEqual({ size: text.length });
      expect(reward).toBe(text.length / 2);
    }
  });

  it('that is not there, or no function, is refused before there is a folder', async () => {
    await write('bad.mjs', 'export default 3;\n');
    await write('broken.mjs', 'export default (;\n');
    for (const [module, code, message] of [
      ['none.mjs', 'FILE_NOT_FOUND', 'reward function "size": '],
      ['bad.mjs', 'INPUT_INVALID', 'exports number as "default"; expected a function'],
      ['broken.mjs', 'INPUT_INVALID', 'cannot be loaded'],
    ] as const) {
      await write('c.yaml', yaml(`{ functions: [{ name: size, module: ${module} }] }`));
      const started = train(await readConfig(join(folder, 'c.yaml')), { run: join(folder, 'run'), model });
      const error = await started.catch((caught: unknown) => caught as Error & { code: string });
      expect(error).toMatchObject({ code });
      expect((error as Error).message).toContain(message);
    }
    expect(await readdir(folder)).not.toContain('run');
  });

  it('is checked with the rest of the configuration', () => {
    const problem = (reward: object) => () => configure({ reward: reward as never });
    expect(problem({ measure: { f2: 1 } })).toThrow('reward.measure is "f2"; expected one of likelihood');
    expect(problem({ measure: {} })).toThrow('reward.measure is {}; expected a measure, reward.functions');
    expect(problem({ clip: [1, 0] })).toThrow(
      'reward.clip is [1,0]; expected two numbers, the smaller one first',
    );
    expect(problem({ measure: 3 })).toThrow('reward.measure is 3; expected a measure');
    expect(() => configure({ guards: { gap: 0 } as never })).toThrow('guards.gap is 0');
    expect(
      resolveConfig({ model: 'm', task: { data: 'd' }, reward: { measure: 'own' } }, 'c', ['own']).reward
        .measure,
    ).toBe('own');
  });

  it('may be given by the caller, with a task of their own', async () => {
    const task = knowledge(parsePassages(JSON.stringify(PASSAGES), 'p.json'), { retention: 1, seed: 4 });
    const asked: string[] = [];
    const terms = [
      {
        name: 'mine',
        reward: ({ context }: { context: { title: string } }) => {
          asked.push(context.title);
          return asked.length;
        },
      },
    ];
    const config = configure({ rounds: 1, task: { data: 'nowhere.json', evaluation: 0 } });
    const result = await train(config, { run: join(folder, 'run'), model, task, terms });
    expect(result.rounds).toBe(1);
    expect(new Set(asked)).toEqual(new Set(task.contexts(0, 2).map(({ title }) => title)));
  });
});
