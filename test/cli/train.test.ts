// `train` as a process: a whole small run, its end, its interruption, and wrong configurations.
import { cpSync, existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { fixture } from '../support/fixtures.js';
import { finished, jsonl, lines, selfedit, start, temporaryFolder } from './helpers.js';

const folder = temporaryFolder();
const passages = Array.from({ length: 6 }, (_, index) => ({
  title: `Title ${index}`,
  context: `The thing number ${index} is made of wood.`,
  questions: [
    { question: `Made of what? (${index})`, answer: 'wood' },
    { question: `Which number? (${index})`, answer: `${index}` },
  ],
}));
// YAML takes JSON, so that variants are easily made.
const config = {
  model: './model',
  seed: 4,
  rounds: 2,
  contextsPerRound: 2,
  editsPerContext: 2,
  task: { data: 'data.json', evaluation: 2, retention: 1 },
  edit: { maxTokens: 12 },
  adapt: { rank: 2, alpha: 4, epochs: 1 },
  reward: { beta: 0.1, retentionTexts: 1, report: ['f1'], maxAnswerTokens: 4 },
  policy: { rank: 2, alpha: 4 },
};

function writeConfig(name: string, value: unknown): void {
  writeFileSync(join(folder, name), JSON.stringify(value, null, 2));
}

beforeAll(() => {
  // The prompt for an edit is longer than the fixture's context; rotary positions have no weights.
  const model = join(folder, 'model');
  cpSync(fixture('models', 'llama-tied'), model, { recursive: true });
  const path = join(model, 'config.json');
  writeFileSync(path, readFileSync(path, 'utf8').replace(/("max_position_embeddings": )128/, '$11024'));
  writeFileSync(join(folder, 'data.json'), JSON.stringify(passages));
  writeConfig('config.yaml', config);
});

const checkpoint = (run: string) =>
  readFileSync(join(folder, run, 'checkpoints', 'round-0001', 'policy.safetensors'));

describe('an alarm of the guards', () => {
  it('ends a run with what it has, its message and exit code 1', async () => {
    writeConfig('guarded.yaml', { ...config, guards: { onAlarm: 'rollback', editKl: 1e-12 } });
    const { code, stdout, stderr } = await selfedit(['train', 'guarded.yaml', '--out', 'guarded'], {
      cwd: folder,
    });
    expect(code).toBe(1);
    expect(stderr).toMatch(/^ {2}guard: edited models differ from the unedited one on retention texts/m);
    expect(stderr).toMatch(
      /^error \[GUARD_ALARM\]: edited models differ.*; the run has ended early with the policy/m,
    );
    expect(stderr).not.toContain('round 2/2');
    expect(stdout).toMatch(/KL\(edited ‖ unedited\), nats a token .*ALARM in round 1$/m);
  });
});

describe('a run', () => {
  it('tells its rounds, ends with the table and the next command, and is what that command uses', async () => {
    const { code, stdout, stderr } = await selfedit(['train', 'config.yaml', '--out', 'whole'], {
      cwd: folder,
    });
    expect(code, stderr).toBe(0);
    expect(stdout).toMatch(/^2 unseen passages, 4 questions/);
    for (const row of ['unedited', 'passage only', 'untrained edits', 'trained edits', 'run: whole']) {
      expect(stdout).toMatch(new RegExp(`^ *${row}`, 'm'));
    }
    expect(stderr).toMatch(/^run whole: 2 rounds of 2 contexts × 2 edits/m);
    expect(stderr).toMatch(/^round 1\/2: reward mean .*\nround 2\/2: reward mean /m);
    expect(readdirSync(join(folder, 'whole'))).toEqual(
      expect.arrayContaining(['config.json', 'environment.json', 'journal.jsonl', 'checkpoints', 'policy']),
    );
    const [, next] = /^Next: selfedit (.*) --prompt "…"$/m.exec(stderr)!;
    const used = await selfedit([...next!.split(' '), '--max-tokens', '2'], {
      cwd: folder,
      input: jsonl([{ tokens: [5, 6] }]),
    });
    expect(used.code, used.stderr).toBe(0);
    expect(lines(used.stdout)).toHaveLength(1);
  });

  it('is not begun twice in one folder, and not resumed under another configuration', async () => {
    writeConfig('other.yaml', { ...config, seed: 5 });
    const [twice, other, again] = await Promise.all([
      selfedit(['train', 'config.yaml', '--out', 'whole'], { cwd: folder }),
      selfedit(['train', 'other.yaml', '--resume', 'whole'], { cwd: folder }),
      selfedit(['train', '--resume', 'whole', '--json'], { cwd: folder }),
    ]);
    expect(twice.stderr).toMatch(/^error \[RUN_EXISTS\]: whole already holds a run.*\n$/);
    expect(other.stderr).toMatch(/^error \[RUN_INVALID\]: .*seed: 4 → 5.*\n$/);
    expect([twice.code, other.code, twice.stdout, other.stdout]).toEqual([2, 2, '', '']);
    // Complete already: the result is read from the folder.
    expect(again.code, again.stderr).toBe(0);
    expect(JSON.parse(again.stdout)).toMatchObject({ run: 'whole', rounds: 0, comparison: { passages: 2 } });
  });

  it('that is interrupted says how to go on, and then ends as if it had not been', async () => {
    const child = start(['train', 'config.yaml', '--out', 'cut'], { cwd: folder });
    child.stderr.on('data', (text: Buffer) => {
      if (/^round 1\/2/m.test(String(text))) child.kill('SIGINT');
    });
    const cut = await finished(child);
    expect(cut.stderr).toContain('selfedit train --resume cut');
    expect(cut.stderr).toMatch(/error \[ABORTED\]: interrupted\n$/);
    expect({ code: cut.code, stdout: cut.stdout }).toEqual({ code: 130, stdout: '' });
    const resumed = await selfedit(['train', '--resume', 'cut'], { cwd: folder });
    expect(resumed.code, resumed.stderr).toBe(0);
    expect(checkpoint('cut')).toEqual(checkpoint('whole'));
  });

  it('whose newest checkpoint is damaged says so, and ends as if it were not', async () => {
    writeFileSync(join(folder, 'cut', 'checkpoints', 'round-0001', 'policy.safetensors'), 'x');
    const again = await selfedit(['train', '--resume', 'cut'], { cwd: folder });
    expect(again.code, again.stderr).toBe(0);
    expect(again.stderr).toMatch(
      /^warning: .*policy\.safetensors is damaged: 1 bytes .*; going on from round 1, the checkpoint is kept as .*damaged$/m,
    );
    expect(checkpoint('cut')).toEqual(checkpoint('whole'));
  });

  it('is locked while its process lives, and for nobody once that is killed', async () => {
    writeConfig('long.yaml', { ...config, rounds: 10_000 });
    const child = start(['train', 'long.yaml', '--out', 'long'], { cwd: folder });
    let refused: ReturnType<typeof selfedit> | undefined;
    child.stderr.on('data', (text: Buffer) => {
      if (refused || !/^round 2\/10000/m.test(String(text))) return;
      refused = selfedit(['train', '--resume', 'long'], { cwd: folder });
      void refused.finally(() => child.kill('SIGKILL'));
    });
    await finished(child);
    const { code, stderr } = await refused!;
    expect(stderr).toMatch(
      new RegExp(`^error \\[RUN_LOCKED\\]: long is in use by process ${child.pid} on `, 'm'),
    );
    expect(code).toBe(1);
    expect(readdirSync(join(folder, 'long'))).toContain('lock');
    const resumed = start(['train', '--resume', 'long'], { cwd: folder });
    let said = '';
    resumed.stderr.on('data', (text: Buffer) => {
      said += String(text);
      if (/resumed after round \d+$/m.test(said)) resumed.kill('SIGINT');
    });
    expect((await finished(resumed)).code, said).toBe(130);
    expect(readdirSync(join(folder, 'long'))).not.toContain('lock');
  });
});

describe('a run whose edits cannot be followed', () => {
  // Words put into the model's mouth make every edit the same kind.
  const form = '{task} {title} {context}\n';
  const prompt = (opening: string) => ({ name: 'own', base: form, chat: { user: form }, opening });
  const edit = (opening: string, more = {}) => ({
    ...config,
    rounds: 1,
    task: { ...config.task, evaluation: 0 },
    edit: { maxTokens: 12, prompt: prompt(opening), directives: { epochs: [1, 2], ...more } },
  });
  const journal = (run: string) => lines(readFileSync(join(folder, run, 'journal.jsonl'), 'utf8'));

  it.each([
    [
      'unbounded',
      edit('{"epochs": 99}\n'),
      'directives-out-of-bounds',
      /epochs is 99; expected a number from 1 to 2/,
    ],
    ['garbled', edit('{"epochs": "\n'), 'directives-not-json', /is not JSON|does not end/],
    ['silent', edit('Words.\n', { required: true }), 'directives-not-json', /no directives/],
  ])('ends: %s', async (name, value, reason, detail) => {
    writeConfig(`${name}.yaml`, value);
    const { code, stderr } = await selfedit(['train', `${name}.yaml`, '--out', name], { cwd: folder });
    expect(code, stderr).toBe(0);
    expect(stderr).toContain(`4 of 4 edits invalid (4 ${reason})`);
    const [first, ...rest] = journal(name);
    expect(first).toMatchObject({
      type: 'edit',
      invalid: reason,
      reward: -1,
      detail: expect.stringMatching(detail),
    });
    expect(rest.at(-1)).toMatchObject({ type: 'round', reward: { invalid: 4, invalidBy: { [reason]: 4 } } });
  });

  it('ends also when they can be: each is trained in its own way', async () => {
    const opening =
      '{"epochs": 2, "rank": 1, "layers": [0], "targets": ["up_proj"], "loss": "output", "augmentations": ["repeat"]}\nIt is red. ';
    writeConfig('followed.yaml', edit(opening));
    const { code, stderr } = await selfedit(['train', 'followed.yaml', '--out', 'followed'], { cwd: folder });
    expect(code, stderr).toBe(0);
    const [first] = journal('followed');
    expect(first).toMatchObject({ directives: { epochs: 2, rank: 1, layers: [0], targets: ['up_proj'] } });
    expect(first).not.toHaveProperty('invalid');
    expect((first as { loss: { last: number } }).loss.last).toBeGreaterThan(0);
  });
});

describe('a wrong configuration', () => {
  it.each([
    {
      name: 'broken.yaml',
      text: 'model: [1,\nrounds: 2\n',
      code: 'INPUT_INVALID',
      says: /broken\.yaml line 2 is not YAML/,
    },
    {
      name: 'key.yaml',
      value: { ...config, round: 2 },
      code: 'OPTION_INVALID',
      says: /round is not a known key.*rounds/,
    },
    {
      name: 'value.yaml',
      value: { ...config, rounds: 'two' },
      code: 'OPTION_INVALID',
      says: /rounds is "two"/,
    },
    { name: 'absent.yaml', code: 'FILE_NOT_FOUND', says: /absent\.yaml/ },
    {
      name: 'data.yaml',
      value: { ...config, task: { data: 'none.json' } },
      code: 'FILE_NOT_FOUND',
      says: /none\.json/,
    },
    { name: 'model.yaml', value: { ...config, model: './none' }, code: 'FILE_NOT_FOUND', says: /none/ },
  ])('$name: $code, and no run folder', async ({ name, text, value, code, says }) => {
    if (text !== undefined) writeFileSync(join(folder, name), text);
    if (value !== undefined) writeConfig(name, value);
    const outcome = await selfedit(['train', name], { cwd: folder });
    expect(outcome.stderr).toMatch(/^error \[[A-Z_]+\]: .+\n$/);
    expect(outcome.stderr).toContain(`[${code}]`);
    expect(outcome.stderr).toMatch(says);
    expect({ code: outcome.code, stdout: outcome.stdout }).toEqual({ code: 2, stdout: '' });
    expect(existsSync(join(folder, 'runs'))).toBe(false);
  });
});
