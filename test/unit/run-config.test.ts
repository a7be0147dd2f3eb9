import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { GRPO_DEFAULTS } from '../../lib/algorithm/grpo.js';
import { PPO_DEFAULTS } from '../../lib/algorithm/ppo.js';
import { RESTEM_DEFAULTS } from '../../lib/algorithm/restem.js';
import { RLOO_DEFAULTS } from '../../lib/algorithm/rloo.js';
import { WEIGHT_GRADIENT_DEFAULTS } from '../../lib/algorithm/weight-gradient.js';
import { WEIGHT_PPO_DEFAULTS } from '../../lib/algorithm/weight-ppo.js';
import { DIRECTIVE_DEFAULTS } from '../../lib/edit/directives.js';
import { PARSE_DEFAULTS } from '../../lib/edit/parse.js';
import { WRITE_DEFAULTS } from '../../lib/edit/write.js';
import { GUARD_DEFAULTS } from '../../lib/guard/guards.js';
import { REWARD_DEFAULTS } from '../../lib/reward/options.js';
import { readConfig, resolveConfig } from '../../lib/run/config.js';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'selfedit-config-'));
});
afterAll(() => rm(folder, { recursive: true }));

const written = async (text: string) => {
  const path = join(folder, 'c.yaml');
  await writeFile(path, text);
  return path;
};
const MINIMAL = { model: 'm', task: { data: 'd.json' } };

