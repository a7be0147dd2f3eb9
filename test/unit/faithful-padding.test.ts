// `faithfulPadding` against the published inner loop: transformers' Trainer over documents padded as SEAL pads them.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { toTrainingRow } from '../../lib/edit/documents.js';
import { parseEdit } from '../../lib/edit/parse.js';
import {
  type Adapted,
  type AdaptOptions,
  adapt,
  applyEdits,
  Delta,
  Model,
  planAdapt,
} from '../../lib/index.js';
import { fixture, readJson, relativeDifference } from '../support/fixtures.js';
import { product } from '../support/product.js';

interface Spec {
  settings: Partial<AdaptOptions>;
  paddingLength: number;
  endMask: string | null;
  texts: string[];
  inputIds: number[][];
  loss: number[];
}

let model: Model;
beforeAll(async () => {
  model = await Model.load(fixture('models', 'llama-tied'));
});
afterAll(() => model.close());

describe.each(['published', 'short', 'end-mask-batch-two'])('%s', (name) => {
  const spec = readJson<Spec>('padding', name, 'spec.json');
  const { paddingLength } = spec;

  /** The documents as `applyEdits` makes them: the texts, marked behind the published `end_mask_substring`. */
  function rows() {
    const passage = { title: '', context: '' };
    const options = { splitLines: false, splitQuestions: false, passageLast: false };
    return spec.texts.map((text) => {
      const loss = spec.endMask ? { after: spec.endMask } : 'all';
      const [document] = parseEdit(text, passage, { ...options, loss }).documents;
      const { tokens, mask } = toTrainingRow(model.tokenizer, document!);
      const own = mask ?? new Uint8Array(tokens.length).fill(1);
      return { tokens: tokens.subarray(0, paddingLength), mask: own.subarray(0, paddingLength) };
    });
  }
  async function train(more = {}): Promise<Adapted> {
    const documents = rows();
    const init = await Delta.load(model, fixture('padding', name, 'init'));
    const edit = {
      fork: model,
      init,
      documents: documents.map(({ tokens }) => tokens),
      lossMask: documents.map(({ mask }) => mask),
    };
    const call = { ...spec.settings, shuffle: false, faithfulPadding: true, paddingLength, ...more };
    const [adapted] = await adapt([edit], call);
    return adapted!;
  }

  it('has the losses and the final ΔW of the published code', async () => {
    for (const [index, { tokens }] of rows().entries()) {
      const padding = new Array(paddingLength - tokens.length).fill(model.tokenizer.paddingTokenId);
      expect([...tokens, ...padding]).toEqual(spec.inputIds[index]);
    }
    const { loss, delta } = await train();
    expect(loss).toHaveLength(spec.loss.length);
    for (const [step, expected] of spec.loss.entries()) {
      expect(Math.abs(loss[step]! - expected) / expected, `loss of step ${step}`).toBeLessThan(1e-5);
    }
    const after = await Delta.load(model, fixture('padding', name, 'after'));
    for (const part of after.parts.keys()) {
      expect(relativeDifference(product(delta, part), product(after, part))).toBeLessThan(1e-4);
    }
  });

  it('is another objective without it', async () => {
    const { loss } = await train({ faithfulPadding: false });
    expect(Math.abs(loss[0]! - spec.loss[0]!)).toBeGreaterThan(0.1);
  });
});

describe('padded documents', () => {
  const padded = { faithfulPadding: true, paddingLength: 40, epochs: 2, rank: 2 };
  const documents = ['One short line.', 'Another line, which is somewhat longer.'];

  it('are trained to the same bits alone and together with others', async () => {
    const edits = [{ documents: documents.slice(0, 1) }, { documents }, { documents: documents.slice(1) }];
    const slots = edits.map((edit, seed) => ({ ...edit, fork: model, seed }));
    const together = await adapt(slots, padded);
    for (const [index, slot] of slots.entries()) {
      const [alone] = await adapt([slot], padded);
      expect([...together[index]!.loss]).toEqual([...alone!.loss]);
      for (const part of alone!.delta.parts.keys()) {
        expect(together[index]!.delta.factors(part)).toEqual(alone!.delta.factors(part));
      }
    }
  });

  it('are no longer than the context, and a longer document stays as it is', async () => {
    const long = new Array<number>(60).fill(7);
    const whole = { ...padded, paddingLength: 100_000 };
    const { tokens } = await planAdapt([{ fork: model, documents }], { ...whole, maxStepTokens: 1 });
    expect(tokens).toBe(model.config.maxPositions);
    const [kept] = await adapt([{ fork: model, documents: [long] }], padded);
    const [plain] = await adapt([{ fork: model, documents: [long] }], { ...padded, faithfulPadding: false });
    expect([...kept!.loss]).toEqual([...plain!.loss]);
  });

  it('come from edits too, which are cut to the length', async () => {
    const text = 'A line of words that goes on and on. '.repeat(10);
    const edit = { documents: [text], seed: 3 };
    const [edited] = await applyEdits(model.fork(), [edit], padded);
    const cut = model.tokenizer.encode(text).subarray(0, 40);
    const [expected] = await adapt([{ fork: model, documents: [cut], seed: 3 }], padded);
    expect([...edited!.loss]).toEqual([...expected!.loss]);
    await edited!.close();
  });

  it('are refused where they cannot be had', async () => {
    const call = (more: object) => adapt([{ fork: model, documents }], { ...padded, ...more });
    await expect(call({ paddingLength: 1 })).rejects.toMatchObject({
      code: 'OPTION_INVALID',
      message: expect.stringContaining('paddingLength is 1; expected an integer from 2') as unknown,
    });
    await expect(call({ kind: 'sparse' })).rejects.toMatchObject({
      code: 'OPTION_INVALID',
      message: expect.stringContaining('faithfulPadding') as unknown,
    });
  });
});
