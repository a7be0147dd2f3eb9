/** The closing table in words: figures with intervals, and no claim that the interval does not carry. */
import type { Comparison, MethodDifference } from './compare.js';
import { guardLines } from './guard/summary.js';
import type { MeasureName } from './reward/measure.js';
import { direction, type Interval } from './reward/statistics.js';

const UNITS: Readonly<Record<MeasureName, string>> = {
  likelihood: 'log-likelihood of the gold answer, nats a token',
  exact: 'exact match',
  f1: 'F1',
  recall: 'share of gold words found',
};

/** A measure of a grader or of a task has its name for a unit. */
function unitOf(measure: MeasureName): string {
  return UNITS[measure] ?? measure;
}

/** The table, the paired differences and what they say, as lines of plain text. */
export function comparisonText(comparison: Comparison): string[] {
  const { measures, methods, passages, questions, samples } = comparison;
  const header = ['', ...measures.map(unitOf)];
  const rows = methods.map(({ method, intervals, invalid }) => [
    invalid > 0 ? `${method} (${invalid} invalid)` : method,
    ...measures.map((measure) => intervalText(intervals[measure]!, measure)),
  ]);
  return [
    `${passages} unseen passages, ${questions} questions, ${plural(samples, 'edit')} a passage; mean [95 % interval]`,
    '',
    ...columns([header, ...rows]),
    '',
    'Paired differences on the same questions:',
    ...columns(
      comparison.differences.map(({ left, right, measure, interval }) => [
        `  ${left} − ${right}`,
        unitOf(measure),
        intervalText(interval, measure, true),
        VERDICTS[direction(interval)],
      ]),
    ),
    '',
    ...(comparison.guards
      ? ['Guards against reward hacking (largest of any round):', ...guardLines(comparison.guards), '']
      : []),
    ...conclusions(comparison),
  ];
}

const VERDICTS = { up: 'better', down: 'worse', undecided: 'no difference shown' };

/** One sentence a measure on whether training the policy helped: "learns" only where the interval excludes zero. */
export function conclusions(comparison: Comparison): string[] {
  const { differences, passages, adaptFrom } = comparison;
  const trained = differences.filter(
    ({ left, right }) => left === 'trained edits' && right === 'untrained edits',
  );
  const sentences = trained.map((difference) => conclusion(difference, adaptFrom));
  const caution = `Intervals resample the ${plural(passages, 'passage')}, not training runs: they say nothing about another seed.`;
  return [...sentences, caution];
}

function conclusion({ measure, interval }: MethodDifference, adaptFrom: Comparison['adaptFrom']): string {
  const figure = `trained − untrained edits ${intervalText(interval, measure, true)} ${unitOf(measure)}`;
  // Stacked on the policy, trained edits also profit from what the policy itself has become (the last row).
  const what = adaptFrom === 'base' ? 'to write better edits' : '(better edits, or a better model to edit)';
  switch (direction(interval)) {
    case 'up':
      return `The policy learns ${what}: ${figure}; the interval excludes zero.`;
    case 'down':
      return `Training made things worse: ${figure}; the interval excludes zero.`;
    case 'undecided':
      return `That the policy learns is not shown: ${figure}; the interval includes zero.`;
  }
}

function intervalText({ mean, low, high }: Interval, measure: MeasureName, signed = false): string {
  if (Number.isNaN(mean)) return 'unknown';
  const percent = measure !== 'likelihood';
  const number = (value: number) => {
    const text = percent ? (100 * value).toFixed(1) : value.toFixed(3);
    return signed && value > 0 ? `+${text}` : text;
  };
  return `${number(mean)}${percent ? ' %' : ''} [${number(low)}, ${number(high)}]`;
}

function plural(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? '' : 's'}`;
}

function columns(rows: readonly (readonly string[])[]): string[] {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  return rows.map((row) =>
    row
      .map((cell, column) => cell.padEnd(widths[column]!))
      .join('  ')
      .trimEnd(),
  );
}
