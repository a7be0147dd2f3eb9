import { describe, expect, it } from 'vitest';
import {
  checkDirectiveBounds,
  DIRECTIVE_DEFAULTS,
  type DirectiveBounds,
  directedOptions,
} from '../../lib/edit/directives.js';
import { parseEdit } from '../../lib/edit/parse.js';
import { type DirectiveReading, readDirectives } from '../../lib/edit/read-directives.js';
import { KNOWLEDGE_AUGMENTATIONS } from '../../lib/task/augmentations.js';

const scope = { layers: 4, augmentations: ['repeat', 'basic', 'size', 'chain'] };
const read = (text: string, bounds: Partial<DirectiveBounds> = {}): DirectiveReading =>
  readDirectives(text, { ...DIRECTIVE_DEFAULTS, ...bounds }, scope);

describe('reading directives', () => {
  const all = {
    learningRate: 0.002,
    epochs: 3,
    rank: 8,
    targets: ['up_proj', 'q_proj'],
    layers: [1, 3],
    loss: 'output',
    augmentations: ['repeat'],
  };

  it('takes the object out of the text, wherever its line is', () => {
    const object = JSON.stringify(all);
    const expected = { text: 'A b.\nC d.', directives: all };
    expect(read(`${object}\nA b.\nC d.`)).toEqual(expected);
    expect(read(`A b.\n  ${object}\nC d.`)).toEqual(expected);
    expect(read(`A b.\nC d.\n${JSON.stringify(all, null, 2)}`)).toEqual(expected);
    expect(read(`\`\`\`json\n${object}\n\`\`\`\nA b.\nC d.`)).toEqual(expected);
    expect(read(`${object} A b.\nC d.`)).toEqual(expected);
    expect(read('{"epochs": 2}')).toEqual({ text: '', directives: { epochs: 2 } });
    expect(read('{}\nA.')).toEqual({ text: 'A.', directives: {} });
  });

  it('leaves a text without them as it is, unless they are required', () => {
    expect(read('A set {1, 2} of things.')).toEqual({ text: 'A set {1, 2} of things.' });
    expect(read('A b.', { required: true })).toMatchObject({ invalid: 'directives-not-json' });
  });

  it('takes a name once, however often it is named', () => {
    const twice = {
      targets: ['q_proj', 'q_proj'],
      layers: [3, 1, 3],
      augmentations: Array(99).fill('repeat'),
    };
    const once = { targets: ['q_proj'], layers: [3, 1], augmentations: ['repeat'] };
    expect(read(JSON.stringify(twice))).toEqual({ text: '', directives: once });
  });

  it('reads the published form of the few-shot domain', () => {
    const data_generation = {
      use_basic_augmentations: true,
      use_size_augmentations: false,
      use_chain_augmentations: true,
      use_repeat_augmentations: false,
    };
    const training = { strategy: 'train_using_output_tokens', learning_rate: 1e-4, num_train_epochs: 2 };
    const directives = { learningRate: 1e-4, epochs: 2, loss: 'output', augmentations: ['basic', 'chain'] };
    expect(read(JSON.stringify({ data_generation, training }))).toEqual({ text: '', directives });
    expect(read(JSON.stringify({ data_generation, training_config: training }, null, 2))).toEqual({
      text: '',
      directives,
    });
    const every = JSON.stringify({
      data_generation: {},
      training: { ...training, strategy: 'train_using_all_tokens' },
    });
    expect(read(every)).toMatchObject({ directives: { loss: 'all', augmentations: [] } });
    for (const [wrong, detail] of [
      [{ ...training, strategy: 'x' }, /training.strategy is "x"; expected train_using_all_tokens or/],
      [{ ...training, learning_rate: '1e-4' }, /training.learning_rate is "1e-4"; expected a number/],
      [{ ...training, num_train_epochs: 2.5 }, /epochs is 2.5; expected whole/],
      [{ ...training, num_train_epochs: 50 }, /epochs is 50; expected a number from 1 to 20/],
      [undefined, /training is missing/],
    ] as const) {
      const found = read(JSON.stringify({ data_generation, training: wrong }));
      expect(found).toMatchObject({
        invalid: 'directives-out-of-bounds',
        detail: expect.stringMatching(detail),
      });
    }
  });

  it.each([
    ['{"epochs": 2', /does not end/],
    ['{epochs: 2}', /is not JSON/],
    ["{'epochs': 2}", /is not JSON/],
    ['{"epochs": 2,}', /is not JSON/],
    ['{"epochs": NaN}', /is not JSON/],
    [`{"epochs": ${'['.repeat(5000)}`, /does not end/],
    [`{"a": "${'}'.repeat(50)}`, /does not end/],
  ])('%s is not JSON', (text, detail) => {
    expect(read(`${text}\nA b.`)).toMatchObject({
      invalid: 'directives-not-json',
      detail: expect.stringMatching(detail),
    });
  });

  it.each([
    [{ epochs: 0 }, /epochs is 0; expected a number from 1 to 20/],
    [{ epochs: 1e9 }, /epochs/],
    [{ epochs: 2.5 }, /epochs is 2.5; expected whole/],
    [{ epochs: '2' }, /epochs is "2"/],
    [{ epochs: null }, /epochs is null/],
    [{ learningRate: 0.5 }, /learningRate is 0.5; expected a number from 0.00001 to 0.01/],
    [{ learningRate: -1 }, /learningRate/],
    [{ rank: 1000 }, /rank/],
    [{ targets: ['embed_tokens'] }, /targets.0 is "embed_tokens"; expected one of q_proj/],
    [{ targets: [] }, /targets is \[\]; expected a list that is not empty/],
    [{ targets: 'q_proj' }, /targets/],
    [{ layers: [4] }, /layers.0 is 4; expected a number from 0 to 3/],
    [{ layers: [-1] }, /layers.0/],
    [{ loss: 'none' }, /loss is "none"; expected one of all, output/],
    [
      { augmentations: ['rotate'] },
      /augmentations.0 is "rotate"; expected one of repeat, basic, size, chain/,
    ],
    [{ sudo: true }, /"sudo" is not a directive/],
    [{ constructor: 1 }, /"constructor" is not a directive/],
  ])('%j is out of bounds', (object, detail) => {
    const found = read(`${JSON.stringify(object)}\nA b.`);
    expect(found).toMatchObject({
      invalid: 'directives-out-of-bounds',
      detail: expect.stringMatching(detail),
    });
  });

  it('keeps to bounds of the caller', () => {
    expect(read('{"epochs": 30}', { epochs: [25, 30] })).toMatchObject({ directives: { epochs: 30 } });
    expect(read('{"epochs": 20}', { epochs: [25, 30] })).toMatchObject({
      invalid: 'directives-out-of-bounds',
    });
    expect(read('{"layers": [1]}', { layers: [2, 9] })).toMatchObject({
      detail: expect.stringContaining('2 to 3'),
    });
    expect(read('{"loss": "all"}', { loss: ['output'] })).toMatchObject({
      invalid: 'directives-out-of-bounds',
    });
    expect(read('{"targets": ["q_proj"]}', { targets: ['v_proj'] })).toMatchObject({
      invalid: 'directives-out-of-bounds',
    });
    expect(read('{"augmentations": ["size"]}', { augmentations: ['repeat'] })).toMatchObject({
      detail: expect.stringContaining('expected one of repeat'),
    });
  });
});

