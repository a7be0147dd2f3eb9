/** GGUF headers made by hand, and the refusal that reading them meets. */
import { type ErrorCode, SelfeditError } from '../../lib/errors.js';
import type { GgufHeader } from '../../lib/format/gguf.js';

/** A header as `inspect` gives it; shapes are row-major. */
export function headerOf(metadata: Record<string, unknown>, tensors: [string, number[]][]): GgufHeader {
  return {
    format: 'gguf',
    metadata,
    tensors: tensors.map(([name, shape]) => ({ name, shape, dtype: 'F32', offset: 0, bytes: 4 })),
  };
}

/** The code and message of the error that `action` throws. */
export function failureOf(action: () => unknown): { code: ErrorCode; message: string } {
  try {
    action();
  } catch (error) {
    if (error instanceof SelfeditError) return { code: error.code, message: error.message };
    throw error;
  }
  throw new Error('expected an error');
}
