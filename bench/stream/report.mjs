// Tables, curves and file of `npm run bench:stream`.
import { bootstrapDifference, forgettingFigures, meanMatrix } from 'selfedit';
import { stacked } from '../lib/svg.mjs';

/** The report questions alone: choice and gate look at the others. */
const KIND = 'report';
const MEASURES = ['likelihood', 'recall'];
const number = (value, digits = 2) => (value < 0 ? '−' : '') + Math.abs(value).toFixed(digits);
const interval = ({ mean, low, high }, digits) =>
  `${number(mean, digits)} [${number(low, digits)}, ${number(high, digits)}]`;
const percent = ({ mean, low, high }) => interval({ mean: 100 * mean, low: 100 * low, high: 100 * high }, 0);

/**
 * For every arm and measure: figures and mean matrix over all streams of its blocks, and how it differs from no remedy on the same
 * streams, with 95 % bootstrap intervals over streams.
 */
export function summaryOf(parts) {
  const arms = [...new Set(parts.map(({ arm }) => arm))];
  const resultsOf = (arm, blocks) =>
    blocks.flatMap((block) => parts.find((part) => part.arm === arm && part.block === block).results);
  const blocksOf = (arm) => parts.filter((part) => part.arm === arm).map(({ block }) => block);
  return arms.map((arm) => {
    const blocks = blocksOf(arm);
    const results = resultsOf(arm, blocks);
    const steps = results.flatMap((result) => result.steps);
    const row = {
      ...{ arm, streams: results.length, edits: steps.length },
      refused: steps.filter(({ scale }) => scale === 0).length,
      scaled: steps.filter(({ scale }) => scale > 0 && scale < 1).length,
      steps: steps.reduce((sum, step) => sum + step.steps, 0) / steps.length,
    };
    const shared = arm === 'none' ? [] : blocks.filter((block) => blocksOf('none').includes(block));
    for (const measure of MEASURES.filter((name) => results[0].scores[name])) {
      const matrices = results.map(({ scores }) => scores[measure][KIND]);
      row[measure] = { ...forgettingFigures(matrices, { seed: 1 }), matrix: meanMatrix(matrices) };
      if (shared.length === 0) continue;
      const [own, none] = [arm, 'none'].map((which) =>
        resultsOf(which, shared).map((r) => r.scores[measure][KIND]),
      );
      row[measure].difference = Object.fromEntries(
        Object.entries({ immediate: immediateOf, retained: retainedOf, first: firstOf }).map(([name, of]) => {
          const [left, right] = [own, none].map((ms) => ms.map((matrix) => [of(matrix)]));
          return [name, bootstrapDifference(left, right, { key: 2n })];
        }),
      );
    }
    return row;
  });
}

const average = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const immediateOf = (m) => average(m[0].map((before, j) => m[j + 1][j] - before));
const retainedOf = (m) => average(m[0].map((before, j) => m.at(-1)[j] - before));
const firstOf = (m) => m.at(-1)[0] - m[0][0];