describe('what directives override', () => {
  const run = { rank: 32, alpha: 64, targets: ['q_proj', 'v_proj'] };
  it('is what they name; the scale of the delta stays', () => {
    expect(directedOptions({}, run)).toEqual({});
    expect(directedOptions({ learningRate: 1e-3, epochs: 2, loss: 'all', augmentations: [] }, run)).toEqual({
      learningRate: 1e-3,
      epochs: 2,
    });
    expect(directedOptions({ rank: 8 }, run)).toEqual({ rank: 8, alpha: 16 });
    expect(directedOptions({ targets: ['up_proj'] }, run)).toEqual({ targets: ['up_proj'] });
    expect(directedOptions({ layers: [0, 2] }, run).targets).toEqual([
      'layers.0.*.q_proj',
      'layers.0.*.v_proj',
      'layers.2.*.q_proj',
      'layers.2.*.v_proj',
    ]);
    expect(directedOptions({ layers: [1] }, { ...run, targets: ['all'] }).targets).toEqual(['layers.1.*']);
  });
});

describe('bounds', () => {
  const check = (given: Partial<DirectiveBounds>, targets = ['q_proj']) =>
    checkDirectiveBounds(given, scope, { targets });
  it('are refused when no edit could keep them or no run follow them', () => {
    expect(() => check({})).not.toThrow();
    expect(() =>
      check({ layers: [0, 3], targets: ['up_proj'], augmentations: ['size'] }, ['all']),
    ).not.toThrow();
    for (const [given, message] of [
      [{ epochs: [5, 2] }, /epochs is \[5,2\]; expected two whole numbers from 1/],
      [{ epochs: [1.5, 2] }, /epochs/],
      [{ learningRate: [0, Number.POSITIVE_INFINITY] }, /learningRate/],
      [{ rank: [0, 2] }, /rank/],
      [{ layers: [0, 4] }, /layers of the model, 0 to 3/],
      [{ targets: ['embed_tokens'] }, /targets is "embed_tokens"/],
      [{ targets: [] }, /targets/],
      [{ augmentations: ['rotate'] }, /augmentations is "rotate"; expected what the task offers: repeat/],
    ] as const) {
      expect(() => check(given as unknown as Partial<DirectiveBounds>)).toThrow(
        expect.objectContaining({ code: 'OPTION_INVALID', message: expect.stringMatching(message) }),
      );
    }
    expect(() => check({}, ['layers.3.*'])).toThrow(/adapt.targets to be modules/);
  });
});

