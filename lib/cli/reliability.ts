/** `selfedit reliability`: how far a reward can be trusted, and how many seeds it needs. */
import { type Command, InvalidArgumentError } from 'commander';
import { makeError } from '../errors.js';
import { type Estimate, type RewardReliability, reliability } from '../reward/reliability.js';
import { number, seedOption } from './options.js';
import { readSamples, samplesOfRecording } from './reward-samples.js';
import type { Session } from './session.js';
import { table } from './table.js';

interface Options {
  recording?: string;
  wanted: number;
  seeds: number[];
  seed: bigint;
  json?: true;
}

export function addReliability(program: Command, session: Session): void {
  program
    .command('reliability')
    .description('How far a reward can be trusted: its variance between edits and between seeds.')
    .argument('[source]', 'JSONL of rewards, or the folder of a run with repeats (default: standard input)')
    .option('--recording <file>', "verdicts in the form of SEAL's published evaluation, instead of a source")
    .option('--wanted <r>', 'the reliability that seeds are advised for, between 0 and 1', between0And1, 0.8)
    .option('--seeds <list>', 'numbers of seeds to report on', seedCounts, [1, 3, 5, 10])
    .addOption(seedOption('the bootstrap'))
    .option('--json', 'one JSON object')
    .addHelpText(
      'after',
      `
In, a line each:   {"context", "edit", "reward", "seed"?}; a reward of null is unknown
Out: variance between the edits of a context and between the seeds of an edit, the reliability of the mean of n seeds, and
the n for the wanted reliability (null in JSON: no number will do). Intervals of 95 %, contexts resampled.

Example:
  selfedit reliability runs/first
  selfedit reliability rewards.jsonl --wanted 0.9 --json`,
    )
    .action((source: string | undefined, options: Options) => run(source, options, session));
}

async function run(source: string | undefined, options: Options, session: Session): Promise<void> {
  const { recording, wanted, seeds, seed } = options;
  if (recording !== undefined && source !== undefined) {
    throw makeError('OPTION_INVALID', 'both a source and --recording are given; expected one of them');
  }
  const samples =
    recording === undefined ? await readSamples(source, session) : await samplesOfRecording(recording);
  const found = reliability(samples, { wanted, seeds, seed });
  await session.print(options.json ? `${JSON.stringify(found)}\n` : describeReliability(found));
}

function describeReliability(found: RewardReliability): string {
  const { betweenEdits, betweenSeeds, advice } = found;
  const all = betweenEdits + betweenSeeds;
  const share = (value: number) => (all > 0 ? `${Math.round((100 * value) / all)} %` : '');
  const unknown = found.unknown > 0 ? `, ${found.unknown} unknown ones left out` : '';
  const parts = [
    ['variance between the edits of a context', betweenEdits.toPrecision(3), share(betweenEdits)],
    ['variance between the seeds of an edit', betweenSeeds.toPrecision(3), share(betweenSeeds)],
    ...found.of.map(({ n, ...estimate }) => [
      `reliability of ${n === 1 ? 'one seed' : `the mean of ${n} seeds`}`,
      figure(estimate.value, 2),
      range(estimate, 2),
    ]),
    [`seeds for a reliability of ${advice.wanted}`, figure(advice.value, 0), range(advice, 0)],
  ];
  const notes = [
    ...(found.negative
      ? [
          'The variance between edits was estimated below 0 and stands as 0: these rewards tell no edits apart.',
        ]
      : []),
    ...(found.contexts < 2 ? ['One context alone gives no interval.'] : []),
  ];
  return `${found.rewards} rewards of ${found.edits} edits of ${found.contexts} contexts${unknown}\n${table(parts)}${notes
    .map((note) => `${note}\n`)
    .join('')}`;
}

function figure(value: number, digits: number): string {
  if (Number.isNaN(value)) return 'unknown';
  return Number.isFinite(value) ? value.toFixed(digits) : 'no number will do';
}

function range({ low, high }: Estimate, digits: number): string {
  return `[${figure(low, digits)}, ${high === Number.POSITIVE_INFINITY ? '∞' : figure(high, digits)}]`;
}

function between0And1(text: string): number {
  const value = number(0, 1, { open: true })(text);
  if (value < 1) return value;
  throw new InvalidArgumentError('Expected a number between 0 and 1.');
}

function seedCounts(text: string): number[] {
  const counts = text.split(',').map(Number);
  if (counts.every((n) => Number.isSafeInteger(n) && n >= 1)) return counts;
  throw new InvalidArgumentError('Expected whole numbers from 1, separated by commas.');
}
