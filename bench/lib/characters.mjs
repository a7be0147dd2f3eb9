// tokenizer.json of a tokenizer with a token a character, for models that a benchmark pre-trains itself.

/** `end`: the token of number 0, which ends a text; `characters`: all others, in order. */
export function characterTokenizer(end, characters) {
  // The byte alphabet spells space and newline as Ġ and Ċ.
  const spelt = characters.map((one) => ({ ' ': 'Ġ', '\n': 'Ċ' })[one] ?? one);
  const vocab = Object.fromEntries([end, ...spelt].map((token, id) => [token, id]));
  const byteLevel = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true };
  return {
    version: '1.0',
    added_tokens: [{ id: 0, content: end, special: true, normalized: false }],
    normalizer: null,
    pre_tokenizer: byteLevel,
    post_processor: null,
    decoder: byteLevel,
    model: { type: 'BPE', vocab, merges: [] },
  };
}