describe('an edit with directives', () => {
  const passage = { title: 'Otrar', context: 'It was a town. It fell.' };
  const parse = (text: string, more = {}, opening = '') =>
    parseEdit(
      text,
      passage,
      { directives: {}, layers: 4, augmentations: KNOWLEDGE_AUGMENTATIONS, ...more },
      opening,
    );

  it('is trained on the rest of its text, as they say', () => {
    expect(parse('{"epochs": 2}\nA b.\nC d.')).toEqual({
      kind: 'text',
      text: '{"epochs": 2}\nA b.\nC d.',
      documents: ['Otrar\nA b.', 'Otrar\nC d.', 'Otrar\nIt was a town. It fell.'],
      directives: { epochs: 2 },
    });
    expect(parse('{"loss": "output"}\nA b.').documents[0]).toEqual({ text: 'Otrar\nA b.', spans: [[6, 10]] });
    expect(parse('2}\nA b.', {}, '{"epochs": ')).toMatchObject({ directives: { epochs: 2 } });
  });

  it('is trained on the passage alone when it is nothing but directives', () => {
    const { documents, invalid } = parse('{"epochs": 2}');
    expect(documents).toEqual(['Otrar\nIt was a town. It fell.']);
    expect(invalid).toBeUndefined();
    expect(parse('{"epochs": 2}', { passageLast: false }).invalid).toBe('empty');
  });

  it('gets the documents of the augmentations that it names', () => {
    const documents = (...augmentations: string[]) =>
      parse(`${JSON.stringify({ augmentations })}\nA b. C d!`).documents.map((text) =>
        (text as string).slice(6),
      );
    const [own, last] = ['A b. C d!', 'It was a town. It fell.'];
    expect(documents()).toEqual([own, last]);
    expect(documents('repeat')).toEqual([own, own, last, last]);
    expect(documents('reverse')).toEqual([own, 'C d! A b.', 'It fell. It was a town.', last]);
    expect(documents('sentences')).toEqual([own, 'A b.', 'C d!', 'It was a town.', 'It fell.', last]);
  });

  it('is invalid with a reason when they cannot be followed', () => {
    expect(parse('{"epochs": 99}\nA b.')).toEqual({
      kind: 'text',
      text: '{"epochs": 99}\nA b.',
      documents: [],
      invalid: 'directives-out-of-bounds',
      detail: 'epochs is 99; expected a number from 1 to 20',
    });
    expect(parse('{"epochs"\nA b.')).toMatchObject({ invalid: 'directives-not-json' });
    // Where they are off, the object is a line like any other.
    expect(parseEdit('{"epochs": 99}\nA b.', passage).documents[0]).toBe('Otrar\n{"epochs": 99}');
  });

  it('is read in time that grows with its length only', () => {
    const hostile = [
      `{${'{'.repeat(200_000)}`,
      '{"a": 1}\n'.repeat(50_000),
      '```json\n'.repeat(50_000),
      `${' '.repeat(300_000)}{`,
    ];
    for (const text of hostile) expect(parse(`x\n${text}`).kind).toBe('text');
    const lines = `x${'\u2028'.repeat(300_000)}x`;
    expect(read(lines)).toEqual({ text: lines });
  });
});
