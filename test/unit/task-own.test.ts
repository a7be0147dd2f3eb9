import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import ts from 'typescript';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { resolveConfig } from '../../lib/run/config.js';
import { train } from '../../lib/run/train.js';
import { parseArc } from '../../lib/task/arc/read.js';
import { arc } from '../../lib/task/arc/task.js';
import { type Dialogue, dialogue } from '../../lib/task/dialogue.js';
import { knowledge } from '../../lib/task/knowledge.js';
import { sequencesOf } from '../../lib/task/stream.js';
import type { Task, TaskContext } from '../../lib/task/task.js';
import { tinyModel } from './helpers/tiny-model.js';

const root = join(dirname(fileURLToPath(import.meta.url)), '../..');
let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'selfedit-own-'));
});
afterAll(() => rm(folder, { recursive: true }));

describe('the task of docs/tasks.md', () => {
  it('is forty lines, and trains as a module of a configuration', async () => {
    const page = await readFile(join(root, 'docs/tasks.md'), 'utf8');
    const [code] = [...page.matchAll(/```ts\n(import [\s\S]*?)```/g)].map(([, text]) => text!);
    expect(code!.trim().split('\n').length).toBeLessThanOrEqual(40);
    const { outputText } = ts.transpileModule(code!, {
      compilerOptions: { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2022 },
    });
    const library = pathToFileURL(join(root, 'dist/index.js')).href;
    const module = join(folder, 'operators.mjs');
    const made = `\nexport default ({ count }, { seed }) => operators(count, seed);\n`;
    await writeFile(module, outputText.replace("'selfedit'", JSON.stringify(library)) + made);
    const model = await tinyModel();
    const config = resolveConfig({
      ...{ model: 'tiny', rounds: 1, contextsPerRound: 2, editsPerContext: 2 },
      task: { kind: 'module', module, options: { count: 3 } },
      edit: { maxTokens: 8 },
      adapt: { rank: 2, alpha: 4, epochs: 1 },
      policy: { rank: 2, alpha: 4 },
    });
    const result = await train(config, { run: join(folder, 'run'), model });
    // Four unseen operators of twelve cases.
    expect(result.comparison).toMatchObject({ passages: 4, questions: 48 });
    await model.close();
  });

  it('of a module that is none is refused', async () => {
    const module = join(folder, 'none.mjs');
    const config = resolveConfig({ model: 'tiny', task: { kind: 'module', module } });
    const started = () => train(config, { run: join(folder, 'no') });
    await expect(started()).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
    await writeFile(module, 'export default () => ({ name: "x", contexts: 3 });\n');
    await expect(started()).rejects.toThrow(
      'gave an object without contexts(round, count), evaluation, retention',
    );
    const named = resolveConfig({ model: 'tiny', task: { kind: 'module', module, export: 'make' } });
    await expect(train(named, { run: join(folder, 'no') })).rejects.toThrow('exports undefined as "make"');
  });

  it('of an unknown kind is refused with the kinds there are', () => {
    expect(() => resolveConfig({ model: 'm', task: { kind: 'arcs' } })).toThrow(
      'task.kind is "arcs"; expected one of knowledge, dialogue, arc, module',
    );
    expect(() =>
      resolveConfig({ model: 'm', task: { kind: 'arc', data: 'c.json', payingShare: 1 } }),
    ).toThrow('task.payingShare is not a known key');
  });
});

describe('contexts', () => {
  const passages = Array.from({ length: 9 }, (_, at) => ({
    title: `T${at}`,
    context: `Passage ${at}.`,
    questions: ['a', 'b', 'c'].map((letter) => ({ question: `What ${letter}${at}?`, answers: [letter] })),
  }));
  const talks = passages.map(
    ({ title, context, questions }): Dialogue => ({
      title,
      messages: [{ role: 'user', content: context }],
      probes: questions.map(({ question, answers }) => ({ message: question, answers })),
    }),
  );
  const pair = (colour: number) => ({ input: [[colour]], output: [[9 - colour]] });
  const puzzles = Object.fromEntries(
    passages.map((_, at) => [`p${at}`, { train: [pair(at), pair(at), pair(1)], test: [pair(2)] }]),
  );
  const tasks: Record<string, () => Task> = {
    knowledge: () => knowledge(passages, { seed: 3, retention: 1 }),
    dialogue: () => dialogue(talks, { seed: 3 }),
    arc: () => arc(parseArc({ text: JSON.stringify(puzzles), name: 'p.json' }), { seed: 3 }),
  };

  for (const [name, make] of Object.entries(tasks)) {
    it(`of ${name} are the same in the same order on any number of ranks`, () => {
      const rounds = [0, 1, 2, 3];
      const alone = rounds.map((round) => make().contexts(round, 5));
      for (const ranks of [2, 3, 5]) {
        // Every rank makes the task for itself, asks for the rounds in its own order, and takes every ranks-th context.
        const shares = Array.from({ length: ranks }, (_, rank) => {
          const task = make();
          const order = rank % 2 === 0 ? rounds : [...rounds].reverse();
          const byRound = new Map<number, readonly TaskContext[]>();
          for (const round of order) byRound.set(round, task.contexts(round, 5));
          return rounds.map((round) => byRound.get(round)!.filter((_, at) => at % ranks === rank));
        });
        for (const [at, whole] of alone.entries()) {
          const gathered = whole.map((_, index) => shares[index % ranks]![at]![Math.floor(index / ranks)]);
          expect(gathered).toEqual(whole);
        }
      }
      expect(new Set(alone.map((contexts) => contexts.map(({ id }) => id).join())).size).toBeGreaterThan(1);
    });
  }

  it('of streams are a function of the task and their place', () => {
    const of = () => sequencesOf(tasks.knowledge!(), { sequences: 3, length: 2 });
    expect(of()).toEqual(of());
    expect(
      new Set(
        of()
          .flat()
          .map(({ id }) => id),
      ).size,
    ).toBe(6);
  });
});
