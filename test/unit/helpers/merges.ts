/** Merges of a SentencePiece vocabulary as transformers' `generate_merges` finds them, with plain maps and one sort. */

/** Characters. */
const count = (text: string) => Array.from(text).length;

export function mergesOf(pieces: readonly string[], scoreOf: (piece: string) => number): [string, string][] {
  const known = new Set(pieces);
  const order = [...known].sort((a, b) => scoreOf(b) - scoreOf(a));
  const merges = order.flatMap((piece) => {
    const units = Array.from({ length: Math.max(0, piece.length - 1) }, (_, i) => piece.length - 1 - i);
    return units.flatMap((cut) => {
      const [left, right] = [piece.slice(0, cut), piece.slice(cut)];
      return known.has(left) && known.has(right) ? [{ left, right, score: scoreOf(piece) }] : [];
    });
  });
  merges.sort(
    (a, b) => b.score - a.score || count(b.left) - count(a.left) || count(b.right) - count(a.right),
  );
  return merges.map(({ left, right }) => [left, right]);
}