describe('a configuration', () => {
  it('is filled in with the defaults of the library', () => {
    const config = resolveConfig(MINIMAL);
    expect(config.algorithm).toBe('ppo');
    const sections = { ppo: PPO_DEFAULTS, grpo: GRPO_DEFAULTS, rloo: RLOO_DEFAULTS, restem: RESTEM_DEFAULTS };
    expect(config.weightPpo).toEqual(WEIGHT_PPO_DEFAULTS);
    expect(config.weightGradient).toEqual(WEIGHT_GRADIENT_DEFAULTS);
    for (const [name, defaults] of Object.entries(sections)) {
      // The longest edit is `edit.maxTokens`.
      const { maxTokens: _, ...rest } = { maxTokens: 0, ...defaults };
      expect(config[name as keyof typeof sections]).toEqual(rest);
    }
    expect(config.edit).toEqual({ kind: 'text', ...WRITE_DEFAULTS, parse: PARSE_DEFAULTS });
    // What no file can hold: wordings, graders and functions; these a configuration names by their modules.
    const { question: _, graders: __, terms: ___, ...reward } = REWARD_DEFAULTS;
    expect(config.reward).toEqual({ ...reward, functions: [] });
    expect(config.guards).toEqual(GUARD_DEFAULTS);
    // The inner loop of the paper.
    expect(config.adapt).toMatchObject({ rank: 32, alpha: 64, learningRate: 1e-3, epochs: 10, batchSize: 1 });
    expect(config.adapt).toMatchObject({ schedule: 'linear', clip: 1, targets: ['q_proj', 'v_proj'] });
    expect(config.adaptFrom).toBe('policy');
  });

  it('has every key in docs/configuration.md', async () => {
    const here = dirname(fileURLToPath(import.meta.url));
    const page = await readFile(join(here, '../../docs/configuration.md'), 'utf8');
    const keysOf = (value: object): string[] =>
      Object.entries(value).flatMap(([key, inner]) =>
        typeof inner === 'object' && inner !== null && !Array.isArray(inner)
          ? [key, ...keysOf(inner as object)]
          : [key],
      );
    expect(keysOf(resolveConfig(MINIMAL)).filter((key) => !page.includes(`\`${key}\``))).toEqual([]);
  });

  it('survives its way through JSON', () => {
    const config = resolveConfig(MINIMAL);
    expect(resolveConfig(JSON.parse(JSON.stringify(config)))).toEqual(config);
  });

  it('resolves paths beside the file and leaves model names alone', async () => {
    const named = await readConfig(await written('model: smollm2-135m-instruct\ntask: { data: p.json }\n'));
    expect(named.model).toBe('smollm2-135m-instruct');
    expect(named.task).toMatchObject({ data: join(folder, 'p.json') });
    const local = await readConfig(await written('model: ./tiny\ntask: { data: /data/p.json }\n'));
    expect(local.model).toBe(join(folder, 'tiny'));
    expect(local.task).toMatchObject({ data: '/data/p.json' });
    expect((await readConfig(await written('model: m.gguf\ntask: { data: d }\n'))).model).toBe(
      join(folder, 'm.gguf'),
    );
  });

  it('has directives off, and on with bounds when they are named', async () => {
    expect(resolveConfig(MINIMAL).edit.directives).toBeUndefined();
    const on = resolveConfig({ ...MINIMAL, edit: { directives: { epochs: [2, 4] } } }).edit.directives!;
    expect(on).toEqual({ ...DIRECTIVE_DEFAULTS, epochs: [2, 4] });
    const page = await readFile(new URL('../../docs/configuration.md', import.meta.url), 'utf8');
    for (const key of [...Object.keys(on), 'layers', 'augmentations']) expect(page).toContain(`\`${key}\``);
    expect(resolveConfig({ ...MINIMAL, edit: { parse: { loss: { after: '->' } } } }).edit.parse.loss).toEqual(
      {
        after: '->',
      },
    );
  });

  it("takes the caller's own edit prompt", () => {
    const prompt = {
      name: 'own',
      base: '{task} {title} {context}',
      chat: { user: '{task} {title} {context}' },
    };
    expect(resolveConfig({ ...MINIMAL, edit: { prompt } }).edit.prompt).toEqual(prompt);
  });

  it.each([
    [{ ...MINIMAL, round: 3 }, /^configuration: round is not a known key; expected one of .*rounds/],
    [{ ...MINIMAL, ppo: { lr: 1 } }, /ppo\.lr is not a known key; expected one of baseline, .*learningRate/],
    [
      { ...MINIMAL, edit: { parse: { split: true } } },
      /edit\.parse\.split is not a known key; expected one of .*splitLines/,
    ],
    [{ ...MINIMAL, rounds: 'two' }, /rounds is "two"; expected a(n)? (whole )?number/],
    [{ ...MINIMAL, rounds: 0 }, /rounds is 0; expected a number of at least 1/],
    [{ ...MINIMAL, rounds: 1.5 }, /rounds is 1\.5; expected a whole number/],
    [{ ...MINIMAL, editsPerContext: 1 }, /editsPerContext is 1; expected a number of at least 2/],
    [{ ...MINIMAL, edit: { temperature: 0 } }, /edit\.temperature is 0; expected a number above 0/],
    [{ ...MINIMAL, algorithm: 'dpo' }, /algorithm is "dpo"; expected one of ppo, grpo, rloo, restem/],
    [{ ...MINIMAL, grpo: { scale: 1 } }, /grpo\.scale is 1; expected one of group, none/],
    [{ ...MINIMAL, restem: { klIn: 'loss' } }, /restem\.klIn is not a known key; expected one of keep, /],
    [{ ...MINIMAL, ppo: { lambda: 2 } }, /ppo\.lambda is 2; expected a number of at most 1/],
    [{ ...MINIMAL, adaptFrom: 'model' }, /adaptFrom is "model"; expected one of policy, base/],
    [
      { ...MINIMAL, reward: { measure: 'f2' } },
      /reward\.measure is "f2"; expected one of likelihood, exact, f1, recall/,
    ],
    [
      { ...MINIMAL, edit: { directives: { epochs: [4, 2] } } },
      /edit\.directives\.epochs is \[4,2\]; expected a list of two numbers, the smaller one first/,
    ],
    [
      { ...MINIMAL, edit: { directives: { rank: 3 } } },
      /edit\.directives\.rank is 3; expected a list of two numbers/,
    ],
    [
      { ...MINIMAL, edit: { directives: { target: [] } } },
      /edit\.directives\.target is not a known key; expected one of learningRate, epochs/,
    ],
    [
      { ...MINIMAL, edit: { directives: { targets: ['x'] } } },
      /directives\.targets\.0 is "x"; expected one of q_proj/,
    ],
    [
      { ...MINIMAL, edit: { parse: { loss: 'none' } } },
      /edit\.parse\.loss is "none"; expected all, output, or/,
    ],
    [
      { ...MINIMAL, edit: { prompt: 'implication' } },
      /edit\.prompt is "implication"; expected a name \(implications, /,
    ],
    [{ ...MINIMAL, task: { data: '' } }, /task\.data is ""; expected something that is not empty/],
    [{ model: 'm' }, /task is missing; expected a mapping/],
    [{ task: { data: 'd' } }, /model is missing; expected a string/],
    [{ ...MINIMAL, adapt: { targets: [] } }, /adapt\.targets is \[\]; expected something that is not empty/],
    [null, /the configuration is null; expected a mapping/],
    [[], /the configuration is \[\]; expected a mapping/],
  ])('%j is refused by path', (value, message) => {
    expect(() => resolveConfig(value)).toThrow(
      expect.objectContaining({
        code: 'OPTION_INVALID',
        message: expect.stringMatching(message),
        exitCode: 2,
      }),
    );
  });

  it('reports every problem at once', () => {
    expect(() => resolveConfig({ ...MINIMAL, rounds: 0, seed: -1 })).toThrow(/seed is -1.*; rounds is 0/);
  });

  it.each([
    ['model: [a\ntask: 3\n', /c\.yaml line \d+ is not YAML/],
    ['model: a\nmodel: b\n', /c\.yaml line 2 is not YAML: Map keys must be unique/],
    ['model: *nowhere\n', /c\.yaml( line 1)? is not YAML/],
    ['\tmodel: a\n', /c\.yaml line 1 is not YAML/],
  ])('%j is not YAML', async (text, message) => {
    await expect(readConfig(await written(text))).rejects.toMatchObject({
      code: 'INPUT_INVALID',
      message: expect.stringMatching(message) as unknown,
    });
  });

  it('that is missing is FILE_NOT_FOUND', async () => {
    await expect(readConfig(join(folder, 'none.yaml'))).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
  });
});
