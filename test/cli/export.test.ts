// `export`: what is written loads again and changes the model as its source does.
import { cpSync, existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { Delta, Model, Policy } from '../../lib/index.js';
import { checkpointPolicy } from '../../lib/run/checkpoint.js';
import { fixture } from '../support/fixtures.js';
import { bits } from '../support/tiny.js';
import { selfedit, temporaryFolder } from './helpers.js';

const TINY = fixture('models', 'llama-tied');
const ADAPTER = fixture('peft', 'q-v', 'after-20');
const folder = temporaryFolder();
const at = (name: string) => join(folder, name);

/** Bits of all factors, in order. */
function factorsOf(delta: Delta): string[] {
  return delta.parts.map((_, part) => {
    const { a, b } = delta.factors(part);
    return `${bits(a)} ${bits(b)}`;
  });
}

describe('export of an adapter', () => {
  it.each([
    ['peft', 'peft', 'peft'],
    ['gguf-lora', 'own.gguf', 'own.gguf'],
    ['gguf-lora', 'named', 'named/adapter.gguf'],
  ])('as %s to %s', async (format, out, path) => {
    const run = await selfedit(['export', ADAPTER, '--format', format, '--out', at(out), '--model', TINY]);
    expect([run.code, run.stderr]).toEqual([0, '']);
    expect(JSON.parse(run.stdout)).toEqual({ format, path: at(path), model: TINY });
    await using model = await Model.load(TINY);
    await using first = await Delta.load(model, ADAPTER);
    await using back = await Delta.load(model, at(path));
    expect(factorsOf(back)).toEqual(factorsOf(first));
  });

  it('as a merged model, cut as asked', async () => {
    const options = ['--format', 'merged', '--max-shard-size', '60KB', '--dtype', 'float32'];
    const run = await selfedit(['export', ADAPTER, ...options, '--out', at('merged'), '--model', TINY]);
    expect([run.code, run.stderr]).toEqual([0, '']);
    expect(readdirSync(at('merged'))).toContain('model.safetensors.index.json');
    await using model = await Model.load(TINY);
    await using merged = await Model.load(at('merged'));
    await using delta = await Delta.load(model, ADAPTER);
    await using fork = model.fork().apply(delta);
    await using unchanged = merged.fork();
    for (const { matrix } of delta.parts) {
      expect(bits(await unchanged.weight(matrix))).toBe(bits(await fork.weight(matrix)));
    }
  });
});

describe('export of a run', () => {
  const policy = { rank: 4, alpha: 8, targets: ['q_proj', 'v_proj'] };

  async function writeRun(name: string, rounds: readonly number[]): Promise<string> {
    const run = at(name);
    mkdirSync(run);
    writeFileSync(join(run, 'config.json'), JSON.stringify({ model: TINY, policy, seed: 1 }));
    await using model = await Model.load(TINY);
    for (const round of rounds) {
      await using own = Policy.create(model, { ...policy, seed: round });
      mkdirSync(join(checkpointPolicy(run, round), '..'), { recursive: true });
      await own.save(checkpointPolicy(run, round));
    }
    return run;
  }
  async function exported(run: string, out: string, ...options: string[]): Promise<string[]> {
    const { code, stderr } = await selfedit([
      'export',
      run,
      '--format',
      'peft',
      '--out',
      at(out),
      ...options,
    ]);
    expect([code, stderr]).toEqual([0, '']);
    await using model = await Model.load(TINY);
    await using delta = await Delta.load(model, at(out));
    return factorsOf(delta);
  }
  async function policyOf(round: number): Promise<string[]> {
    await using model = await Model.load(TINY);
    await using own = Policy.create(model, { ...policy, seed: round });
    await using delta = own.delta();
    return factorsOf(delta);
  }

  it('takes the newest checkpoint, the one of a round, or the finished policy', async () => {
    const run = await writeRun('run', [2, 5]);
    expect(await exported(run, 'newest')).toEqual(await policyOf(5));
    expect(await exported(run, 'second', '--round', '2')).toEqual(await policyOf(2));
    cpSync(ADAPTER, join(run, 'policy'), { recursive: true });
    await using model = await Model.load(TINY);
    await using delta = await Delta.load(model, ADAPTER);
    expect(await exported(run, 'finished')).toEqual(factorsOf(delta));
  });

  it('names the rounds that there are', async () => {
    const run = await writeRun('rounds', [2, 5]);
    const { code, stderr } = await selfedit([
      ...['export', run, '--format', 'peft', '--out', at('none'), '--round', '3'],
    ]);
    expect(code).toBe(2);
    expect(stderr).toContain('checkpoints of the rounds 2, 5; expected round 3');
    expect(existsSync(at('none'))).toBe(false);
  });
});

describe('export refuses', () => {
  mkdirSync(at('full'));
  writeFileSync(at('full/file'), '');
  writeFileSync(at('taken.gguf'), '');
  it.each([
    ['a base that is nowhere', ['--format', 'peft', '--out', at('o')], 'expected --model with its path'],
    [
      'a folder with contents',
      ['--format', 'peft', '--out', at('full'), '--model', 'x.gguf'],
      'is not empty',
    ],
    [
      'a file that is there',
      ['--format', 'gguf-lora', '--out', at('taken.gguf'), '--model', 'x.gguf'],
      'taken.gguf exists already',
    ],
    ['--dtype for an adapter', ['--format', 'peft', '--out', at('o'), '--dtype', 'float16'], '--dtype with'],
    ['sizes of shards', ['--format', 'peft', '--out', at('o'), '--max-shard-size', '1GB'], 'shard-size with'],
    ['a round of an adapter', ['--format', 'peft', '--out', at('o'), '--round', '1'], '--round with'],
    ['no size', ['--format', 'merged', '--out', at('o'), '--max-shard-size', '4TB'], 'Expected a size'],
  ])('%s, before it loads anything', async (_name, options, words) => {
    const { code, stdout, stderr } = await selfedit(['export', ADAPTER, ...options]);
    expect([code, stdout]).toEqual([2, '']);
    expect(stderr).toContain(words);
  });
});
