import { type GenerateSpec, type MemoryPlan, native } from './binding.js';
import { makeError } from './errors.js';
import type { Fork } from './fork.js';
import type { Model } from './model.js';
import { type CallOptions, runJob } from './native-job.js';
import { deriveKey, toSeed } from './random.js';
import { ForkTable, splitBy, type TokenInput, toRagged, toTokens } from './rows.js';

/** Sampling settings; those of a row override those of the call. */
export interface SamplingOptions {
  /** Most new tokens. 64. */
  maxTokens?: number;
  /** 0 is greedy. 1. */
  temperature?: number;
  /** Smallest set of most likely tokens whose probability reaches this. 1 (off). */
  topP?: number;
  /** Only the k most likely tokens. 0 (off). */
  topK?: number;
}

export interface GenerateRow extends SamplingOptions {
  fork: Fork | Model;
  prompt: TokenInput;
  /** Samples of this prompt; they share its keys and values. 1. */
  samples?: number;
  /** Which of these samples to draw, by index; each is what it is when all are drawn. All. */
  only?: readonly number[];
  /**
   * How many first tokens of the prompt are read once for all rows of its fork that begin with the same ones and say so:
   * the questions of one fork behind a common instruction. 0. Less than the prompt's length.
   */
  sharedPrefix?: number;
  /**
   * Key of the row's draws. The same fork, prompt, settings and seed give the same tokens whatever else is in the call.
   * By default derived from the call's seed and the row's index.
   */
  seed?: number | bigint;
}

export interface GenerateOptions extends SamplingOptions, CallOptions {
  seed?: number | bigint;
  /** Strings that end a row; the text is cut before the first of them. */
  stop?: readonly string[];
  /** Token ids that end a row. The tokenizer's end-of-text tokens by default. */
  stopTokens?: readonly number[];
  /** Most rows decoded together; chosen when absent. Does not change results. */
  maxRows?: number;
  /**
   * How deltas are applied while decoding. `overlay`: added in every product. `materialised`: the row blocks that they
   * change are copied first (see `Fork.materialise`). `auto`: copies where a cost model says that it pays for a row's own
   * length: long rows under dense or sparse deltas of a float32 model. A row's result does not depend on the others.
   */
  application?: 'auto' | 'overlay' | 'materialised';
}

export interface Generation {
  /** New text, without special tokens, cut before a stop string. */
  text: string;
  /** New token ids; the one that ended the row is part of them. */
  tokens: Int32Array;
  /** Natural log-probs of the tokens under the temperature-scaled distribution (temperature 1 when greedy). */
  logprobs: Float32Array;
  /** `stop`: an end-of-text token or a stop string; `length`: maxTokens; `context`: the model's context is full. */
  finish: 'length' | 'stop' | 'context';
  prompt: Int32Array;
  row: number;
  sample: number;
}

/**
 * Samples continuations. Rows may belong to different forks of one model; finished rows are replaced from the queue.
 * Results come row by row, sample by sample. Progress counts finished rows.
 * Errors: `InputError` (empty prompt, prompt beyond the context, options out of range), `ClosedError`.
 */
export async function generate(
  rows: readonly GenerateRow[],
  options: GenerateOptions = {},
): Promise<Generation[]> {
  if (rows.length === 0) return [];
  const { spec, table, samples, prompts, stop } = generateSpec(rows, options);
  const { model } = table;
  const result = await runJob((onProgress) => native().generate(spec, onProgress), options, table.resources);
  const tokens = splitBy(result.tokens, result.offsets);
  const logprobs = splitBy(result.logprobs, result.offsets);
  return samples.map(({ row, sample }, index) => ({
    text: model.hasTokenizer ? cutAt(model.tokenizer.decode(tokens[index]!), stop) : '',
    tokens: tokens[index]!,
    logprobs: logprobs[index]!,
    finish: (['length', 'stop', 'stop', 'context'] as const)[result.finish[index]!]!,
    prompt: prompts[row]!,
    row,
    sample,
  }));
}

/** How `generate` would fit the rows into the memory that is free now. Errors: as `planAdapt`. */
export async function planGenerate(
  rows: readonly GenerateRow[],
  options: GenerateOptions = {},
): Promise<MemoryPlan> {
  if (rows.length === 0) throw makeError('INPUT_INVALID', 'there is no row to plan for');
  const { spec, table } = generateSpec(rows, options);
  return runJob(() => native().planGenerate(spec), options, table.resources);
}

interface PreparedCall {
  spec: GenerateSpec;
  table: ForkTable;
  /** Of every generated row: which row asked for it, and which of its samples it is. */
  samples: { row: number; sample: number }[];
  prompts: Int32Array[];
  stop: string[];
}