/** Lines of Markdown: figures, differences, the matrices beside the published one. */
export function textOf(summary, parts, recorded) {
  const lines = [];
  for (const [measure, unit] of [
    ['likelihood', 'nats a token'],
    ['recall', 'share of gold tokens'],
  ]) {
    lines.push(
      `${measure} (${unit})`,
      '',
      '| remedy | streams | immediate gain | retained | kept of all, % | first passage: gain → at the end | kept of the first, % | refused / scaled |',
      '|---|---|---|---|---|---|---|---|',
    );
    for (const row of summary.filter((one) => one[measure])) {
      const { immediate, retained, kept, keptFirst, first } = row[measure];
      const [zero, one] = first.map(({ mean }) => mean);
      const gains = `${number(one - zero)} → ${number(first.at(-1).mean - zero)}`;
      const cells = [interval(immediate), interval(retained), percent(kept), gains, percent(keptFirst)];
      lines.push(
        `| ${[row.arm, row.streams, ...cells, `${row.refused} / ${row.scaled} of ${row.edits}`].join(' | ')} |`,
      );
    }
    lines.push(
      '',
      '| less no remedy | immediate | retained | first passage at the end |',
      '|---|---|---|---|',
    );
    for (const row of summary.filter((one) => one[measure]?.difference)) {
      const { immediate, retained, first } = row[measure].difference;
      lines.push(`| ${[row.arm, interval(immediate), interval(retained), interval(first)].join(' | ')} |`);
    }
    lines.push('');
  }
  if (recorded)
    lines.push(
      'Published (accuracy of a 7B model by a large grader, %)',
      '',
      ...matrixTable(recorded, { triangle: true }),
      '',
    );
  for (const row of summary.filter(({ recall }) => recall)) {
    lines.push(`${row.arm} (recall, %)`, '', ...matrixTable(row.recall.matrix), '');
  }
  const seconds = parts.reduce((sum, part) => sum + part.seconds, 0);
  return [...lines, `${summary[0].streams} streams, ${parts.length} parts, ${seconds} s`];
}

/** Rows: after so many edits; columns: passages. `triangle`: passages whose edit is still to come were not measured. */
export function matrixTable(matrix, { triangle = false } = {}) {
  const columns = matrix[0].map((_, j) => `${j + 1}`);
  return [
    `| after | ${columns.join(' | ')} |`,
    `|---|${columns.map(() => '---').join('|')}|`,
    ...matrix.map((row, i) => {
      const cells = row.map((value, j) => (triangle && i > 0 && j >= i ? '' : number(100 * value, 1)));
      return `| ${i} | ${cells.join(' | ')} |`;
    }),
  ];
}

/**
 * The first passage's score after every edit: by likelihood, and recall beside the published accuracy. Only arms that ran on all
 * streams: the curves are of the same passages.
 */
export function chartOf(all, recorded) {
  const most = Math.max(...all.map(({ streams }) => streams));
  const summary = all.filter(({ streams }) => streams === most);
  const curve = (row, measure, factor = 1) => row[measure].first.map(({ mean }, i) => [i, factor * mean]);
  const x = { label: 'edits so far' };
  const published = recorded
    ? [{ name: 'published', points: recorded.map((row, i) => [i, 100 * row[0]]) }]
    : [];
  return stacked([
    {
      ...{ title: 'First passage: gain in log-likelihood of the answers', x },
      y: { label: 'nats a token over no edit' },
      series: summary.map((row) => ({
        name: short(row.arm),
        points: curve(row, 'likelihood').map(([i, value], _, [[, zero]]) => [i, value - zero]),
      })),
    },
    {
      ...{ title: 'First passage: recall of answers, and published accuracy', x, y: { label: '%' } },
      series: [
        ...published,
        ...summary
          .filter(({ recall }) => recall)
          .map((row) => ({ name: short(row.arm), points: curve(row, 'recall', 100) })),
      ],
    },
  ]);
}

const short = (arm) =>
  ({
    'half the learning rate': 'half rate',
    'last third of the layers': 'last layers',
    'trained apart and added': 'apart, added',
    'trained anew on all so far': 'trained anew',
    'best of 2 by gain − forgetting': 'best, gain − forg.',
    'best of 2 by gain': 'best, gain',
    'replay and gate': 'replay, gate',
  })[arm] ?? arm;

/** Five digits a number, a line a part. */
export function jsonOf({ parts, summary, ...rest }) {
  const compact = (value) =>
    JSON.stringify(value, (_, inner) => (typeof inner === 'number' ? Number(inner.toPrecision(5)) : inner));
  const head = Object.entries(rest).map(([key, value]) => `${JSON.stringify(key)}: ${compact(value)}`);
  const list = (name, rows) => `"${name}": [\n${rows.map(compact).join(',\n')}\n]`;
  return `{\n${[...head, list('summary', summary), list('parts', parts)].join(',\n')}\n}`;
}
