// What needs no model: help, wrong usage, doctor, grade, standard streams.
import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { finished, jsonl, lines, main, selfedit, start, temporaryFolder } from './helpers.js';

const COMMANDS = [
  'doctor',
  'pull',
  'inspect',
  'score',
  'generate',
  'adapt',
  'train',
  'eval',
  'grade',
  'rate',
  'reliability',
  'demo',
  'bench',
];

describe('help', () => {
  it('shows every command, and for each its options and an example, on standard output', async () => {
    const all = await selfedit(['--help']);
    expect(all.code).toBe(0);
    expect(all.stderr).toBe('');
    const pages = await Promise.all(COMMANDS.map((command) => selfedit([command, '--help'])));
    for (const [index, command] of COMMANDS.entries()) {
      expect(all.stdout).toMatch(new RegExp(`^  ${command}\\b`, 'm'));
      const { code, stdout, stderr } = pages[index]!;
      expect({ code, stderr }, command).toEqual({ code: 0, stderr: '' });
      expect(stdout).toContain(`Usage: selfedit ${command}`);
      expect(stdout, command).toMatch(new RegExp(`Example:\\n.*selfedit ${command}`));
    }
  });

  it('lists exactly the options of the contract, and those of loading a model', async () => {
    const model = ['--model', '--dtype', '--device', '--threads'];
    const adapt =
      'input out rank alpha lr epochs targets schedule seed init no-shuffle faithful-padding slots plan';
    const generate = 'adapter input prompt max-tokens temperature top-p seed chat';
    const options = (names: string) => names.split(' ').map((name) => `--${name}`);
    const expected: Record<string, string[]> = {
      score: [...model, ...options('adapter input')],
      generate: [...model, ...options(generate)],
      adapt: [...model, ...options(adapt)],
      eval: [...model, ...options('adapter task data solutions')],
      train: options('out resume resume-or-begin json'),
      grade: options('grader input endpoint model key-variable rubric cache concurrency timeout'),
      rate: options('ratings seed count summary'),
      reliability: options('recording wanted seeds seed json'),
      doctor: options('json'),
      bench: options('shape forks peer-forks device dtype threads python repeats quick json'),
    };
    for (const [command, names] of Object.entries(expected)) {
      const { stdout } = await selfedit([command, '--help']);
      const section = stdout.slice(stdout.indexOf('Options:'));
      const found = [...section.matchAll(/^ {2}(?:-\w, )?(--[a-z-]+)/gm)].map((match) => match[1]);
      expect(found.sort(), command).toEqual([...names, '--help'].sort());
    }
  });
});

describe('wrong usage', () => {
  it.each([
    { args: ['frobnicate'], says: /unknown command 'frobnicate'/ },
    { args: ['score'], says: /--model/ },
    { args: ['score', '--model', 'm', '--thread', '2'], says: /--thread/ },
    { args: ['score', '--model', 'm', 'file.jsonl'], says: /argument/ },
    { args: ['score', '--model', 'm', '--dtype', 'float16'], says: /float32, bfloat16, float64/ },
    { args: ['generate', '--model', 'm', '--max-tokens', '0'], says: /--max-tokens.*whole number from 1/ },
    { args: ['generate', '--model', 'm', '--temperature', 'hot'], says: /--temperature.*number from 0/ },
    { args: ['generate', '--model', 'm', '--top-p', '1.5'], says: /--top-p.*above 0 to 1/ },
    { args: ['generate', '--model', 'm', '--seed', '-1'], says: /--seed/ },
    { args: ['generate', '--model', 'm', '--prompt', 'a', '--input', 'b'], says: /--prompt and --input/ },
    { args: ['adapt', '--model', 'm', '--input', 'i'], says: /--out/ },
    {
      args: ['adapt', '--model', 'm', '--input', 'i', '--out', 'o', '--schedule', 'step'],
      says: /linear.*constant/,
    },
    { args: ['eval', '--model', 'm', '--task', 'chess', '--data', 'd'], says: /knowledge, qa, arc/ },
    { args: ['grade', '--grader', 'taste'], says: /exact, f1, recall, local, judge/ },
    { args: ['grade', '--grader', 'judge'], says: /--endpoint and --model/ },
    { args: ['train'], says: /CONFIG\.yaml.*--resume/ },
    { args: ['pull'], says: /name/ },
    { args: ['pull', 'gpt-9'], says: /gpt-9.*smollm2-135m-instruct/ },
  ])('$args is one clear line and exit code 2', async ({ args, says }) => {
    const { code, stdout, stderr } = await selfedit(args);
    expect(stderr).toMatch(/^error \[[A-Z_]+\]: .+\n$/);
    expect(stderr).toMatch(says);
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
  });

  it('without a command shows the help on standard error', async () => {
    const { code, stdout, stderr } = await selfedit([]);
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
    expect(stderr).toContain('Usage: selfedit');
  });

  it('shows stacks only with SELFEDIT_DEBUG=1', async () => {
    const args = ['grade', '--input', '/nowhere/there.jsonl'];
    const plain = await selfedit(args);
    expect(plain.stderr).toMatch(/^error \[FILE_NOT_FOUND\]: .*\/nowhere\/there\.jsonl.*\n$/);
    const debug = await selfedit(args, { env: { SELFEDIT_DEBUG: '1' } });
    expect(debug.stderr).toMatch(/\n {4}at .*\n(?:.|\n)*caused by .*ENOENT/);
    expect([plain.code, debug.code]).toEqual([2, 2]);
  });
});

