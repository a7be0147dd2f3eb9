/**
 * Merges of a SentencePiece BPE vocabulary, which stores scores instead: every way to cut a piece into two pieces is a
 * merge; the best score comes first, then the longest left part, the longest right part and the earlier piece (the order
 * of transformers' `generate_merges`). A vocabulary of 262,144 pieces has half a million.
 */
export function mergesFromScores(
  tokens: readonly string[],
  scores: readonly number[],
  isNormal: (index: number) => boolean,
): [string, string][] {
  const ids = new Map<string, number>();
  tokens.forEach((token, index) => {
    if (isNormal(index) && !ids.has(token)) ids.set(token, index);
  });
  const order = [...ids.values()].sort((a, b) => scores[b]! - scores[a]! || a - b);
  const merges: [string, string][] = [];
  for (let start = 0; start < order.length; ) {
    let end = start + 1;
    while (end < order.length && scores[order[end]!] === scores[order[start]!]) end++;
    const found = order.slice(start, end).flatMap((index) => cuts(tokens[index]!, ids));
    // A single piece has its cuts in order already.
    if (end > start + 1) found.sort(([a, b], [c, d]) => count(c) - count(a) || count(d) - count(b));
    for (const merge of found) merges.push(merge);
    start = end;
  }
  return merges;
}

/** Ways to cut a piece into two, the longest left part first. */
function cuts(piece: string, ids: ReadonlyMap<string, number>): [string, string][] {
  const found: [string, string][] = [];
  for (let cut = piece.length - 1; cut > 0; cut--) {
    const left = piece.slice(0, cut);
    const right = piece.slice(cut);
    // Half a surrogate pair is no piece.
    if (ids.has(left) && ids.has(right)) found.push([left, right]);
  }
  return found;
}

/** Characters. */
function count(text: string): number {
  let pairs = 0;
  for (let i = 0; i < text.length; i++) if ((text.charCodeAt(i) & 0xfc00) === 0xd800) pairs++;
  return text.length - pairs;
}
