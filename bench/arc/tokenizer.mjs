// tokenizer.json: a token a character, of printable ASCII and line ends; token 0 ends a text.
const END = '<|end|>';

export function tokenizerJson() {
  const characters = ['\n', ...Array.from({ length: 95 }, (_, code) => String.fromCharCode(32 + code))];
  // The byte alphabet spells space and newline as Ġ and Ċ.
  const spelt = characters.map((one) => ({ ' ': 'Ġ', '\n': 'Ċ' })[one] ?? one);
  const vocab = Object.fromEntries([END, ...spelt].map((token, id) => [token, id]));
  const byteLevel = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true };
  return {
    version: '1.0',
    added_tokens: [{ id: 0, content: END, special: true, normalized: false }],
    normalizer: null,
    pre_tokenizer: byteLevel,
    post_processor: null,
    decoder: byteLevel,
    model: { type: 'BPE', vocab, merges: [] },
  };
}

export const VOCABULARY = 97;
