/** The policy writes edits: prompts for all contexts, all samples of all of them in one call, parsed. */
import type { Fork } from '../fork.js';
import { generate } from '../generate.js';
import type { Model } from '../model.js';
import { deriveKey } from '../random.js';
import type { TaskContext } from '../task/task.js';
import type { Tokenizer } from '../tokenizer/tokenizer.js';
import type { TextEdit } from './edit.js';
import { type ParseOptions, parseEdit } from './parse.js';
import { type EditTemplate, editTemplate, type PromptForm, renderEditPrompt } from './prompts.js';

export interface WriteOptions {
  /** A built-in template by name, or the caller's own. */
  prompt: string | EditTemplate;
  form: PromptForm;
  /** Longest edit, tokens. */
  maxTokens: number;
  /** Sampling temperature; PPO needs the whole distribution, so there is no top-p and no top-k. */
  temperature: number;
  /** Strings that end an edit. */
  stop: readonly string[];
  parse: Partial<ParseOptions>;
}

export const WRITE_DEFAULTS: Readonly<WriteOptions> = {
  prompt: 'implications',
  form: 'auto',
  maxTokens: 256,
  temperature: 1,
  stop: [],
  parse: {},
};

/** One edit as written: the parsed edit, and the tokens that an algorithm trains on. */
export interface WrittenEdit {
  /** Index of the context in the call. */
  readonly group: number;
  /** Index of the edit within its context. */
  readonly sample: number;
  readonly edit: TextEdit;
  /** Prompt, then what was written. */
  readonly tokens: Int32Array;
  readonly promptLength: number;
  /** The sampler's log-prob of each written token. */
  readonly logprobs: Float32Array;
  readonly finish: 'length' | 'stop' | 'context';
}

/**
 * Writes `samples` edits for each context, context by context. The draws of an edit depend only on
 * (seed, round, index of the context, index of the edit), not on what else is in the call.
 */
export async function writeEdits(
  writer: { readonly fork: Fork | Model; readonly tokenizer: Tokenizer },
  contexts: readonly TaskContext[],
  samples: number,
  options: WriteOptions,
  draw: { readonly seed: number | bigint; readonly round: number; readonly signal?: AbortSignal | undefined },
): Promise<WrittenEdit[]> {
  const template = editTemplate(options.prompt);
  const prompts = contexts.map((context) =>
    renderEditPrompt(template, context, writer.tokenizer, options.form),
  );
  const written = await generate(
    prompts.map(({ tokens }, group) => ({
      fork: writer.fork,
      prompt: tokens,
      samples,
      seed: deriveKey(draw.seed, 'edit', [draw.round, group]),
    })),
    {
      maxTokens: options.maxTokens,
      temperature: options.temperature,
      topP: 1,
      topK: 0,
      ...(options.stop.length > 0 ? { stop: [...options.stop] } : {}),
      signal: draw.signal,
    },
  );
  return written.map(({ text, tokens, logprobs, finish }, index) => {
    const group = Math.floor(index / samples);
    const { tokens: prompt, opening } = prompts[group]!;
    const joined = new Int32Array(prompt.length + tokens.length);
    joined.set(prompt);
    joined.set(tokens, prompt.length);
    return {
      group,
      sample: index % samples,
      edit: parseEdit(text, contexts[group]!, options.parse, opening),
      tokens: joined,
      promptLength: prompt.length,
      logprobs,
      finish,
    };
  });
}
