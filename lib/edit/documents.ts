/** Training documents, and which of their tokens bear loss. */
import { makeError } from '../errors.js';
import type { Tokenizer } from '../tokenizer/tokenizer.js';

/** Characters [start, end) of a text, in UTF-16 units as in `text.slice(start, end)`. */
export type Span = readonly [start: number, end: number];

/** A document of which not every token bears loss, by spans or by token. */
export interface MarkedDocument {
  readonly text: string;
  /** A token bears loss when it shares at least one character with one of these. */
  readonly spans?: readonly Span[];
  /** Instead of spans: one entry a token, those included that the tokenizer adds; 1 bears loss, 0 does not. */
  readonly mask?: ArrayLike<number>;
}

/** What the inner loop trains on: a text of which every token bears loss, or a marked one. */
export type TrainingDocument = string | MarkedDocument;

/** The text of a document, marked or not. */
export function textOf(document: TrainingDocument): string {
  return typeof document === 'string' ? document : document.text;
}

/** A document as `adapt` takes it: tokens, and one byte a token that says whether predicting it bears loss. */
export interface TrainingRow {
  readonly tokens: Int32Array;
  /** Absent: every token. */
  readonly mask?: Uint8Array;
}

/** Encodes a document. Errors: `INPUT_INVALID` for spans or a mask that do not fit the text. */
export function toTrainingRow(
  tokenizer: Pick<Tokenizer, 'encode' | 'encodeWithOffsets'>,
  document: TrainingDocument,
): TrainingRow {
  if (typeof document === 'string') return { tokens: tokenizer.encode(document) };
  const { text, spans, mask } = document;
  if (mask !== undefined) {
    const tokens = tokenizer.encode(text);
    if (spans !== undefined)
      throw makeError('INPUT_INVALID', 'a document has spans and a mask; expected one');
    if (mask.length === tokens.length)
      return { tokens, mask: Uint8Array.from(mask, (bears) => (bears ? 1 : 0)) };
    throw makeError(
      'INPUT_INVALID',
      `the loss mask of a document has ${mask.length} entries; expected one for each of its ${tokens.length} tokens`,
    );
  }
  if (spans === undefined) return { tokens: tokenizer.encode(text) };
  checkSpans(spans, text);
  const { tokens, offsets } = tokenizer.encodeWithOffsets(text);
  return { tokens, mask: maskOfSpans(offsets, spans) };
}

/** One byte a token: 1 when it shares a character with a span. `offsets` are those of `encodeWithOffsets`. */
export function maskOfSpans(offsets: Int32Array, spans: readonly Span[]): Uint8Array {
  const ordered = [...spans].sort(([a], [b]) => a - b);
  const mask = new Uint8Array(offsets.length / 2);
  let next = 0;
  for (let token = 0; token < mask.length; token++) {
    const start = offsets[2 * token]!;
    const end = offsets[2 * token + 1]!;
    while (next < ordered.length && ordered[next]![1] <= start) next++;
    for (let at = next; at < ordered.length && ordered[at]![0] < end; at++) {
      const [from, to] = ordered[at]!;
      if (from < to && start < to && start < end) mask[token] = 1;
    }
  }
  return mask;
}

/** Whether the model would be trained on any token of the row: the first one is never predicted. */
export function bearsLoss({ tokens, mask }: TrainingRow): boolean {
  return mask === undefined ? tokens.length > 1 : mask.indexOf(1, 1) > 0;
}

function checkSpans(spans: readonly Span[], text: string): void {
  for (const [start, end] of spans) {
    const fits = Number.isInteger(start) && Number.isInteger(end) && start >= 0 && start <= end;
    if (fits && end <= text.length) continue;
    throw makeError(
      'INPUT_INVALID',
      `a loss span of a document is ${start} to ${end}; expected whole numbers from 0 to ${text.length}, in order`,
    );
  }
}
