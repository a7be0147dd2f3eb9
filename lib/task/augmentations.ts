/** Augmentations: further documents made of those of an edit, which the edit asks for by name. */

/**
 * From the pieces of an edit (the passage is the last one, where it is a document) to the pieces to train on besides.
 * They get the title and the loss rule like all others. A pure function.
 */
export type Augmentation = (
  pieces: readonly string[],
  context: { readonly title: string; readonly context: string },
) => readonly string[];

/** What the knowledge task offers. */
export const KNOWLEDGE_AUGMENTATIONS: Readonly<Record<string, Augmentation>> = {
  /** Every document once more. */
  repeat: (pieces) => pieces,
  /** Every document with its sentences in reverse order. */
  reverse: (pieces) =>
    pieces.flatMap((piece) => {
      const sentences = sentencesOf(piece);
      return sentences.length > 1 ? [sentences.reverse().join(' ')] : [];
    }),
  /** Every sentence of a document of several as a document of its own. */
  sentences: (pieces) =>
    pieces.flatMap((piece) => {
      const sentences = sentencesOf(piece);
      return sentences.length > 1 ? sentences : [];
    }),
};

function sentencesOf(text: string): string[] {
  return text.split(/(?<=[.!?])\s+/).filter((sentence) => sentence !== '');
}
