/** The tokenizer of a resolved model, checked against the model it will feed. */
import { makeError } from '../errors.js';
import type { ModelSource } from '../format/folder.js';
import { inSlices } from '../slices.js';
import { hasSentencePieceOnly } from './folder.js';
import { readGgufTokenizer } from './gguf.js';
import { Tokenizer } from './tokenizer.js';

/**
 * `undefined` when the model has none. Errors: `TOKENIZER_INVALID`, also when the vocabulary, added tokens aside, is larger
 * than the model's embedding; `FILE_NOT_FOUND` when there is only a tokenizer.model; `FILE_FORMAT`.
 */
export async function loadTokenizer(
  source: ModelSource,
  signal?: AbortSignal,
): Promise<Tokenizer | undefined> {
  const isBare = source.kind === 'folder' && !source.hasTokenizer;
  if (isBare && !(await hasSentencePieceOnly(source.path))) return undefined;
  if (source.kind === 'gguf' && source.header.metadata['tokenizer.ggml.model'] === undefined)
    return undefined;
  const tokenizer =
    source.kind === 'folder'
      ? await Tokenizer.fromFolder(source.path, { signal })
      : new Tokenizer(await inSlices(readGgufTokenizer(source.header.metadata, source.path), signal));
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
