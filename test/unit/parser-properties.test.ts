/** Any JSON, any text, and sound files that were damaged: parsed, or refused with a typed error, never anything else. */
import fc from 'fast-check';
import { afterAll, beforeAll, describe, it } from 'vitest';
import { DIRECTIVE_DEFAULTS } from '../../lib/edit/directives.js';
import { parseEdit } from '../../lib/edit/parse.js';
import { readDirectives } from '../../lib/edit/read-directives.js';
import { SelfeditError } from '../../lib/errors.js';
import { configFromJson } from '../../lib/format/config.js';
import { fileModules } from '../../lib/format/file-modules.js';
import { peftTargets } from '../../lib/format/peft-config.js';
import type { Model } from '../../lib/model.js';
import { parseArc } from '../../lib/task/arc/read.js';
import { parseDialogues } from '../../lib/task/dialogue.js';
import { parsePassages } from '../../lib/task/passages.js';
import { parseTokenizer } from '../../lib/tokenizer/schema.js';
import { config, tokenizer } from '../../scripts/fixtures/malformed/tiny.mjs';
import { tinyModel } from '../support/tiny.js';

const RUNS = { numRuns: 500, seed: 6 };
/** Values that tell: edges of types, and names that objects have of themselves. */
const odd = fc.oneof(
  fc.jsonValue({ maxDepth: 3 }) as fc.Arbitrary<unknown>,
  fc.constantFrom<unknown>(null, 0, -1, 0.5, 2 ** 31, 1e300, '', '__proto__', [], {}, true, 'Sequence', [[]]),
);

/** `good` with up to three of its values, at any depth, replaced or removed. */
function damaged(good: unknown): fc.Arbitrary<unknown> {
  const change = fc.record({
    steps: fc.array(fc.nat(20), { minLength: 1, maxLength: 5 }),
    value: odd,
    drop: fc.boolean(),
  });
  return fc.array(change, { minLength: 1, maxLength: 3 }).map((changes) => {
    const copy = structuredClone(good);
    for (const { steps, value, drop } of changes) {
      let at = copy as Record<string, unknown>;
      for (const [depth, step] of steps.entries()) {
        const keys = Object.keys(at);
        const key = keys[step % Math.max(1, keys.length)];
        if (key === undefined) break;
        const next = at[key];
        if (depth + 1 < steps.length && typeof next === 'object' && next !== null)
          at = next as Record<string, unknown>;
        else if (drop && !Array.isArray(at)) delete at[key];
        else at[key] = structuredClone(value);
        if (at !== next) break;
      }
    }
    return copy;
  });
}

function parsesOrRefuses(values: fc.Arbitrary<unknown>, parse: (value: unknown) => unknown): void {
  fc.assert(
    fc.property(values, (value) => {
      try {
        parse(value);
      } catch (error) {
        if (!(error instanceof SelfeditError) || error.code === 'INTERNAL') throw error;
      }
    }),
    RUNS,
  );
}

let model: Model;
beforeAll(async () => {
  model = await tinyModel();
});
afterAll(() => model.close());

const adapter = {
  peft_type: 'LORA',
  r: 2,
  lora_alpha: 4,
  target_modules: ['q_proj'],
  rank_pattern: { q_proj: 3 },
  alpha_pattern: { 'layers.0.*': 8 },
};
const passages = [{ title: 'T', context: 'A text.', questions: [{ question: 'Q?', answer: 'A' }] }];
const squad = {
  data: [{ title: 'T', paragraphs: [{ context: 'C', qas: [{ question: 'Q?', answers: [{ text: 'A' }] }] }] }],
};
const dialogues = [
  { title: 'T', messages: [{ role: 'user', content: 'Hi' }], probes: [{ message: 'What?', answers: ['x'] }] },
];
const grids = { a: { train: [{ input: [[1]], output: [[2]] }], test: [{ input: [[1]], output: [[2]] }] } };
const text = (parse: (source: string) => unknown) => (value: unknown) => parse(JSON.stringify(value) ?? '');

const PARSERS: [name: string, good: readonly unknown[], parse: (value: unknown) => unknown][] = [
  ['config.json', [config], (value) => configFromJson(value)],
  ['tokenizer.json', [tokenizer], (value) => parseTokenizer(value, 'tokenizer.json')],
  [
    'adapter_config.json',
    [adapter],
    text((source) => peftTargets(source, 'adapter_config.json', fileModules(model))),
  ],
  ['passages', [passages, squad], text((source) => parsePassages(source, 'p.json'))],
  ['passages by line', passages, text((source) => parsePassages(source, 'p.jsonl'))],
  ['dialogues', [dialogues], text((source) => parseDialogues(source, 'd.json'))],
  ['ARC tasks', [grids], text((source) => parseArc({ name: 'a.json', text: source }))],
];

describe.each(PARSERS)('%s', (_, good, parse) => {
  it('of any JSON', () => parsesOrRefuses(odd, parse));
  it('damaged', () => {
    for (const value of good) parsesOrRefuses(damaged(value), parse);
  });
});

describe('data sets of any text', () => {
  const readers = {
    parsePassages,
    parseDialogues,
    parseArc: (source: string, name: string) => parseArc({ name, text: source }),
  };
  it.each(Object.entries(readers))('%s', (_, read) => {
    for (const name of ['x.json', 'x.jsonl'])
      parsesOrRefuses(fc.string({ unit: 'binary' }), (value) => read(value as string, name));
  });
});

describe('self-edits', () => {
  const pieces = fc.constantFrom(
    '{',
    '}',
    '"',
    '\n',
    '```json\n',
    '{"epochs": 3}',
    'Question 1:',
    'Answer:',
    '---',
    '1. ',
    '\\',
    '\u2028',
    ' ',
  );
  const edit = fc
    .array(fc.oneof(pieces, fc.string({ unit: 'binary' })), { maxLength: 30 })
    .map((parts) => parts.join(''));
  const directives = fc.oneof(
    edit,
    damaged({ epochs: 3, learningRate: 1e-4 }).map((value) => JSON.stringify(value)),
  );
  // These never throw: what is wrong is part of what they return.
  it('of any text are read', () => {
    fc.assert(
      fc.property(directives, (value) => {
        parseEdit(value, { title: 'T', context: 'C' }, { directives: DIRECTIVE_DEFAULTS });
        readDirectives(value, DIRECTIVE_DEFAULTS);
      }),
      RUNS,
    );
  });
});
