import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { cp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { ModelSource } from '../../lib/format/folder.js';
import { loadTokenizer } from '../../lib/tokenizer/load.js';
import { parseTokenizer } from '../../lib/tokenizer/schema.js';
import { Tokenizer } from '../../lib/tokenizer/tokenizer.js';

// Expectations by Hugging Face tokenizers and transformers: scripts/fixtures/tokenizer.py.
const FIXTURES = fileURLToPath(new URL('../fixtures/tokenizer', import.meta.url));
const TINY = join(FIXTURES, 'tiny');
const read = (name: string) => JSON.parse(readFileSync(join(FIXTURES, name), 'utf8'));
const corpus: string[] = read('corpus.json');
const expected: {
  ids: number[][];
  decoded: string[];
  decoded_special: string[];
  pieces: number[][];
  pieces_decoded: string[];
} = read('tiny.json');
const rawTiny = read('tiny/tokenizer.json');
const replaced = { type: 'Replace', pattern: { String: '\u2581' }, content: ' ' };
const tiny = await Tokenizer.fromFolder(TINY);

/** A tokenizer of tiny/tokenizer.json with some parts replaced. */
function withParts(parts: object, model: object = {}): Tokenizer {
  const json = parseTokenizer({ ...rawTiny, ...parts, model: { ...rawTiny.model, ...model } }, 'test');
  return new Tokenizer({ source: 'test', json, specialTokens: {}, eosTokenIds: [] });
}

describe('encode', () => {
  test.each(corpus.map((text, i) => [JSON.stringify(text), i] as const))('%s', (_name, i) => {
    expect([...tiny.encode(corpus[i]!)]).toEqual(expected.ids[i]);
  });

  interface Variant {
    parts: object;
    ignore_merges: boolean;
    ids: number[][];
  }
  const {
    model,
    variants,
  }: { model: { tokens: string[]; merges: string[] }; variants: Record<string, Variant> } =
    read('variants.json');
  const vocab = Object.fromEntries(model.tokens.map((token, id) => [token, id]));
  test.each(Object.keys(variants))('with the parts of %s', (name) => {
    const { parts, ignore_merges, ids } = variants[name]!;
    const tokenizer = withParts(parts, { vocab, merges: model.merges, ignore_merges });
    const found = corpus.map((text) => [...tokenizer.encode(text)]);
    expect(found).toEqual(ids);
  });

  test('special tokens are added by those that add them, and left out on request', () => {
    expect([...tiny.encode('a')]).toEqual([...tiny.encode('a', { specialTokens: false })]);
    const adds = withParts(variants.llama3!.parts);
    expect([...adds.encode('a')]).toEqual([0, ...adds.encode('a', { specialTokens: false })]);
    expect([...adds.encode('')]).toEqual([0]);
  });

  test('halves of surrogate pairs are read as U+FFFD', () => {
    expect(tiny.decode(tiny.encode('a\ud83db\udc00\ud83d\ude00'))).toBe('a\ufffdb\ufffd\u{1f600}');
  });

  test('a long word and a long run of spaces', () => {
    const text = `${'lighthouse'.repeat(5000)}${' '.repeat(50000)}x`;
    expect(tiny.decode(tiny.encode(text))).toBe(text);
  });

  test('what is not text is refused', () => {
    // @ts-expect-error: a number is not text
    expect(() => tiny.encode(3)).toThrow(expect.objectContaining({ code: 'INPUT_INVALID' }));
  });
});

describe('decode', () => {
  test('without and with special tokens', () => {
    expect(expected.ids.map((ids) => tiny.decode(ids))).toEqual(expected.decoded);
    const options = { skipSpecialTokens: false };
    expect(expected.ids.map((ids) => tiny.decode(ids, options))).toEqual(expected.decoded_special);
    // Nothing is lost: the tiny tokenizer is byte-level and normalises nothing.
    expect(expected.decoded_special).toEqual(corpus);
  });

  test('characters cut at either end become U+FFFD; ids without a token nothing', () => {
    const options = { skipSpecialTokens: false };
    expect(expected.pieces.map((ids) => tiny.decode(ids, options))).toEqual(expected.pieces_decoded);
    expect(expected.pieces_decoded.some((text) => text.endsWith('\ufffd'))).toBe(true);
  });

  test('typed arrays, and nothing', () => {
    expect(tiny.decode(tiny.encode('The lighthouse'))).toBe('The lighthouse');
    expect(tiny.decode([])).toBe('');
  });

  test.each([[[1.5]], [[-1]], [[Number.NaN]]])('refuses %o', (ids) => {
    expect(() => tiny.decode(ids)).toThrow(expect.objectContaining({ code: 'TOKEN_RANGE' }));
  });

  test('byte strings of all tokens, laid end to end, spell every text', () => {
    const { bytes, offsets } = tiny.tokenBytes();
    expect(offsets).toHaveLength(513);
    const spell = (ids: ArrayLike<number>) =>
      Buffer.concat(Array.from(ids, (id) => bytes.subarray(offsets[id], offsets[id + 1]))).toString('utf8');
    expect(expected.ids.map((ids) => spell(ids))).toEqual(expected.decoded);
    expect(offsets[4]).toBe(0);
    const larger = tiny.tokenBytes(600);
    expect(larger.offsets).toHaveLength(601);
    expect(larger.offsets[600]).toBe(bytes.length);
  });
});

describe('chat', () => {
  interface Chats {
    conversations: Parameters<Tokenizer['chat']>[0][];
    templates: Record<string, string>;
    rendered: Record<string, [string, string][]>;
  }
  const chats: Chats = read('chat.json');
  test.each(Object.keys(chats.templates))('template %s', (name) => {
    const specialTokens = { bos_token: '<|im_start|>', eos_token: '<|im_end|>' };
    const parts = { source: 'test', json: parseTokenizer(rawTiny, 'test'), specialTokens, eosTokenIds: [] };
    const tokenizer = new Tokenizer({ ...parts, chatTemplate: chats.templates[name] });
    chats.conversations.forEach((messages, i) => {
      const both = [tokenizer.chat(messages, { addGenerationPrompt: false }), tokenizer.chat(messages)];
      expect(both).toEqual(chats.rendered[name]![i]);
    });
  });

  const withTemplate = (chatTemplate?: string) =>
    new Tokenizer({
      source: 'test',
      json: parseTokenizer(rawTiny, 'test'),
      specialTokens: {},
      eosTokenIds: [],
      chatTemplate,
    });
  const hi = [{ role: 'user' as const, content: 'Hi' }];

  test('is encoded with its own special tokens and no others', () => {
    expect(tiny.isChat).toBe(true);
    const ids = tiny.encodeChat(hi);
    expect([ids[0], ids.filter((id) => id === 2).length]).toEqual([1, 2]);
    expect(tiny.decode(ids, { skipSpecialTokens: false })).toBe(tiny.chat(hi));
  });

  test('never sees the present date', () => {
    const tokenizer = withTemplate("{{ strftime_now('%d %B %Y, %A') }}");
    expect(tokenizer.chat(hi)).toBe('26 July 2024, Friday');
  });

  test.each([
    ['does not parse', '{% for m in messages %}'],
    ['raises', "{{ raise_exception('roles must alternate') }}"],
    ['does what is impossible', '{{ messages | no_such_filter }}'],
  ])('a template that %s', (_name, template) => {
    expect(() => withTemplate(template).chat(hi)).toThrow(
      expect.objectContaining({ code: 'TEMPLATE_INVALID' }),
    );
  });

  test('a template can say why', () => {
    expect(() => withTemplate("{{ raise_exception('roles must alternate') }}").chat(hi)).toThrow(
      'roles must alternate',
    );
  });

  test('a base model has none', () => {
    const base = withTemplate();
    expect(base.isChat).toBe(false);
    expect(() => base.chat(hi)).toThrow(expect.objectContaining({ code: 'TEMPLATE_INVALID' }));
  });

  test.each([[[]], [[{ role: 'user' }]], [[null]], ['Hi']])('refuses messages %o', (messages) => {
    expect(() => tiny.chat(messages as never)).toThrow(expect.objectContaining({ code: 'INPUT_INVALID' }));
  });
});

describe('a folder', () => {
  const model = rawTiny.model;
  let folder: string;
  beforeEach(async () => {
    folder = mkdtempSync(join(tmpdir(), 'selfedit-tokenizer-'));
    await cp(TINY, folder, { recursive: true });
  });
  afterEach(() => rmSync(folder, { recursive: true, force: true }));
  const write = (name: string, value: object | string) =>
    writeFileSync(join(folder, name), typeof value === 'string' ? value : JSON.stringify(value));

  test('the tiny one', () => {
    expect(tiny).toMatchObject({ vocabSize: 512, bosTokenId: 1, eosTokenIds: [2] });
  });

  test('stops at what generation_config.json says, then at the end of a turn', async () => {
    write('generation_config.json', { eos_token_id: [0, 3, 100000] });
    expect((await Tokenizer.fromFolder(folder)).eosTokenIds).toEqual([0, 3, 2]);
    write('generation_config.json', {});
    write('config.json', { eos_token_id: 3 });
    expect((await Tokenizer.fromFolder(folder)).eosTokenIds).toEqual([3, 2]);
  });

  test('a base model does not stop at the end of a turn', async () => {
    write('tokenizer_config.json', { eos_token: '<|endoftext|>' });
    write('generation_config.json', { eos_token_id: 0 });
    expect(await Tokenizer.fromFolder(folder)).toMatchObject({ eosTokenIds: [0], isChat: false });
  });

  test('chat_template.jinja comes before tokenizer_config.json; of named templates the default is taken', async () => {
    write('tokenizer_config.json', {
      eos_token: { content: '<|im_end|>', special: true },
      chat_template: [
        { name: 'tools', template: 'tools' },
        { name: 'default', template: 'default' },
      ],
    });
    const tokenizer = await Tokenizer.fromFolder(folder);
    expect(tokenizer.chatTemplate).toBe('default');
    expect(tokenizer.eosTokenIds).toEqual([2]);
    write('chat_template.jinja', 'file');
    expect((await Tokenizer.fromFolder(folder)).chatTemplate).toBe('file');
  });

  test('chat_template.json comes between them; other named templates are left alone', async () => {
    write('tokenizer_config.json', { eos_token: '<|im_end|>', chat_template: 'config' });
    mkdirSync(join(folder, 'additional_chat_templates'));
    write('additional_chat_templates/tool_use.jinja', 'tools');
    write('chat_template.json', { chat_template: 'older file' });
    expect((await Tokenizer.fromFolder(folder)).chatTemplate).toBe('older file');
    write('chat_template.jinja', 'file');
    expect((await Tokenizer.fromFolder(folder)).chatTemplate).toBe('file');
  });

  test('tokenizer.model alone is refused with advice', async () => {
    rmSync(join(folder, 'tokenizer.json'));
    write('tokenizer.model', 'pieces');
    const error = {
      code: 'FILE_NOT_FOUND',
      message: expect.stringMatching(/tokenizer.model but no.*save_pretrained/),
    };
    await expect(Tokenizer.fromFolder(folder)).rejects.toMatchObject(error);
    const source = { kind: 'folder', path: folder, hasTokenizer: false, config: { vocabSize: 512 } };
    await expect(loadTokenizer(source as ModelSource)).rejects.toMatchObject(error);
  });

  test.each([
    ['Llama 3.1', '<|eot_id|>', '<|eom_id|>'],
    ['Gemma 3', '<end_of_turn>'],
    ['Phi-3', '<|end|>'],
    ['Qwen', '<|im_end|>'],
  ])('a generation of %s stops at the end of a turn', async (_name, ...ends) => {
    const added = ends.map((content, i) => ({ id: 600 + i, content, special: true, normalized: false }));
    const known = rawTiny.added_tokens.filter(({ content }: { content: string }) => !ends.includes(content));
    const vocab = Object.fromEntries(Object.entries(model.vocab).filter(([token]) => !ends.includes(token)));
    write('tokenizer.json', { ...rawTiny, model: { ...model, vocab }, added_tokens: [...known, ...added] });
    write('tokenizer_config.json', { eos_token: '<|endoftext|>', chat_template: `{{ x }}${ends.join('')}` });
    write('generation_config.json', { eos_token_id: 0 });
    expect((await Tokenizer.fromFolder(folder)).eosTokenIds).toEqual([0, ...added.map(({ id }) => id)]);
  });

  test('a named token that tokenizer.json has as an ordinary one is special', async () => {
    write('tokenizer_config.json', { eos_token: 'The' });
    const tokenizer = await Tokenizer.fromFolder(folder);
    const [id] = tokenizer.eosTokenIds.slice(-1);
    expect(tokenizer.decode([id!])).toBe('');
    expect(tokenizer.decode([id!], { skipSpecialTokens: false })).toBe('The');
  });

  test('without tokenizer.json', async () => {
    rmSync(join(folder, 'tokenizer.json'));
    await expect(Tokenizer.fromFolder(folder)).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
  });

  test.each<[string, unknown, RegExp]>([
    ['text that is not JSON', '{"model": ', /not valid JSON/],
    ['a list', [], /expected an object/],
    ['no model', { ...rawTiny, model: undefined }, /"model" is missing/],
    [
      'another kind of model',
      { ...rawTiny, model: { ...model, type: 'Unigram' } },
      /"model.type" is "Unigram".*"BPE"/,
    ],
    ['a vocabulary that is a list', { ...rawTiny, model: { ...model, vocab: [] } }, /"model.vocab" is \[\]/],
    [
      'an empty vocabulary',
      { ...rawTiny, added_tokens: [], model: { ...model, vocab: {}, merges: [] } },
      /is empty/,
    ],
    ['a negative id', { ...rawTiny, model: { ...model, vocab: { ...model.vocab, a: -1 } } }, /"a" the id -1/],
    [
      'an enormous id',
      { ...rawTiny, model: { ...model, vocab: { ...model.vocab, a: 1e12 } } },
      /the id 1000000000000/,
    ],
    [
      'two tokens of one id',
      { ...rawTiny, model: { ...model, vocab: { ...model.vocab, '@@': 7 } } },
      /same id 7/,
    ],
    [
      'a merge of three',
      { ...rawTiny, model: { ...model, merges: ['a b c'] } },
      /"model.merges.0" is "a b c"/,
    ],
    [
      'an added token without text',
      { ...rawTiny, added_tokens: [{ id: 3 }] },
      /"added_tokens.0.content" is missing/,
    ],
    [
      'an unknown pre-tokenizer',
      { ...rawTiny, pre_tokenizer: { type: 'Whitespace' } },
      /"Whitespace" is not supported/,
    ],
    [
      'an unknown normalizer',
      { ...rawTiny, normalizer: { type: 'BertNormalizer' } },
      /"BertNormalizer" is not supp/,
    ],
    ['an unknown decoder', { ...rawTiny, decoder: { type: 'WordPiece' } }, /"WordPiece" is not supported/],
    ...[
      [replaced, { type: 'Fuse' }, { type: 'Strip', content: ' ', start: 1, stop: 1 }],
      [replaced, { type: 'Fuse' }, { type: 'Strip', content: '_', start: 1, stop: 0 }],
      [{ ...replaced, content: '' }, { type: 'Fuse' }],
      [{ ...replaced, pattern: { String: '_' } }, { type: 'Fuse' }],
      [{ type: 'Fuse' }],
      [{ type: 'Fuse' }, replaced],
      [{ type: 'Metaspace', replacement: '_' }],
    ].map((decoders): [string, object, RegExp] => [
      `a decoder that is not SentencePiece's: ${JSON.stringify(decoders)}`,
      { ...rawTiny, decoder: { type: 'Sequence', decoders } },
      /decoder .* is not supported/,
    ]),
    ['no decoder', { ...rawTiny, decoder: null }, /decoder/],
    [
      'an unreadable pattern',
      { ...rawTiny, pre_tokenizer: { type: 'Split', pattern: { Regex: '(' }, behavior: 'Isolated' } },
      /regular expression/i,
    ],
    [
      'a post-processor that adds an unknown token',
      {
        ...rawTiny,
        post_processor: {
          type: 'TemplateProcessing',
          single: [{ SpecialToken: { id: '<s>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
        },
      },
      /adds "<s>", which is not a token/,
    ],
  ])('refuses %s', async (_name, content, message) => {
    write('tokenizer.json', typeof content === 'string' ? content : JSON.stringify(content));
    await expect(Tokenizer.fromFolder(folder)).rejects.toMatchObject({
      code: 'TOKENIZER_INVALID',
      message: expect.stringMatching(message),
    });
    await expect(Tokenizer.fromFolder(folder)).rejects.toThrow('tokenizer.json');
  });

  // Ids of transformers 5.23: AutoTokenizer.from_pretrained(folder)('a b <|pad|> c').input_ids
  test('tokenizer_config.json says how added tokens match, as transformers has it', async () => {
    const plain = (token: { content: string }) => ({ ...token, special: token.content !== '<|pad|>' });
    write('tokenizer.json', JSON.stringify({ ...rawTiny, added_tokens: rawTiny.added_tokens.map(plain) }));
    write('tokenizer_config.json', {});
    const before = await Tokenizer.fromFolder(folder);
    expect([...before.encode('a b <|pad|> c')]).toEqual([68, 285, 224, 3, 431]);
    expect(before.decode([3, 300])).toBe('<|pad|>ver');
    const described = { content: '<|pad|>', lstrip: true, rstrip: true, normalized: false, special: true };
    write('tokenizer_config.json', { added_tokens_decoder: { 3: described } });
    const after = await Tokenizer.fromFolder(folder);
    expect([...after.encode('a b <|pad|> c')]).toEqual([68, 285, 3, 70]);
    expect(after.decode([3, 300])).toBe('ver');
    write('tokenizer_config.json', { added_tokens_decoder: { 600: { content: '<new>' } } });
    expect([...(await Tokenizer.fromFolder(folder)).encode('<new>')]).toEqual([600]);
    for (const id of ['-1', '99999999', '1.5', 'x']) {
      write('tokenizer_config.json', { added_tokens_decoder: { [id]: { content: '<new>' } } });
      await expect(Tokenizer.fromFolder(folder)).rejects.toMatchObject({
        code: 'TOKENIZER_INVALID',
        message: expect.stringContaining(`tokenizer_config.json: "added_tokens_decoder" has the key "${id}"`),
      });
    }
  });

  test('a vocabulary larger than the embedding is refused', async () => {
    const source = (vocabSize: number) =>
      ({ kind: 'folder', path: folder, hasTokenizer: true, config: { vocabSize } }) as ModelSource;
    expect((await loadTokenizer(source(512)))?.vocabSize).toBe(512);
    expect((await loadTokenizer(source(600)))?.vocabSize).toBe(512);
    await expect(loadTokenizer(source(511))).rejects.toMatchObject({
      code: 'TOKENIZER_INVALID',
      message: expect.stringMatching(/512 tokens, expected at most 511/),
    });
    expect(await loadTokenizer({ ...source(512), hasTokenizer: false } as ModelSource)).toBeUndefined();
  });

  test("added tokens may lie beyond the embedding, as Gemma 3's <image_soft_token> does", async () => {
    const added = { id: 512, content: '<image_soft_token>', special: true };
    const content = { ...rawTiny, added_tokens: [...rawTiny.added_tokens, added] };
    write('tokenizer.json', JSON.stringify(content));
    const source = (vocabSize: number) =>
      ({ kind: 'folder', path: folder, hasTokenizer: true, config: { vocabSize } }) as ModelSource;
    const tokenizer = await loadTokenizer(source(512));
    expect(tokenizer?.vocabSize).toBe(513);
    expect([...tokenizer!.encode('<image_soft_token>')]).toEqual([512]);
    await expect(loadTokenizer(source(511))).rejects.toMatchObject({ code: 'TOKENIZER_INVALID' });
  });
});
