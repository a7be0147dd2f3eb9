// A tokenizer for a random model: any ids are text, and that text is about the same ids again. Random tokens then make
// edits of lines like real ones.

const UPPER = [...'ABCDEFGHIJKLMNOPQRSTUVWXYZ'];
const LOWER = [...'abcdefghijklmnopqrstuvwxyz'];
/** Spelling of the 256 bytes in a byte-level vocabulary (GPT-2's). */
const BYTES = (() => {
  const printable = (byte) => (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(printable(byte) ? byte : next++));
})();
const NEWLINE = BYTES[10];

/**
 * tokenizer.json of `size` tokens: the bytes, then syllables of a capital and small letters, built up by merges. Every
 * `line`-th of them begins with a newline: a text of random tokens has lines of about `line` tokens.
 */
export function makeTokenizer(size, line) {
  const vocab = Object.fromEntries(BYTES.map((byte, id) => [byte, id]));
  const merges = [];
  let id = 256;
  for (let level = UPPER; id < size; ) {
    const longer = [];
    for (const head of level) {
      for (const tail of LOWER) {
        if (id >= size) break;
        const token = head + tail;
        merges.push([head, tail]);
        longer.push(token);
        vocab[token] = id++;
        // Not reached by any merge: only a model that draws the id says it.
        if (id < size && id % line === 0) vocab[NEWLINE + token] = id++;
      }
    }
    level = longer;
  }
  return {
    version: '1.0',
    added_tokens: [],
    normalizer: null,
    pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, use_regex: true },
    post_processor: null,
    decoder: { type: 'ByteLevel' },
    model: { type: 'BPE', vocab, merges },
  };
}
