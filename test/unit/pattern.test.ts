/** Regular expressions of PEFT's configurations, against JavaScript's own where the two languages agree. */
import { describe, expect, it } from 'vitest';
import { endMatchers, fullMatchers } from '../../lib/format/pattern.js';
import { failureOf } from '../support/tiny.js';

const endMatcher = (pattern: string, source: string) => endMatchers([pattern], source)[0]!;
const fullMatcher = (pattern: string, source: string) => fullMatchers([pattern], source)[0]!;

const NAMES = [
  '',
  'q_proj',
  'layers-0-mlp',
  'lm_head',
  'model.layers.0.self_attn.q_proj',
  'model.layers.1.self_attn.k_proj',
  'model.layers.12.mlp.down_proj',
  'model.layers.3.mlp.gate_up_proj',
  'model.embed_tokens',
  'qqq',
  'a-b',
  'x{2}',
];
const PATTERNS = [
  '',
  '.*',
  'q_proj',
  '^q_proj$',
  'self_attn.q_proj',
  'self_attn\\.q_proj$',
  'layers.0.mlp',
  'layers\\.0.mlp',
  '^model.layers.0.self_attn.q_proj',
  'embed.tokens',
  '_proj',
  '-b',
  '.*\\.(q_proj|v_proj)$',
  '.*\\.(?:q|k)_proj',
  'model\\.layers\\.\\d+\\.self_attn\\.[qk]_proj',
  'model\\.layers\\.([0-9]|1[0-2])\\..*',
  '^model\\.layers\\.[^.]+\\.mlp\\.(gate_up|down)_proj$',
  '(?:.*?(?:language|text).*?(?:self_attn|mlp).*?(?:k_proj|v_proj).*?)|(?:\\bmodel\\.layers\\.[\\d]{1,}\\.(?:self_attn|mlp)\\.(?:(?:q_proj|k_proj|down_proj)))',
  'q{3}',
  'q{1,2}q',
  'q{2,}?',
  'q+?',
  '(q|qq)*',
  '(?:a*)*',
  'a|',
  '[a-c]-[a-c]',
  '[-a]-b',
  '[]]|lm_head',
  '\\w+',
  '\\W*',
  'x\\{2\\}',
  'x{2}',
  'x{y|x\\{2}',
  'model\\b.*',
  'mod\\Bel.*',
  '.+_.+',
  '(?:(?:m)(?:o(?:d)))el.embed_tokens',
  '^(?!.*(?:mlp|lm_head)).*_proj$',
  '(?!model).*',
  '.*(?=q|v)\\w_proj',
  '(?:(?!\\.mlp|q).)*',
  '(?=.*self)(?=.*k_)(?!x).*',
  '(?!(?!.*q_proj$)).*',
  '(?=(?:m|o|d|e|l)+\\b)?.+',
  '.*(?=$)',
  '.*(?=proj)',
  '(?!)|lm_head',
  '(?=)q.*',
];

describe('a pattern', () => {
  it('matches whole names as a regular expression does', () => {
    for (const pattern of PATTERNS) {
      // An empty first set and a leading bracket are the two things that JavaScript reads otherwise.
      const twin = new RegExp(`^(?:${pattern.replace('[]]', '[\\]]')})$`);
      const matches = fullMatcher(pattern, 'here');
      for (const name of NAMES)
        expect([pattern, name, matches(name)]).toEqual([pattern, name, twin.test(name)]);
    }
  });

  it('matches ends of names after a dot, as PEFT matches the keys of rank_pattern', () => {
    for (const pattern of PATTERNS) {
      const twin = new RegExp(`^(?:.*\\.)?(?:${pattern.replace('[]]', '[\\]]')})$`);
      const matches = endMatcher(pattern, 'here');
      for (const name of NAMES)
        expect([pattern, name, matches(name)]).toEqual([pattern, name, twin.test(name)]);
    }
    expect(endMatcher('q_proj', '')('model.layers.0.self_attn.q_proj')).toBe(true);
    expect(endMatcher('q_proj', '')('my_q_proj')).toBe(false);
  });

  it('reads Python where JavaScript differs', () => {
    expect(fullMatcher('(?P<layer>\\d+)\\Z', '')('12')).toBe(true);
    expect(fullMatcher('\\Aq', '')('q')).toBe(true);
    expect(fullMatcher('q{,2}', '')('qq')).toBe(true);
    expect(fullMatcher('q{,2}', '')('qqq')).toBe(false);
    expect(fullMatcher('[[]', '')('[')).toBe(true);
  });

  it('that would take a backtracking matcher for ever ends', () => {
    const text = `${'a'.repeat(2000)}!`;
    for (const pattern of [
      '(a*)*b',
      '(a|aa)+$',
      '(.*)*(.*)*x',
      '(?=(a*)*b).*',
      '((?=(a|aa)*b)a)*!',
      `${'a?'.repeat(50)}${'a'.repeat(50)}b`,
    ]) {
      expect(fullMatcher(pattern, '')(text)).toBe(false);
    }
  });

  it('and thousands of names or of patterns are bounded together', async () => {
    const names = Array.from({ length: 10_000 }, (_, i) => `layers.${i}.q_proj`);
    const matchers = endMatchers(names, '');
    expect(matchers.findIndex((matches) => matches('model.layers.9999.q_proj'))).toBe(9999);
    for (const many of [
      [...names, ...names],
      names.slice(0, 4000).map((name) => `(?:${name})`),
      Array(9).fill(`(?!${'x'.repeat(2000)})`),
    ]) {
      const error = await failureOf(() => endMatchers(many, 'config: "rank_pattern"'));
      expect(error.code).toBe('FILE_FORMAT');
      expect(error.message).toContain(
        `config: "rank_pattern": its ${many.length} patterns are together more`,
      );
    }
  });

  it.each([
    ['(', 'a group that is not closed'],
    [')', 'a closing parenthesis'],
    ['[a', 'a set that is not closed'],
    ['*', 'a quantifier of nothing'],
    ['a**', 'a quantifier of a quantifier'],
    ['a++', 'a possessive quantifier'],
    ['(?<=a)', 'a group of a kind that is not supported'],
    ['(?<!a)', 'a group of a kind that is not supported'],
    ['(?=a', 'a group that is not closed'],
    ['(?=', 'a group that is not closed'],
    ['(?!?)', 'a quantifier of nothing'],
    ['(?i)a', 'a group of a kind that is not supported'],
    ['a{3,2}', 'bounds fall'],
    ['[z-a]', 'a range that falls'],
    ['\\q', 'the escape'],
    ['\\1', 'the escape'],
    ['a\\', 'the escape'],
    ['(((a{50}){50}){50}){50}', 'more repetitions'],
    ['a{99999}', 'more repetitions'],
    ['('.repeat(100), 'nested too deeply'],
    ['a'.repeat(5000), 'more than can be matched'],
    ['(?=aaaaaaa)'.repeat(600), 'more than can be matched'],
  ])('%s is refused', async (pattern, words) => {
    const error = await failureOf(() => fullMatcher(pattern, 'config: "key"'));
    expect(error.code).toBe('FILE_FORMAT');
    expect(error.message).toContain('config: "key"');
    expect(error.message).toContain(words);
  });
});
