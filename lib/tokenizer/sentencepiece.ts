/**
 * Merges of a SentencePiece BPE vocabulary, which stores scores instead: every way to cut a piece into two pieces is a
 * merge; the best score comes first, then the longest left part, the longest right part and the earlier piece (the order
 * of transformers' `generate_merges`). A vocabulary of 262,144 pieces has half a million.
 */
import { every, sortInSlices, type Work } from '../slices.js';
import { MergeList } from './merges.js';
import type { Vocabulary } from './vocabulary.js';

/** `pieces` are the tokens that merge, by their numbers; `scores` has one entry a number. */
export function* mergesFromScores(pieces: Vocabulary, scores: Float64Array): Work<MergeList> {
  const merges = new MergeList();
  const due = every(512);
  const order = new Int32Array(pieces.size);
  let count = 0;
  for (let id = 0; id < pieces.length; id++) {
    if (pieces.units(id) > 0) order[count++] = id;
    if (due()) yield;
  }
  const ids = order.subarray(0, count);
  yield* sortInSlices(ids, (a, b) => scores[a]! < scores[b]!);
  for (let start = 0; start < ids.length; ) {
    let end = start + 1;
    while (end < ids.length && scores[ids[end]!] === scores[ids[start]!]) end++;
    // A single piece has its cuts in order already.
    if (end === start + 1) addCuts(pieces, ids[start]!, merges);
    else yield* addSorted(pieces, ids.subarray(start, end), merges);
    start = end;
    if (due()) yield;
  }
  return merges;
}

/** Ways to cut a piece into two, the longest left part first. */
function addCuts(pieces: Vocabulary, id: number, merges: MergeList): number[] {
  const cuts: number[] = [];
  const size = pieces.units(id);
  for (let cut = size - 1; cut > 0; cut--) {
    const left = pieces.part(id, 0, cut);
    if (left < 0) continue;
    // Half a surrogate pair is no piece.
    const right = pieces.part(id, cut, size);
    if (right < 0) continue;
    merges.push(left, right, id);
    cuts.push(cut);
  }
  return cuts;
}

/** Cuts of pieces of one score: the longest left part first, then the longest right part. */
function* addSorted(pieces: Vocabulary, ids: Int32Array, merges: MergeList): Work<void> {
  const found = new MergeList();
  const sizes: number[] = [];
  const due = every(512);
  for (const id of ids) {
    for (const cut of addCuts(pieces, id, found)) {
      const left = pieces.characters(id, cut);
      sizes.push(left, pieces.characters(id, pieces.units(id)) - left);
    }
    if (due()) yield;
  }
  const order = Int32Array.from({ length: found.length }, (_, i) => i);
  yield* sortInSlices(
    order,
    (a, b) =>
      sizes[2 * a]! < sizes[2 * b]! ||
      (sizes[2 * a] === sizes[2 * b] && sizes[2 * a + 1]! < sizes[2 * b + 1]!),
  );
  for (const at of order) merges.push(...found.at(at));
}
