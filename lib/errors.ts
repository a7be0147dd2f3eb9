/**
 * Every failure the package raises on purpose is a `SelfeditError` with a stable `code`.
 * `exitCode` is what the command line returns for it: 2 for wrong usage or input, 1 for a failure of the work.
 */
export type ErrorCode =
  | 'ADDON_LOAD'
  | 'FILE_NOT_FOUND'
  | 'FILE_FORMAT'
  | 'FILE_TRUNCATED'
  | 'FILE_UNSAFE'
  | 'UNSUPPORTED_ARCHITECTURE'
  | 'CONFIG_INVALID'
  | 'TENSOR_MISSING'
  | 'TENSOR_UNEXPECTED'
  | 'TENSOR_SHAPE'
  | 'WEIGHT_NOT_FINITE'
  | 'TOKENIZER_INVALID'
  | 'TOKEN_RANGE'
  | 'TEMPLATE_INVALID'
  | 'TARGET_UNKNOWN'
  | 'DELTA_SHAPE'
  | 'DELTA_INVALID'
  | 'PROMPT_EMPTY'
  | 'CONTEXT_LENGTH'
  | 'INPUT_INVALID'
  | 'OPTION_INVALID'
  | 'DEVICE_UNAVAILABLE'
  | 'OUT_OF_MEMORY'
  | 'CLOSED'
  | 'ABORTED'
  | 'IO'
  | 'RUN_EXISTS'
  | 'RUN_INVALID'
  | 'RUN_LOCKED'
  | 'DOWNLOAD'
  | 'LOSS_NOT_FINITE'
  | 'REWARD_UNKNOWN'
  | 'GUARD_ALARM'
  | 'RANKS_INVALID'
  | 'RANKS_UNAVAILABLE'
  | 'RANK_LOST'
  | 'RANKS_DIVERGED'
  | 'INTERNAL';

const FAILURES: ReadonlySet<ErrorCode> = new Set([
  'ADDON_LOAD',
  'OUT_OF_MEMORY',
  'CLOSED',
  'ABORTED',
  'IO',
  'RUN_LOCKED',
  'DOWNLOAD',
  'LOSS_NOT_FINITE',
  'REWARD_UNKNOWN',
  'GUARD_ALARM',
  'RANKS_UNAVAILABLE',
  'RANK_LOST',
  'RANKS_DIVERGED',
  'INTERNAL',
]);

/** Base of all errors of this package; `code` says which one. */
export class SelfeditError extends Error {
  readonly code: ErrorCode;
  constructor(code: ErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.name = new.target.name;
    this.code = code;
  }
  /** 2: wrong usage or input; 1: the work failed. */
  get exitCode(): 1 | 2 {
    return FAILURES.has(this.code) ? 1 : 2;
  }
}

/** The native addon or libtorch could not be loaded; the message is a diagnosis with the next command to type. */
export class AddonLoadError extends SelfeditError {}
/** A file is missing, truncated, malformed, unsafe, or has the wrong tensors. */
export class FileError extends SelfeditError {}
/** A model's architecture or configuration is not supported or not consistent. */
export class ModelError extends SelfeditError {}
/** A delta does not fit the model, or a target pattern names nothing. */
export class DeltaError extends SelfeditError {}
/** A value given by the caller is out of range. */
export class InputError extends SelfeditError {}
/** A handle was used after `close()`. */
export class ClosedError extends SelfeditError {}
/** The call was stopped by its `AbortSignal`. */
export class AbortedError extends SelfeditError {}
/** Work failed while running: memory, disk, a loss that is not finite, rewards that nobody could tell, a rank that is gone. */
export class WorkError extends SelfeditError {}

const CLASSES: Record<ErrorCode, typeof SelfeditError> = {
  ADDON_LOAD: AddonLoadError,
  FILE_NOT_FOUND: FileError,
  FILE_FORMAT: FileError,
  FILE_TRUNCATED: FileError,
  FILE_UNSAFE: FileError,
  UNSUPPORTED_ARCHITECTURE: ModelError,
  CONFIG_INVALID: ModelError,
  TENSOR_MISSING: FileError,
  TENSOR_UNEXPECTED: FileError,
  TENSOR_SHAPE: FileError,
  WEIGHT_NOT_FINITE: ModelError,
  TOKENIZER_INVALID: ModelError,
  TOKEN_RANGE: InputError,
  TEMPLATE_INVALID: ModelError,
  TARGET_UNKNOWN: DeltaError,
  DELTA_SHAPE: DeltaError,
  DELTA_INVALID: DeltaError,
  PROMPT_EMPTY: InputError,
  CONTEXT_LENGTH: InputError,
  INPUT_INVALID: InputError,
  OPTION_INVALID: InputError,
  DEVICE_UNAVAILABLE: ModelError,
  OUT_OF_MEMORY: WorkError,
  CLOSED: ClosedError,
  ABORTED: AbortedError,
  IO: WorkError,
  RUN_EXISTS: InputError,
  RUN_INVALID: FileError,
  RUN_LOCKED: WorkError,
  DOWNLOAD: WorkError,
  LOSS_NOT_FINITE: WorkError,
  REWARD_UNKNOWN: WorkError,
  GUARD_ALARM: WorkError,
  RANKS_INVALID: InputError,
  RANKS_UNAVAILABLE: WorkError,
  RANK_LOST: WorkError,
  RANKS_DIVERGED: WorkError,
  INTERNAL: WorkError,
};

/** @internal Whether what an edited model computes was not finite. */
export function isOverflow(error: unknown): error is SelfeditError {
  return error instanceof SelfeditError && error.code === 'LOSS_NOT_FINITE';
}

/** @internal Whether `code` is one of ours. */
export function isErrorCode(code: string): code is ErrorCode {
  return Object.hasOwn(CLASSES, code);
}

/** Makes the error of the class that belongs to `code`. */
export function makeError(code: ErrorCode, message: string, cause?: unknown): SelfeditError {
  return new CLASSES[code](code, message, cause === undefined ? undefined : { cause });
}

/** Turns an error thrown by the addon (it carries `code`) into the typed class, keeping the caller's stack. */
export function fromNative(error: unknown): Error {
  if (error instanceof SelfeditError) return error;
  if (error instanceof Error && 'code' in error && typeof error.code === 'string' && error.code in CLASSES) {
    return makeError(error.code as ErrorCode, error.message, error);
  }
  return error instanceof Error ? error : new Error(String(error));
}
