// What every architecture must do beyond parity: each fact of its configuration counts, rows over a window decode as they
// score, policies learn.
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { generate, Model, Policy, score } from '../../lib/index.js';
import { fixture, largestGap, readJson } from '../support/fixtures.js';
import { bits, deltaOf, tokensOf } from '../support/tiny.js';

const NAMES = [
  'llama-yarn',
  'mistral',
  'qwen2-windows',
  'qwen3',
  'qwen3-bias-windows',
  'gemma3',
  'gemma3-untied',
  'phi3',
  'phi3-longrope',
];
const VOCABULARY = 96;

/** Log-probs of the fixture's rows by the folder with keys of its config.json changed. */
async function changed(name: string, change: object): Promise<Float32Array[]> {
  const folder = await mkdtemp(join(tmpdir(), 'selfedit-changed-'));
  try {
    await cp(fixture('models', name), folder, { recursive: true });
    const path = join(folder, 'config.json');
    await writeFile(path, JSON.stringify({ ...JSON.parse(await readFile(path, 'utf8')), ...change }));
    await using model = await Model.load(folder);
    const { rows } = readJson<{ rows: { tokens: number[] }[] }>('models', name, 'expected.json');
    return await score(rows.map(({ tokens }) => ({ fork: model, tokens })));
  } finally {
    await rm(folder, { recursive: true });
  }
}

// A key that nothing reads would pass every parity test whose value happens to be the default.
describe('a fact of config.json that is changed changes the log-probs', () => {
  it.each<[string, object]>([
    ['llama-yarn', { rope_scaling: null }],
    ['mistral', { sliding_window: 8 }],
    ['mistral', { sliding_window: null }],
    ['qwen2-windows', { max_window_layers: 2, layer_types: null }],
    ['qwen2-windows', { use_sliding_window: false, layer_types: null }],
    ['qwen3', { rms_norm_eps: 1e-3 }],
    ['gemma3', { query_pre_attn_scalar: 14 }],
    ['gemma3', { sliding_window_pattern: 2 }],
    ['gemma3', { rope_local_base_freq: 1000000 }],
    ['gemma3', { rope_scaling: null }],
    ['gemma3', { rope_theta: 10000 }],
    ['gemma3', { hidden_activation: 'silu' }],
    ['phi3', { sliding_window: null }],
    ['phi3-longrope', { max_position_embeddings: 256 }],
  ])('%s: %o', async (name, change) => {
    const expected = await changed(name, {});
    const found = await changed(name, change);
    const gap = Math.max(...found.map((row, r) => largestGap(row, expected[r]!)));
    expect(gap).toBeGreaterThan(1e-3);
  });
});

describe.each(NAMES)('%s', (name) => {
  it('samples of one prompt, decoded over the window, have the log-probs that scoring gives', async () => {
    await using model = await Model.load(fixture('models', name));
    await using fork = model.fork().apply(deltaOf(model, { size: 0.1 }));
    const prompts = [3, 9, 20].map((length, seed) => tokensOf(length, seed, VOCABULARY));
    const rows = prompts.map((prompt, r) => ({ fork: r === 1 ? model : fork, prompt, samples: 4 }));
    // Fewer rows at once than samples: finished ones are replaced.
    const options = { maxTokens: 24, seed: 5, stopTokens: [2], maxRows: 5 };
    const found = await generate(rows, options);
    expect(found).toHaveLength(12);
    const whole = found.map(({ prompt, tokens }) => Int32Array.of(...prompt, ...tokens));
    const scored = await score(whole.map((tokens, i) => ({ fork: rows[found[i]!.row]!.fork, tokens })));
    for (const [i, { prompt, logprobs }] of found.entries()) {
      expect(largestGap(logprobs, scored[i]!.subarray(prompt.length))).toBeLessThan(1e-4);
    }
    const alone = await generate([{ ...rows[2]!, seed: 7 }], options);
    const together = await generate([rows[0]!, { ...rows[2]!, seed: 7 }], options);
    expect(together.slice(4).map(({ logprobs }) => bits(logprobs))).toEqual(
      alone.map(({ logprobs }) => bits(logprobs)),
    );
  });

  it('a policy step makes rewarded tokens likelier and leaves the model as it was', async () => {
    await using model = await Model.load(fixture('models', name));
    await using policy = Policy.create(model, { rank: 2, alpha: 4, targets: ['all'] });
    const tokens = [18, 30].map((length, seed) => tokensOf(length, seed + 9, VOCABULARY));
    const before = await score(tokens.map((row) => ({ fork: model, tokens: row })));
    const rows = tokens.map((row, r) => ({
      tokens: row,
      promptLength: 6,
      oldLogprobs: before[r]!,
      advantages: new Float32Array(row.length).fill(r === 0 ? 1 : -1),
    }));
    const step = { rows, normalizer: 30, learningRate: 1e-2 };
    const dry = await policy.step({ ...step, dryRun: true });
    expect(dry.maxLogprobGap).toBeLessThan(1e-4);
    expect(dry.gradNorm).toBeGreaterThan(1e-3);
    for (let i = 0; i < 5; i++) await policy.step(step);
    await using fork = policy.fork();
    const after = await score(tokens.map((row) => ({ fork, tokens: row })));
    const sum = (row: Float32Array) => row.subarray(6).reduce((total, value) => total + value, 0);
    expect(sum(after[0]!)).toBeGreaterThan(sum(before[0]!));
    expect(sum(after[1]!)).toBeLessThan(sum(before[1]!));
    const unedited = await score(tokens.map((row) => ({ fork: model, tokens: row })));
    expect(unedited.map(bits)).toEqual(before.map(bits));
  });
});
