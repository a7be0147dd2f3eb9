/** Patterns that choose matrices. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Model, resolveTargets } from '../../lib/index.js';
import { failureOf, tinyModel } from '../support/tiny.js';

let model: Model;
beforeAll(async () => {
  model = await tinyModel(
    {},
    { layers: 12, hiddenSize: 8, intermediateSize: 8, heads: 1, kvHeads: 1, headDim: 4 },
  );
});
afterAll(() => model.close());

/** Names without their common beginning. */
const chosen = (...patterns: string[]): string[] =>
  Array.from(resolveTargets(model, patterns), (id) => model.matrices[id]!.name.replace('model.layers.', ''));
const inLayers = (layers: number[], end: string): string[] => layers.map((layer) => `${layer}.${end}`);
const ALL = [...Array(12).keys()];

describe('a pattern', () => {
  it('is a module, in every layer', () => {
    expect(chosen('v_proj')).toEqual(inLayers(ALL, 'self_attn.v_proj'));
  });
  it('is a full name or the end of one, at a dot', () => {
    expect(chosen('model.layers.3.mlp.up_proj')).toEqual(['3.mlp.up_proj']);
    expect(chosen('layers.1.mlp.up_proj')).toEqual(['1.mlp.up_proj']); // not layer 11
    expect(chosen('1.mlp.up_proj')).toEqual(['1.mlp.up_proj']);
    expect(chosen('mlp.down_proj')).toEqual(inLayers(ALL, 'mlp.down_proj'));
  });
  it('has * for any run of characters and ? for one', () => {
    expect(chosen('layers.2.*')).toEqual(
      ['q', 'k', 'v', 'o']
        .map((m) => `2.self_attn.${m}_proj`)
        .concat(['gate', 'up', 'down'].map((m) => `2.mlp.${m}_proj`)),
    );
    expect(chosen('layers.1?.*.q_proj')).toEqual(inLayers([10, 11], 'self_attn.q_proj'));
    expect(chosen('layers.*1.self_attn.k_proj')).toEqual(inLayers([1, 11], 'self_attn.k_proj'));
    expect(chosen('?_proj').length).toBe(12 * 4);
    expect(chosen('*').length).toBe(12 * 7);
  });
  it('is all', () => {
    expect(Array.from(resolveTargets(model, ['all']))).toEqual([...Array(84).keys()]);
  });
  it('is taken by the letter otherwise', async () => {
    for (const pattern of ['q.proj', '(q|v)_proj', 'q_proj$', '[qv]_proj', 'Q_PROJ', 'proj', 'q_proj ']) {
      expect(await failureOf(() => resolveTargets(model, [pattern])), pattern).toMatchObject({
        code: 'TARGET_UNKNOWN',
      });
    }
  });
});

it('several patterns choose each matrix once, in the order of ids', () => {
  const ids = resolveTargets(model, ['v_proj', 'layers.0.*', 'q_proj', 'v_proj']);
  expect(Array.from(ids)).toEqual([...new Set(ids)].sort((a, b) => a - b));
  expect(ids.length).toBe(7 + 11 * 2);
});

it('one that matches nothing is named, with what there is', async () => {
  const error = await failureOf(() => resolveTargets(model, ['q_proj', 'w_proj']));
  expect(error).toMatchObject({ name: 'DeltaError', code: 'TARGET_UNKNOWN', exitCode: 2 });
  expect(error.message).toContain('"w_proj"');
  expect(error.message).toContain(
    'q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj in layers 0 to 11, and beyond them embed_tokens',
  );
  expect(await failureOf(() => resolveTargets(model, []))).toMatchObject({ code: 'TARGET_UNKNOWN' });
  expect(await failureOf(() => resolveTargets(model, ['']))).toMatchObject({ code: 'TARGET_UNKNOWN' });
});