describe('doctor', () => {
  it('says what works', async () => {
    const [json, text] = await Promise.all([selfedit(['doctor', '--json']), selfedit(['doctor'])]);
    const report = JSON.parse(json.stdout) as Record<string, unknown>;
    expect(report).toMatchObject({
      ok: true,
      problems: [],
      next: null,
      devices: expect.arrayContaining(['cpu']),
    });
    expect(report.libtorch).toMatchObject({
      version: expect.stringMatching(/^2\./),
      path: expect.any(String),
    });
    expect(text.stdout).toContain(process.version);
    expect(text.stdout).toContain((report.libtorch as { path: string }).path);
    expect([json.code, text.code]).toEqual([0, 0]);
  });

  it('says what is missing and the next command; other commands say the same', async () => {
    // The package as it is after an install without a toolchain: no build/.
    const folder = temporaryFolder();
    const root = join(main, '..', '..', '..');
    cpSync(join(root, 'dist'), join(folder, 'dist'), { recursive: true });
    for (const name of ['scripts', 'node_modules', 'package.json']) {
      symlinkSync(join(root, name), join(folder, name));
    }
    const entry = join(folder, 'dist', 'cli', 'main.js');
    const json = await selfedit(['doctor', '--json'], { entry });
    expect(json.code).toBe(1);
    expect(JSON.parse(json.stdout)).toMatchObject({ ok: false, addon: { found: false }, devices: [] });
    const text = await selfedit(['doctor'], { entry });
    expect(text.code).toBe(1);
    const next = (JSON.parse(json.stdout) as { next: string }).next;
    expect(text.stdout).toContain(`next: ${next}`);
    const inspect = await selfedit(['inspect', join(root, 'test/fixtures/models/llama-tied')], { entry });
    expect(inspect.code).toBe(1);
    expect(inspect.stderr).toMatch(/^error \[ADDON_LOAD\]: /);
    expect(inspect.stderr).toContain(next);
  });
});

