/** The same calls on the CPU and on a GPU: the CPU's results are themselves compared with transformers and PEFT. */
import { beforeEach, describe, expect, it } from 'vitest';
import { adapt, type Delta, generate, Model, type ScoreRow, score } from '../../lib/index.js';
import { fixture, relativeDifference } from '../support/fixtures.js';
import { addProduct, deltaOf, tokensOf } from '../support/tiny.js';
import { whyNoGpu } from './support.js';

/** ΔW of all parts, one after the other, in float64. */
function change(delta: Delta): Float64Array {
  const parts = delta.parts.map((part, p) => {
    const { out, in: width } = delta.model.matrices[part.matrix]!;
    return addProduct(new Float64Array(out * width), part, delta.factors(p));
  });
  return Float64Array.from(parts.flatMap((part) => [...part]));
}

/** Runs `work` on both devices; each gets a model of its own. */
async function onBoth<T>(name: string, work: (model: Model) => Promise<T>): Promise<{ cpu: T; gpu: T }> {
  const run = async (device: string) => {
    await using model = await Model.load(fixture('models', name), { device });
    expect(model.device).toBe(device);
    return work(model);
  };
  return { cpu: await run('cpu'), gpu: await run('cuda:0') };
}

describe.each(['llama-tied', 'llama-untied-bias', 'qwen2'])('%s', (name) => {
  const missing = whyNoGpu();
  beforeEach(({ skip }) => {
    if (missing) skip(`no GPU: ${missing}`);
  });

  /** Rows of one token and of many, under no delta and under one. */
  async function withRows<T>(model: Model, work: (rows: ScoreRow[]) => Promise<T>): Promise<T> {
    await using delta = deltaOf(model);
    await using fork = model.fork().apply(delta);
    const { vocabSize } = model.config;
    const lengths = [1, 2, 17, 40];
    return work(
      lengths.flatMap((length, l) =>
        [model, fork].map((owner) => ({ fork: owner, tokens: tokensOf(length, l + 1, vocabSize) })),
      ),
    );
  }

  it('scores as on the CPU', async () => {
    const { cpu, gpu } = await onBoth(name, (model) => withRows(model, (rows) => score(rows)));
    expect(gpu.map((row) => row.length)).toEqual(cpu.map((row) => row.length));
    for (const [r, row] of cpu.entries()) {
      expect(gpu[r]![0]).toBeNaN();
      for (let i = 1; i < row.length; i++) expect(Math.abs(gpu[r]![i]! - row[i]!)).toBeLessThanOrEqual(1e-4);
    }
  });

  it('generates the same tokens as on the CPU when greedy', async () => {
    const { cpu, gpu } = await onBoth(name, (model) =>
      withRows(model, async (rows) => {
        const prompts = rows.map(({ fork, tokens }) => ({ fork, prompt: tokens }));
        const generations = await generate(prompts, { temperature: 0, maxTokens: 24 });
        return generations.map(({ tokens }) => [...tokens]);
      }),
    );
    expect(cpu.some((tokens) => tokens.length > 1)).toBe(true);
    expect(gpu).toEqual(cpu);
  });

  it('learns the same ΔW as on the CPU', async () => {
    const { cpu, gpu } = await onBoth(name, async (model) => {
      const { vocabSize } = model.config;
      const edits = [1, 2, 3].map((e) => ({
        fork: model,
        documents: Array.from({ length: e }, (_, d) => tokensOf(9 + 5 * d, 10 * e + d, vocabSize)),
      }));
      const adapted = await adapt(edits, { rank: 4, alpha: 8, epochs: 3, seed: 5 });
      return adapted.map(({ delta, loss }) => ({ change: change(delta), loss: [...loss] }));
    });
    for (const [e, edit] of cpu.entries()) {
      expect(gpu[e]!.loss).toHaveLength(edit.loss.length);
      expect(Math.max(...edit.change.map(Math.abs))).toBeGreaterThan(0);
      expect(relativeDifference(gpu[e]!.change, edit.change)).toBeLessThanOrEqual(1e-3);
    }
  });
});
