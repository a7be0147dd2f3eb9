// Policy.step against an independent float64 implementation of the objective (scripts/fixtures/ppo.py).
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import {
  Model,
  Policy,
  type PolicyMinibatch,
  type PolicyRow,
  type PolicyStepStats,
  score,
} from '../../lib/index.js';
import { fixture, largestGap, readJson, relativeDifference } from '../support/fixtures.js';

interface Fixture {
  model: string;
  policy: {
    rank: number;
    alpha: number;
    targets: string[];
    matrices: string[];
    valueHead: boolean;
    valueBias: number;
  };
  spec: Omit<PolicyMinibatch, 'rows'>;
  rows: {
    tokens: number[];
    actionMask: number[];
    oldLogprobs: (number | null)[];
    advantages: number[];
    referenceLogprobs?: number[];
    returns?: number[];
    oldValues?: number[];
    importance?: number[];
  }[];
  logprobs: (number | null)[][];
  values: (number | null)[][] | null;
  expected: Record<keyof PolicyStepStats, number | null>;
  parameters: string;
  gradients: string;
  updated: string;
  updatedTwice: string;
}

function floats(base64: string): Float32Array {
  return new Float32Array(Uint8Array.from(Buffer.from(base64, 'base64')).buffer);
}

function rowsOf(data: Fixture): PolicyRow[] {
  const array = (values: (number | null)[] | undefined): Float32Array | undefined =>
    values && Float32Array.from(values, (value) => value ?? Number.NaN);
  return data.rows.map((row) => ({
    tokens: Int32Array.from(row.tokens),
    promptLength: 1,
    actionMask: Uint8Array.from(row.actionMask),
    advantages: array(row.advantages)!,
    oldLogprobs: array(row.oldLogprobs),
    referenceLogprobs: array(row.referenceLogprobs),
    returns: array(row.returns),
    oldValues: array(row.oldValues),
    importance: array(row.importance),
  }));
}

it('begins anew with a fresh optimizer, also after it was saved and loaded', async () => {
  const data = readJson<Fixture>('ppo', 'weight-decay.json');
  const step = { ...data.spec, rows: rowsOf(data) };
  await using model = await Model.load(fixture('ppo', data.model));
  await using used = Policy.create(model, data.policy);
  used.setParameters(floats(data.parameters));
  await used.step(step);
  await used.step(step);
  used.resetOptimizer();
  expect(used.version).toBe(2);
  await used.step(step);
  const folder = await mkdtemp(join(tmpdir(), 'selfedit-policy-'));
  const path = join(folder, 'policy.safetensors');
  await used.save(path);
  await using loaded = Policy.create(model, data.policy);
  await loaded.load(path);
  await rm(folder, { recursive: true });

  await using fresh = Policy.create(model, data.policy);
  fresh.setParameters(floats(data.updatedTwice));
  await fresh.step(step);
  expect(relativeDifference(used.parameters(), fresh.parameters())).toBeLessThan(1e-5);
  for (const policy of [used, loaded, fresh]) await policy.step(step);
  expect(loaded.version).toBe(4);
  expect(loaded.parameters()).toEqual(used.parameters());
  expect(relativeDifference(used.parameters(), fresh.parameters())).toBeLessThan(1e-5);
});

describe.each(['clip', 'everything', 'value-start', 'weight-decay', 'nll', 'nll-kl'])('%s', (name) => {
  const data = readJson<Fixture>('ppo', `${name}.json`);

  async function create(): Promise<{ model: Model; policy: Policy }> {
    const model = await Model.load(fixture('ppo', data.model));
    const policy = Policy.create(model, data.policy);
    policy.setParameters(floats(data.parameters));
    return { model, policy };
  }

  it('has the statistics and gradients of the float64 twin', async () => {
    const { model, policy } = await create();
    const stats = await policy.step({ ...data.spec, rows: rowsOf(data), dryRun: true });
    for (const [key, value] of Object.entries(data.expected)) {
      if (value === null) continue;
      const found = stats[key as keyof PolicyStepStats];
      expect(Math.abs(found - value), `${key}: ${found} for ${value}`).toBeLessThan(
        2e-4 * Math.max(1, Math.abs(value)),
      );
    }
    expect(relativeDifference(policy.gradients(), floats(data.gradients))).toBeLessThan(1e-3);
    expect(policy.version).toBe(0);
    expect(relativeDifference(policy.parameters(), floats(data.parameters))).toBe(0);
    await model.close();
  });

  it('moves to the parameters of the twin in one and in two steps', async () => {
    const { model, policy } = await create();
    const start = floats(data.parameters);
    for (const [step, text] of [data.updated, data.updatedTwice].entries()) {
      await policy.step({ ...data.spec, rows: rowsOf(data) });
      expect(policy.version).toBe(step + 1);
      const expected = floats(text);
      const moved = policy.parameters().map((value, i) => value - start[i]!);
      const wanted = expected.map((value, i) => value - start[i]!);
      expect(relativeDifference(moved, wanted), `step ${step + 1}`).toBeLessThan(1e-2);
    }
    await model.close();
  });

  it('scores and values its tokens as the twin does', async () => {
    const { model, policy } = await create();
    await using fork = policy.fork();
    const tokens = data.rows.map((row) => Int32Array.from(row.tokens));
    const found = await score(
      tokens.map((row) => ({ fork, tokens: row })),
      { temperature: data.spec.temperature ?? 1 },
    );
    for (const [r, expected] of data.logprobs.entries())
      expect(largestGap(found[r]!, expected)).toBeLessThan(1e-4);
    if (data.values) {
      const values = await policy.values(tokens);
      for (const [r, expected] of data.values.entries())
        expect(largestGap(values[r]!, expected)).toBeLessThan(1e-4);
    }
    await model.close();
  });
});
