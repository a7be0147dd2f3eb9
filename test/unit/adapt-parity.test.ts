// The inner loop against transformers + PEFT + torch AdamW, step by step and in the resulting ΔW = scale · B A.
import { describe, expect, it } from 'vitest';
import { type AdaptOptions, adapt, Delta, Model } from '../../lib/index.js';
import { fixture, readJson, relativeDifference } from '../support/fixtures.js';
import { product } from '../support/product.js';

interface Spec {
  model: string;
  settings: Omit<AdaptOptions, 'betas' | 'shuffle'> & { beta1: number; beta2: number };
  documents: number[][];
  lossMask: number[][] | null;
  baseAdapter: string | null;
  init: string;
  snapshots: { step: number; adapter: string }[];
  loss: number[];
}

const NAMES = [
  'q-v',
  'q-v-init-b',
  'all-seven',
  'batch-two',
  'cosine-warmup',
  'loss-mask',
  'weight-decay',
  'stacked',
  'mistral',
  'qwen2-windows',
  'qwen3',
  'gemma3',
  'phi3',
];

describe.each(NAMES)('%s', (name) => {
  const spec = readJson<Spec>('peft', name, 'spec.json');
  const { beta1, beta2, ...settings } = spec.settings;
  const options = { ...settings, betas: [beta1, beta2] as const, shuffle: false };

  // Epochs decide the schedule, so a snapshot before the end is the same training stopped early: the losses up to there
  // say as much, and the last snapshot is compared whole.
  it('has the losses and the final ΔW of PEFT', async () => {
    await using model = await Model.load(fixture('peft', name, spec.model));
    await using fork = model.fork();
    if (spec.baseAdapter) fork.apply(await Delta.load(model, fixture('peft', name, spec.baseAdapter)));
    const init = await Delta.load(model, fixture('peft', name, spec.init));
    const lossMask = spec.lossMask?.map((mask) => Uint8Array.from(mask));
    const [found] = await adapt(
      [{ fork, documents: spec.documents, init, ...(lossMask ? { lossMask } : {}) }],
      options,
    );
    const last = spec.snapshots.at(-1)!;
    expect(found!.steps).toBe(last.step);
    for (const [step, loss] of spec.loss.entries()) {
      expect(Math.abs(found!.loss[step]! - loss) / loss, `loss of step ${step}`).toBeLessThan(1e-3);
    }
    const expected = await Delta.load(model, fixture('peft', name, last.adapter));
    expect(found!.delta.parts).toEqual(expected.parts);
    for (const part of expected.parts.keys()) {
      const gap = relativeDifference(product(found!.delta, part), product(expected, part));
      expect(gap, model.matrices[expected.parts[part]!.matrix]!.name).toBeLessThan(1e-3);
    }
  });
});
