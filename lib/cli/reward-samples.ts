/** Rewards of edits under several seeds, from where they are kept. */
import { readFile, stat } from 'node:fs/promises';
import { z } from 'zod';
import { makeError } from '../errors.js';
import type { RewardSample } from '../reward/reliability.js';
import { realDisk } from '../run/disk.js';
import { readJournal } from '../run/journal.js';
import { describe, invalid } from './fields.js';
import { type InputLine, readLines } from './jsonl.js';
import type { Session } from './session.js';

/** Rewards of a JSONL file, of standard input, or of the journal of a run folder. */
export async function readSamples(source: string | undefined, session: Session): Promise<RewardSample[]> {
  if (source !== undefined && source !== '-') {
    const facts = await stat(source).catch(() => undefined);
    if (facts?.isDirectory()) return samplesOfRun(source);
  }
  const samples: RewardSample[] = [];
  const seen = new Set<string>();
  for await (const line of readLines(source, session)) {
    const { seed, ...sample } = sampleOf(line);
    const key = JSON.stringify([sample.context, sample.edit, seed]);
    if (seed !== undefined && seen.has(key)) {
      throw makeError(
        'INPUT_INVALID',
        `${line.where}: context ${sample.context}, edit ${sample.edit}, seed ${seed} came before; expected it once`,
      );
    }
    seen.add(key);
    samples.push(sample);
  }
  return samples;
}

function sampleOf(line: InputLine): RewardSample & { seed?: string } {
  const { reward, seed } = line.fields;
  // An unknown reward is null, as in journals.
  if (reward !== null && typeof reward !== 'number') {
    throw invalid(line, 'reward', reward, 'a number, or null where it is unknown');
  }
  return {
    context: name(line, 'context'),
    edit: name(line, 'edit'),
    reward: reward ?? Number.NaN,
    ...(seed === undefined ? {} : { seed: name(line, 'seed') }),
  };
}

function name(line: InputLine, key: string): string {
  const value = line.fields[key];
  if (typeof value === 'string' || typeof value === 'number') return `${value}`;
  throw invalid(line, key, value, 'a string or a number');
}

/** Rewards of each repeat. Every round has contexts of its own, as its policy, and so its edits, are others. */
async function samplesOfRun(run: string): Promise<RewardSample[]> {
  const { lines } = await readJournal(realDisk, run);
  if (lines.length === 0) {
    throw makeError('RUN_INVALID', `${run} holds no journal of a finished round; expected a run folder`);
  }
  const samples = lines.flatMap((line) => {
    if (line.type !== 'edit') return [];
    const { round, context, sample, rewards = [] } = line;
    return (rewards as readonly (number | null)[]).map((reward) => ({
      context: `round ${round}, ${context}`,
      edit: `${sample}`,
      reward: reward ?? Number.NaN,
    }));
  });
  if (samples.length > 0) return samples;
  throw makeError(
    'INPUT_INVALID',
    `the edits of ${run} were trained once each; expected a run with "repeats" of at least 2`,
  );
}

const RECORDING = z.object({
  articles: z.array(
    z.object({
      completions: z.array(
        z.object({ questions: z.array(z.object({ rep: z.number(), adapter_correct: z.boolean() })) }),
      ),
    }),
  ),
});

/**
 * Rewards of the published recording: the share of an edit's questions that were answered right after it, for each of its
 * trainings (`rep`). The unedited model's share is the same for all edits of a passage and changes nothing.
 */
export async function samplesOfRecording(path: string): Promise<RewardSample[]> {
  const text = await readFile(path, 'utf8').catch((cause: NodeJS.ErrnoException) => {
    throw makeError(
      cause.code === 'ENOENT' ? 'FILE_NOT_FOUND' : 'IO',
      `cannot read ${path}: ${cause.message}`,
      cause,
    );
  });
  const parsed = RECORDING.safeParse(json(text, path));
  if (!parsed.success) {
    const { path: at, message } = parsed.error.issues[0]!;
    throw makeError(
      'INPUT_INVALID',
      `${path} is no recording of rewards: ${at.join('.') || 'the whole'}: ${message}; ` +
        'expected articles, their completions, and questions with "rep" and "adapter_correct"',
    );
  }
  return parsed.data.articles.flatMap(({ completions }, article) =>
    completions.flatMap(({ questions }, edit) => {
      const verdicts = new Map<number, boolean[]>();
      for (const { rep, adapter_correct } of questions) {
        verdicts.set(rep, [...(verdicts.get(rep) ?? []), adapter_correct]);
      }
      return [...verdicts.values()].map((answers) => ({
        context: `${article}`,
        edit: `${edit}`,
        reward: answers.filter((right) => right).length / answers.length,
      }));
    }),
  );
}

function json(text: string, path: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch (cause) {
    throw makeError('INPUT_INVALID', `${path} is not JSON: found ${describe(text.slice(0, 20))}`, cause);
  }
}
