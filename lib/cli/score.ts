/** `selfedit score`: log-probs of given tokens. */
import type { Command } from 'commander';
import { type ScoreRow, score } from '../score.js';
import { optionalTexts, textOrTokens } from './fields.js';
import { batches, countLines, readLines } from './jsonl.js';
import {
  addAdapterOption,
  addInputOption,
  addModelOptions,
  type ModelOptions,
  openModel,
} from './options.js';
import { checkedTokens, logprobsJson, named } from './rows.js';
import type { Session } from './session.js';
import { ForkShelf } from './shelf.js';

interface Options extends ModelOptions {
  adapter: string[];
  input?: string;
}

/** Lines of one native call. */
const BATCH = 256;

export function addScore(program: Command, session: Session): void {
  const command = program.command('score').description('Log-probs of given texts or tokens.');
  addInputOption(addAdapterOption(addModelOptions(command)))
    .addHelpText(
      'after',
      `
In, a line each:   {"tokens": [ids]} or {"text": "…"}, and "adapter": "DIR" (or several) instead of --adapter.
Out, same order:   {"tokens": [ids], "logprobs": [null, …]}: natural log of the probability of each token given
                   the ones before it.
"tokens" are used as they are; "text" gets the special tokens that the model's tokenizer adds.

Example:
  echo '{"text": "Rain falls from clouds."}' | selfedit score --model smollm2-135m-instruct`,
    )
    .action((options: Options) => run(options, session));
}

async function run(options: Options, session: Session): Promise<void> {
  const total = await countLines(options.input, session);
  await using model = await openModel(options, session);
  await using shelf = new ForkShelf(model);
  await shelf.get(options.adapter);
  async function* rows(): AsyncGenerator<ScoreRow & { tokens: Int32Array }, void> {
    for await (const line of readLines(options.input, session)) {
      const tokens = checkedTokens(model, textOrTokens(line, 'text'), line.where);
      const adapters = optionalTexts(line, 'adapter') ?? options.adapter;
      yield { fork: await named(line.where, () => shelf.get(adapters)), tokens };
    }
  }
  let finished = 0;
  const meter = session.meter({ label: 'score', unit: 'lines' });
  for await (const batch of batches(rows(), BATCH)) {
    const logprobs = await score(batch, {
      signal: session.signal,
      onProgress: ({ done, total: all }) => meter.update(finished + (batch.length * done) / all, total),
    });
    await session.printLines(
      batch.map(({ tokens }, row) => ({
        tokens: Array.from(tokens),
        logprobs: logprobsJson(logprobs[row]!),
      })),
    );
    finished += batch.length;
    await shelf.trim();
  }
}
