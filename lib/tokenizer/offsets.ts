/**
 * Which characters of a text each of its tokens stands for. `@huggingface/tokenizers` keeps no offsets, so the bytes of
 * the tokens are laid along the text; where a normalizer changed the text, character by character with its marks.
 */

/** A letter with the marks and the later parts of a Korean syllable that normalization may join to it. */
const CLUSTER = /.[\p{M}\u1160-\u11ff\u{16d63}\u{16d67}-\u{16d6a}]*/gsu;
const FORMS = ['NFC', 'NFD', 'NFKC', 'NFKD'] as const;
const SPACE = 0x20;
const encoder = new TextEncoder();

/** What normalizers, and SentencePiece with its own mark of a space, may have made of it. */
function variants(cluster: string): Uint8Array[] {
  const texts = [cluster, cluster.toLowerCase(), cluster.replaceAll('\u2581', ' ')];
  return texts.flatMap((text) => FORMS.map((form) => encoder.encode(text.normalize(form))));
}

/**
 * [start, end) in UTF-16 units of `text`, two entries a token, from the bytes of each token. A token that holds part of
 * a character covers all of it; a space that only the tokenizer put in front belongs to the character behind it.
 * Whatever cannot be laid along the text (an unknown token) covers all that is left of it.
 */
export function alignTokens(text: string, tokens: readonly Uint8Array[]): Int32Array {
  const bytes = Buffer.concat(tokens);
  const source = new Int32Array(2 * bytes.length);
  let at = 0;
  const cover = (count: number, start: number, end: number): void => {
    for (let i = 0; i < count; i++, at++) {
      source[2 * at] = start;
      source[2 * at + 1] = end;
    }
  };
  const follows = (piece: Uint8Array, from: number): boolean =>
    from + piece.length <= bytes.length && piece.every((byte, i) => bytes[from + i] === byte);

  // Of spaces at the beginning, those that the text has not are the tokenizer's own.
  let own = 0;
  while (bytes[own] === SPACE) own++;
  own -= /^[ \u2581]*/.exec(text)![0].length;
  if (own > 0) cover(own, 0, String.fromCodePoint(text.codePointAt(0) ?? SPACE).length);

  for (const { 0: cluster, index } of text.matchAll(CLUSTER)) {
    const end = index + cluster.length;
    const plain = encoder.encode(cluster);
    const fits = (spelling: Uint8Array): number =>
      follows(spelling, at) ? 0 : bytes[at] === SPACE && follows(spelling, at + 1) ? 1 : -1;
    let before = fits(plain);
    const changed = before < 0 ? variants(cluster).find((variant) => fits(variant) >= 0) : undefined;
    if (changed) before = fits(changed);
    if (before > 0) cover(1, index, index + String.fromCodePoint(cluster.codePointAt(0)!).length);
    if (before >= 0 && !changed) {
      // As it stands: each character by itself.
      let place = index;
      for (const character of cluster) {
        cover(encoder.encode(character).length, place, place + character.length);
        place += character.length;
      }
    } else if (changed) {
      cover(changed.length, index, end);
    } else if (cluster.trim() !== '') {
      // Spaces may be dropped beside an added token; anything else is unknown.
      cover(bytes.length - at, index, text.length);
      break;
    }
  }
  cover(bytes.length - at, text.length, text.length);

  const offsets = new Int32Array(2 * tokens.length);
  let byte = 0;
  let last = 0;
  for (const [token, { length }] of tokens.entries()) {
    offsets[2 * token] = length > 0 ? source[2 * byte]! : last;
    last = length > 0 ? source[2 * (byte + length) - 1]! : last;
    offsets[2 * token + 1] = last;
    byte += length;
  }
  return offsets;
}
