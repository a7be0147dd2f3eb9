/** The policy writes edits: prompts for all contexts, all samples of all of them in one call, parsed. */
import { ADAPT_DEFAULTS, type AdaptOptions } from '../adapt.js';
import type { Rollout } from '../algorithm/algorithm.js';
import { makeError } from '../errors.js';
import type { Fork } from '../fork.js';
import { generate } from '../generate.js';
import type { Model } from '../model.js';
import type { CallOptions } from '../native-job.js';
import { deriveKey } from '../random.js';
import { type Ranks, shared } from '../ranks/ranks.js';
import type { TaskContext, TaskHooks } from '../task/task.js';
import { checkDirectiveBounds, type DirectiveBounds } from './directives.js';
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
  /** Lets an edit choose how it is trained, within these bounds (`{}`: the defaults); off when absent. */
  directives?: Partial<DirectiveBounds> | undefined;
}

export const WRITE_DEFAULTS: Readonly<WriteOptions> = {
  prompt: 'implications',
  form: 'auto',
  maxTokens: 256,
  temperature: 1,
  stop: [],
  parse: {},
};

/** @internal The defaults under a task, which may have its own wording of the prompt. */
export function writeDefaults({ template }: TaskHooks): WriteOptions {
  return { ...WRITE_DEFAULTS, ...(template ? { prompt: template } : {}) };
}

/**
 * Throws `OPTION_INVALID` for an unknown prompt, and for directives that the model, the task or the inner loop cannot
 * follow.
 */
export function checkWriteOptions(
  options: Partial<WriteOptions> = {},
  { model, augmentations }: { model: Model; augmentations?: TaskHooks['augmentations'] },
  { targets = ADAPT_DEFAULTS.targets }: Partial<AdaptOptions> = {},
): void {
  const { name } = editTemplate(options.prompt ?? WRITE_DEFAULTS.prompt);
  if (options.directives) {
    const scope = { layers: model.config.layers, augmentations: Object.keys(augmentations ?? {}) };
    checkDirectiveBounds(options.directives, scope, { targets });
  } else if (name === 'directives') {
    throw makeError('OPTION_INVALID', 'edit.prompt is "directives"; expected edit.directives with it');
  }
}

/** Which edits to write, beyond how. */
export interface WriteCall extends CallOptions {
  /** Edits for each context. */
  samples?: number;
  seed?: number | bigint;
  round?: number;
  /** The task, or what it does in its own way: the prompt's wording, augmentations for directives, how a text is read. */
  task?: TaskHooks;
  /** The processes that write together; each gets all edits. */
  ranks?: Ranks | undefined;
}

/** One edit as written: the parsed edit, and the tokens that an algorithm trains on. */
export interface WrittenEdit {
  readonly context: TaskContext;
  /** Index of the context in the call. */
  readonly group: number;
  /** Index of the edit within its context. */
  readonly sample: number;
  readonly edit: TextEdit;
  /** Prompt, then what was written. */
  readonly tokens: Int32Array;
  readonly promptLength: number;
  /** The sampler's log-prob of each written token. */
  readonly samplerLogprobs: Float32Array;
  readonly finish: 'length' | 'stop' | 'context';
}

/**
 * Writes `samples` edits (1) for each context, context by context. The draws of an edit depend only on
 * (seed, round, index of the context, index of the edit), not on what else is in the call.
 */
export async function writeEdits(
  writer: Fork,
  contexts: readonly TaskContext[],
  given: Partial<WriteOptions> & WriteCall = {},
): Promise<WrittenEdit[]> {
  const { samples = 1, seed = 0, round = 0, task = {}, ranks, signal, onProgress, ...rest } = given;
  const { augmentations } = task;
  const options = { ...writeDefaults(task), ...rest };
  const { tokenizer, config } = writer.model;
  const template = editTemplate(options.prompt);
  const reading = { ...options.parse, directives: options.directives, layers: config.layers, augmentations };
  const prompts = contexts.map((context) => renderEditPrompt(template, context, tokenizer, options.form));
  const settings = { maxTokens: options.maxTokens, temperature: options.temperature, topP: 1, topK: 0 };
  const items = contexts.flatMap((_, group) =>
    Array.from({ length: samples }, (__, sample) => ({ group, sample })),
  );
  const written = await shared(ranks, `edits of round ${round}`, items, async (mine) => {
    const rows = [...new Set(mine.map(({ group }) => group))].map((group) => ({
      fork: writer,
      prompt: prompts[group]!.tokens,
      samples,
      only: mine.flatMap((item) => (item.group === group ? [item.sample] : [])),
      seed: deriveKey(seed, 'edit', [round, group]),
    }));
    const made = await generate(rows, { ...settings, stop: [...options.stop], signal, onProgress });
    return made.map(({ text, tokens, logprobs, finish }) => ({ text, tokens, logprobs, finish }));
  });
  return written.map(({ text, tokens, logprobs, finish }, index) => {
    const group = Math.floor(index / samples);
    const context = contexts[group]!;
    const { tokens: prompt, opening } = prompts[group]!;
    return {
      context,
      group,
      sample: index % samples,
      edit: task.parse?.(text, context, reading, opening) ?? parseEdit(text, context, reading, opening),
      tokens: concatenate(prompt, tokens),
      promptLength: prompt.length,
      samplerLogprobs: logprobs,
      finish,
    };
  });
}

/** What an algorithm learns from: the edits with their rewards, one group a context. */
export function toRollouts(
  edits: readonly WrittenEdit[],
  rewards: readonly { readonly reward: number; readonly invalid?: unknown }[],
): Rollout[] {
  return edits.map(({ group, tokens, promptLength, samplerLogprobs }, index) => {
    const { reward, invalid } = rewards[index]!;
    return { group, tokens, promptLength, samplerLogprobs, reward, invalid: invalid !== undefined };
  });
}

function concatenate(left: Int32Array, right: Int32Array): Int32Array {
  const joined = new Int32Array(left.length + right.length);
  joined.set(left);
  joined.set(right, left.length);
  return joined;
}