function generateSpec(rows: readonly GenerateRow[], options: GenerateOptions): PreparedCall {
  const table = new ForkTable(rows[0]!.fork);
  const { model } = table;
  const stop = stopStringsOf(options);
  const seed = toSeed(options.seed ?? 0);
  const promptFork = Int32Array.from(rows, ({ fork }, r) => table.indexOf(fork, `row ${r}`));
  const prompts = rows.map(({ prompt }, r) => toTokens(model, prompt, `prompt ${r}`));
  const samples: { row: number; sample: number; key: bigint }[] = [];
  for (const [row, { samples: count = 1, only, seed: own }] of rows.entries()) {
    if (!Number.isInteger(count) || count < 1) {
      throw makeError('OPTION_INVALID', `row ${row}: samples is ${count}; expected an integer from 1`);
    }
    const key = own === undefined ? deriveKey(seed, 'row', [row]) : toSeed(own);
    for (const sample of only ?? Array(count).keys()) {
      if (!Number.isInteger(sample) || sample < 0 || sample >= count) {
        throw makeError(
          'OPTION_INVALID',
          `row ${row}: only has ${sample}; expected samples from 0 to ${count - 1}`,
        );
      }
      samples.push({ row, sample, key: count === 1 ? key : deriveKey(key, 'sample', [sample]) });
    }
  }
  const each = (name: keyof SamplingOptions, preset: number): number[] =>
    samples.map(({ row }) => rows[row]![name] ?? options[name] ?? preset);
  const integers = (name: keyof SamplingOptions, preset: number, least: number): Int32Array =>
    Int32Array.from(each(name, preset), (value) => {
      if (Number.isInteger(value) && value >= least && value < 2 ** 31) return value;
      throw makeError('OPTION_INVALID', `${name} is ${value}; expected an integer from ${least}`);
    });
  const ragged = toRagged(prompts);
  const spec = {
    ...ragged,
    forks: table.natives,
    promptFork,
    sharedPrefix: prefixesOf(rows, prompts),
    rowPrompt: Int32Array.from(samples, ({ row }) => row),
    maxTokens: integers('maxTokens', 64, 1),
    temperature: Float32Array.from(each('temperature', 1)),
    topP: Float32Array.from(each('topP', 1)),
    topK: integers('topK', 0, 0),
    keys: BigUint64Array.from(samples, ({ key }) => key),
    stopTokens: stopTokensOf(model, options),
    stopStrings: stop,
    maxRows: options.maxRows ?? 0,
    application: applicationOf(options),
  };
  return { spec, table, samples, prompts, stop };
}

function prefixesOf(rows: readonly GenerateRow[], prompts: readonly Int32Array[]): Int32Array {
  if (rows.every(({ sharedPrefix }) => sharedPrefix === undefined)) return new Int32Array(0);
  return Int32Array.from(rows, ({ sharedPrefix = 0 }, r) => {
    const { length } = prompts[r]!;
    if (Number.isInteger(sharedPrefix) && sharedPrefix >= 0 && sharedPrefix < length) return sharedPrefix;
    throw makeError(
      'OPTION_INVALID',
      `row ${r}: sharedPrefix is ${sharedPrefix}; expected an integer from 0, less than the prompt's ${length} tokens`,
    );
  });
}

const APPLICATIONS = ['auto', 'overlay', 'materialised'] as const;

function applicationOf({ application = 'auto' }: GenerateOptions): number {
  const index = APPLICATIONS.indexOf(application);
  if (index >= 0) return index;
  throw makeError('OPTION_INVALID', `application is ${application}; expected ${APPLICATIONS.join(', ')}`);
}

function stopStringsOf({ stop = [] }: GenerateOptions): string[] {
  if (!Array.isArray(stop))
    throw makeError('OPTION_INVALID', `stop is ${typeof stop}; expected a list of strings`);
  return [...stop];
}

function stopTokensOf(model: Model, { stopTokens }: GenerateOptions): Int32Array {
  const tokens = stopTokens ?? (model.hasTokenizer ? model.tokenizer.eosTokenIds : []);
  const { vocabSize } = model.config;
  for (const token of tokens) {
    if (!Number.isInteger(token) || token < 0 || token >= vocabSize) {
      throw makeError('TOKEN_RANGE', `stop token ${token} is outside the vocabulary of ${vocabSize}`);
    }
  }
  return Int32Array.from(tokens);
}

function cutAt(text: string, stops: readonly string[]): string {
  let end = text.length;
  for (const stop of stops) {
    const found = text.indexOf(stop);
    if (found >= 0 && found < end) end = found;
  }
  return text.slice(0, end);
}
