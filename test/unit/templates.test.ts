import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { type ChatMessage, renderChat } from '../../lib/tokenizer/chat.js';
import { renderTemplate } from '../../lib/tokenizer/template-host.js';

const variables = { messages: [{ role: 'user', content: 'Hi' }] };
/** Ends with `text` doubled `times` times in `ns.s`. */
const doubled = (text: string, times: number, after = '') =>
  `{% set ns = namespace(s=${text}) %}{% for i in range(${times}) %}{% set ns.s = ns.s + ns.s %}{% endfor %}${after}`;
/** A list of lists of lists, whose text would have 3 ** 30 times 8,192 characters. */
const nested = (after: string) =>
  doubled("'x'", 13) +
  `{% set ns.s = [ns.s] %}{% for i in range(30) %}{% set ns.s = [ns.s, ns.s, ns.s] %}{% endfor %}${after}`;

const TIME = /takes more than 100 ms/;
const TEXT = /a text of more than 1048576 characters/;
const LIST = /a list of more than 100000 entries/;

describe('a hostile template is an error, not a hang', () => {
  test.each<[string, string, RegExp]>([
    ['loops', '{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}', TIME],
    ['asks for an enormous list', '{% for i in range(1000000000) %}x{% endfor %}', LIST],
    ['doubles a list', doubled('[1, 2]', 40), LIST],
    ['doubles a text', doubled("'abcdefgh'", 40, '{{ ns.s | upper }}'), TEXT],
    ['replaces each character by many', doubled("'x'", 19, "{{ ns.s | replace('x', ns.s) }}"), TEXT],
    ['replaces them by a method', doubled("'x'", 19, "{{ ns.s.replace('x', ns.s) }}"), TEXT],
    ['joins by a long text', doubled("'x'", 19, '{{ range(90000) | join(ns.s) }}'), TEXT],
    ['nests a list in itself and prints it', nested('{{ ns.s }}'), TEXT],
    ['nests a list in itself and makes it JSON', nested('{{ ns.s | tojson }}'), TEXT],
    ['indents widely', '{{ [[1], [2]] | tojson(indent=1000000000) }}', TEXT],
    ['prints more than it may', doubled("'x'", 19, '{% for i in range(9) %}{{ ns.s }}{% endfor %}'), TEXT],
    ['calls itself', '{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}', /call stack|more than 100 ms/],
    ['holds itself', '{% set ns = namespace(s=1) %}{% set ns.s = ns %}{{ ns }}', /call stack/],
    ['is too long', 'x'.repeat(2 ** 20 + 1), /has 1048577 characters, expected at most 1048576/],
    ['is deeply nested', `{{ ${'('.repeat(50_000)}1${')'.repeat(50_000)} }}`, /call stack|more than 100 ms/],
    [
      'reaches for the process',
      "{{ messages.constructor.constructor('return process')() }}",
      /not a function/,
    ],
  ])('that %s', (_name, template, message) => {
    expect(() => renderTemplate(template, variables)).toThrow(
      expect.objectContaining({ code: 'TEMPLATE_INVALID', message: expect.stringMatching(message) }),
    );
    // The next one finds a worker as before.
    expect(renderTemplate('{{ messages[0].content }}', variables)).toBe('Hi');
  });

  test('also one that fills the memory', () => {
    const template =
      '{% set ns = namespace(l=[]) %}{% for i in range(99999) %}{% set ns.l = [ns.l, range(99999)] %}{% endfor %}';
    expect(() => renderTemplate(template, variables)).toThrow(/48 MiB of memory|more than 100 ms/);
    expect(renderTemplate('{{ messages[0].content }}', variables)).toBe('Hi');
  });
});

describe('templates that are not', () => {
  test('as long as allowed', () => {
    const text = 'x'.repeat(2 ** 20 - 1);
    expect(renderTemplate('{{ messages[0].content }}', { messages: [{ content: text }] })).toBe(text);
  });

  test('more of them than the worker keeps', () => {
    const rendered = Array.from({ length: 40 }, (_, i) => renderTemplate(`${i % 20}{{ x }}`, { x: i }));
    expect(rendered).toEqual(Array.from({ length: 40 }, (_, i) => `${i % 20}${i}`));
  });

  // By Python: '\x1c\x85 \n\n a\ufeff\n'.strip() and so on.
  test('strip as Python strips', () => {
    const text = '\x1c\x85 \n\n a\ufeff\n';
    const render = (expression: string) => renderTemplate(`{{ ${expression} }}`, { text });
    expect(render('text.strip()')).toBe('a\ufeff');
    expect(render('text | trim')).toBe('a\ufeff');
    expect(render("text.rstrip('\\n')")).toBe('\x1c\x85 \n\n a\ufeff');
    expect(render("text.lstrip('\\x1c\\x85 ')".replaceAll('\\x1c\\x85', '\x1c\x85'))).toBe('\n\n a\ufeff\n');
    expect(render("'xyaxy'.strip('yx')")).toBe('a');
    expect(render("' a '.lstrip() + '|' + ' a '.rstrip() + '|'")).toBe('a | a|');
  });
});

// Expectations by transformers: scripts/fixtures/chat_templates.py.
describe("the families' chat formats", () => {
  const path = new URL('../fixtures/tokenizer/templates.json', import.meta.url);
  const fixture: {
    conversations: ChatMessage[][];
    variables: Record<string, unknown>[];
    templates: Record<string, string>;
    rendered: Record<string, (string | { error: string })[][]>;
  } = JSON.parse(readFileSync(fileURLToPath(path), 'utf8'));
  const specialTokens = { bos_token: '<s>', eos_token: '</s>' };

  test.each(Object.entries(fixture.templates))('%s', (name, template) => {
    fixture.conversations.forEach((messages, i) => {
      const ways = [false, true].flatMap((add) =>
        fixture.variables.map((variables) => [add, variables] as const),
      );
      ways.forEach(([addGenerationPrompt, variables], way) => {
        const expected = fixture.rendered[name]![i]![way]!;
        const render = () =>
          renderChat(template, messages, { specialTokens, addGenerationPrompt, variables });
        if (typeof expected === 'string') expect(render()).toBe(expected);
        else expect(render).toThrow(expected.error);
      });
    });
  });
});
