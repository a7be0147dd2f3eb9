/** `selfedit generate`: continuations of prompts. */
import type { Command } from 'commander';
import { makeError } from '../errors.js';
import { type GenerateRow, generate } from '../generate.js';
import type { Model } from '../model.js';
import { deriveKey } from '../random.js';
import type { TokenInput } from '../rows.js';
import type { ChatMessage } from '../tokenizer/tokenizer.js';
import { invalid, optionalSeed, optionalTexts, textOrTokens } from './fields.js';
import { batches, countLines, type InputLine, readLines } from './jsonl.js';
import {
  addAdapterOption,
  addInputOption,
  addModelOptions,
  integer,
  type ModelOptions,
  number,
  openModel,
  seedOption,
} from './options.js';
import { checkedTokens, logprobsJson, named } from './rows.js';
import type { Session } from './session.js';
import { ForkShelf } from './shelf.js';

interface Options extends ModelOptions {
  adapter: string[];
  input?: string;
  prompt?: string;
  maxTokens: number;
  temperature: number;
  topP: number;
  seed: bigint;
  chat?: boolean;
}

/** Lines of one native call; a row that has finished makes room for the next one of the call. */
const BATCH = 256;

export function addGenerate(program: Command, session: Session): void {
  const command = program.command('generate').description('Continuations of prompts.');
  addInputOption(addAdapterOption(addModelOptions(command)))
    .option('--prompt <text>', 'one prompt, instead of lines to read')
    .option('--max-tokens <n>', 'most new tokens', integer(1), 64)
    .option('--temperature <t>', '0 is greedy', number(0), 1)
    .option(
      '--top-p <p>',
      'smallest set of most likely tokens that reaches this',
      number(0, 1, { open: true }),
      1,
    )
    .addOption(seedOption('the draws'))
    .option('--chat', "put the prompt into the model's chat template, as the user's turn")
    .addHelpText(
      'after',
      `
In, a line each:   {"prompt": "…"} or {"tokens": [ids]} or {"messages": [{"role", "content"}, …]} (always with the
                   chat template), and "id", "seed", "adapter": "DIR" (or several) instead of --adapter.
Out, same order:   {"id"?, "text", "tokens": [ids], "logprobs": […], "finish": "stop" | "length" | "context"}
A line draws by its own seed, or else by --seed and its place in the input: other lines do not change its result.

Example:
  selfedit generate --model smollm2-135m-instruct --chat --prompt "Name a colour." --temperature 0`,
    )
    .action((options: Options) => run(options, session));
}

async function run(options: Options, session: Session): Promise<void> {
  const { prompt, input, adapter, maxTokens, temperature, topP, seed: base } = options;
  if (prompt !== undefined && input !== undefined) {
    throw makeError('OPTION_INVALID', 'both --prompt and --input are given; expected one of them');
  }
  const total = prompt === undefined ? await countLines(input, session) : 1;
  await using model = await openModel(options, session);
  await using shelf = new ForkShelf(model);
  await shelf.get(adapter);
  const source = prompt === undefined ? readLines(input, session) : onlyLine(prompt);
  async function* rows(): AsyncGenerator<GenerateRow & { id: unknown }, void> {
    for await (const line of source) {
      const tokens = await promptOf(model, line, options.chat === true);
      const adapters = optionalTexts(line, 'adapter') ?? adapter;
      yield {
        id: line.fields.id,
        // A prompt that fills the context leaves nothing to generate.
        prompt: checkedTokens(model, tokens, line.where, model.config.maxPositions - 1),
        seed: optionalSeed(line, 'seed') ?? deriveKey(base, 'row', [line.index]),
        fork: await named(line.where, () => shelf.get(adapters)),
      };
    }
  }
  let finished = 0;
  const meter = session.meter({ label: 'generate', unit: 'lines' });
  for await (const batch of batches(rows(), BATCH)) {
    const results = await generate(batch, {
      maxTokens,
      temperature,
      topP,
      signal: session.signal,
      // Only whole rows count as done; the step shows that the others move.
      onProgress: ({ done, total: all, step }) =>
        meter.update(finished + (batch.length * done) / all, total, { status: `step ${step}` }),
    });
    await session.printLines(
      results.map(({ text, tokens, logprobs, finish }, row) => {
        const { id } = batch[row]!;
        return {
          ...(id === undefined ? {} : { id }),
          text,
          tokens: Array.from(tokens),
          logprobs: logprobsJson(logprobs),
          finish,
        };
      }),
    );
    finished += batch.length;
    await shelf.trim();
  }
}

async function* onlyLine(prompt: string): AsyncGenerator<InputLine, void> {
  yield { where: '--prompt', index: 0, fields: { prompt } };
}

/** What the model sees: ids as they are, text, or a conversation in its template. */
async function promptOf(model: Model, line: InputLine, chat: boolean): Promise<TokenInput> {
  const { messages, prompt, tokens } = line.fields;
  const encode = (chatMessages: unknown[]) =>
    named(line.where, () => model.tokenizer.encodeChat(chatMessages as ChatMessage[]));
  if (messages !== undefined) {
    if (prompt !== undefined || tokens !== undefined) {
      throw makeError(
        'INPUT_INVALID',
        `${line.where} has "messages" beside "prompt" or "tokens"; expected one of them`,
      );
    }
    if (Array.isArray(messages)) return encode(messages);
    throw invalid(line, 'messages', messages, 'an array of {role, content}');
  }
  const input = textOrTokens(line, 'prompt');
  return chat && typeof input === 'string' ? encode([{ role: 'user', content: input }]) : input;
}