describe('grade', () => {
  const cases = [
    // prediction, answer, exact, f1, recall: counted by hand after SQuAD's normalisation; local: a surname is enough
    ['the  Ada Lovelace.', 'Ada Lovelace', 1, 1, 1, 1],
    ['It was Ada Lovelace, I think', 'Ada Lovelace', 0, (2 * 2) / 8, 1, 1],
    ['Charles', 'Ada Lovelace', 0, 0, 0, 0],
    ['Lovelace', ['King', 'Ada Lovelace'], 0, (2 * 1) / 3, 1 / 2, 1],
  ] as const;
  const input = jsonl(cases.map(([prediction, answer]) => ({ question: 'Who?', answer, prediction })));

  it.each([
    { grader: 'exact', column: 2, right: [true, false, false, false] },
    { grader: 'f1', column: 3, right: [true, true, false, true] },
    { grader: 'recall', column: 4, right: [true, true, false, false] },
    { grader: 'local', column: 5, right: [true, true, false, true] },
  ])('by $grader, in the order of the input', async ({ grader, column, right }) => {
    const { code, stdout, stderr } = await selfedit(['grade', '--grader', grader], { input });
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    const found = lines<{ score: number; correct: boolean }>(stdout);
    expect(found.map(({ correct }) => correct)).toEqual(right);
    for (const [index, { score }] of found.entries())
      expect(score).toBeCloseTo(cases[index]![column] as number, 12);
  });

  it('grades what comes before a malformed line, then names that line', async () => {
    const bad = `${input}\r\n{"answer": "x"}\n`;
    const { code, stdout, stderr } = await selfedit(['grade'], { input: bad });
    expect(lines(stdout)).toHaveLength(4);
    // The blank line is not graded, but it counts as a line.
    expect(stderr).toMatch(/^error \[INPUT_INVALID\]: standard input line 6: "prediction" is missing.*\n$/);
    expect(code).toBe(2);
  });

  it.each([
    ['{"answer": "x", "prediction": "y"', /line 1 is not JSON/],
    ['[1]', /line 1 is an array; expected one JSON object/],
    ['{"answer": [], "prediction": "y"}', /line 1.*"answer"/],
    ['{"answer": "x", "prediction": 3}', /line 1: "prediction" is 3; expected a string/],
    [Buffer.from([0x7b, 0xff, 0x7d]).toString('latin1'), /line 1/],
  ])('%s is refused', async (input_, says) => {
    const { code, stdout, stderr } = await selfedit(['grade'], { input: input_ });
    expect(stderr).toMatch(/^error \[INPUT_INVALID\]: .+\n$/);
    expect(stderr).toMatch(says);
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
  });

  it('answers a line before the next one comes', async () => {
    const child = start(['grade']);
    const ends = finished(child);
    const answer = () =>
      new Promise<string>((resolve) => child.stdout.once('data', (data) => resolve(String(data))));
    for (const [prediction, score] of [
      ['x', 1],
      ['y', 0],
    ] as const) {
      const next = answer();
      child.stdin.write(jsonl([{ answer: 'x', prediction }]));
      expect(JSON.parse(await next)).toMatchObject({ score });
    }
    child.stdin.end();
    expect((await ends).code).toBe(0);
  });

  it('ends without a word when nobody reads on', async () => {
    const child = start(['grade']);
    const ends = finished(child);
    child.stdin.on('error', () => {});
    child.stdin.write(jsonl([{ answer: 'x', prediction: 'x' }]));
    await new Promise((resolve) => child.stdout.once('data', resolve));
    child.stdout.destroy();
    child.stdin.end(jsonl(Array.from({ length: 5000 }, () => ({ answer: 'x', prediction: 'x' }))));
    expect(await ends).toMatchObject({ stderr: '', code: 1 });
  });

  it('says that the disk is full when results cannot be written', ({ skip }) => {
    if (!existsSync('/dev/full')) skip('this system has no /dev/full');
    const result = spawnSync('/bin/sh', ['-c', `"$0" "$1" grade > /dev/full`, process.execPath, main], {
      input,
      encoding: 'utf8',
    });
    expect(result.stderr).toMatch(/^error \[IO\]: cannot write to standard output: .*ENOSPC.*\n$/);
    expect(result.status).toBe(1);
  });

  it('is interrupted while it waits for a line', async () => {
    const child = start(['grade']);
    const ends = finished(child);
    child.stdin.write(jsonl([{ answer: 'x', prediction: 'x' }]));
    await new Promise((resolve) => child.stdout.once('data', resolve));
    child.kill('SIGINT');
    expect(await ends).toMatchObject({ code: 130, stderr: 'error [ABORTED]: interrupted\n' });
  });
});
