/** The tokenizer of a resolved model, checked against the model it will feed. */
import { makeError } from '../errors.js';
import type { ModelSource } from '../format/folder.js';
import { hasSentencePieceOnly } from './folder.js';
import { Tokenizer } from './tokenizer.js';

/**
 * `undefined` when the model has none. Errors: `TOKENIZER_INVALID`, also when the vocabulary, added tokens aside, is larger
 * than the model's embedding; `FILE_NOT_FOUND` when there is only a tokenizer.model; `FILE_FORMAT`.
 */
export async function loadTokenizer(source: ModelSource): Promise<Tokenizer | undefined> {
  const isBare = source.kind === 'folder' && !source.hasTokenizer;
  if (isBare && !(await hasSentencePieceOnly(source.path))) return undefined;
  if (source.kind === 'gguf' && source.header.metadata['tokenizer.ggml.model'] === undefined)
    return undefined;
  const tokenizer =
    source.kind === 'folder'
      ? await Tokenizer.fromFolder(source.path)
      : Tokenizer.fromGguf(source.header.metadata, source.path);
  const rows = source.config.vocabSize;
  if (tokenizer.ordinarySize > rows) {
    throw makeError(
      'TOKENIZER_INVALID',
      `the tokenizer of ${source.path} has ${tokenizer.ordinarySize} tokens, expected at most ${rows}, ` +
        "the rows of the model's embedding",
    );
  }
  return tokenizer;
}
