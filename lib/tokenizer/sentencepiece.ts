interface Merge {
  left: string;
  right: string;
  /** Characters of the left part and of the whole. */
  cut: number;
  length: number;
  score: number;
  ids: [number, number];
}

/**
 * Merges of a SentencePiece BPE vocabulary, which stores scores instead: every way to cut a piece into two
 * pieces is a merge, best score first, then the longest left part (the order of transformers'
 * `generate_merges`).
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
  const found: Merge[] = [];
  for (const [token, index] of ids) {
    const characters = Array.from(token);
    for (let cut = 1; cut < characters.length; cut++) {
      const left = characters.slice(0, cut).join('');
      const right = characters.slice(cut).join('');
      const first = ids.get(left);
      const second = ids.get(right);
      if (first === undefined || second === undefined) continue;
      found.push({
        left,
        right,
        cut,
        length: characters.length,
        score: scores[index]!,
        ids: [first, second],
      });
    }
  }
  const byIds = (a: Merge, b: Merge) => a.ids[0] - b.ids[0] || a.ids[1] - b.ids[1];
  const byLength = (a: Merge, b: Merge) => b.cut - a.cut || b.length - a.length;
  found.sort((a, b) => b.score - a.score || byLength(a, b) || byIds(a, b));
  return found.map(({ left, right }) => [left, right]);
}
