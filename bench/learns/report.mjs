// The table and the curves of `npm run bench:learns`.
import { lineChart } from '../lib/svg.mjs';
import { FAMILIES } from './world.mjs';

const number = (value) => (value < 0 ? '−' : '') + Math.abs(value).toFixed(3);
const interval = ({ mean, low, high }) => `${number(mean)} [${number(low)}, ${number(high)}]`;
const percent = (value) => `${Math.round(100 * value)} %`;
const average = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

/** Lines of a Markdown table, and what it says. */
export function tableOf({ references, results, seconds }) {
  const mean = (of) => average(references.map(of));
  const lines = [
    'Log-likelihood of the answers about unseen contexts, nats, mean over seeds: unedited ' +
      `${number(mean(({ unedited }) => unedited))}; after true lines about every fact, all of one family: ` +
      FAMILIES.map(({ name }) => `${name} ${number(mean((reference) => reference[name]))}`).join(', '),
    '',
    '| method | untrained edits | trained edits | trained − untrained [95 % over seeds] | [95 % over contexts] | teaching lines | verdict |',
    '|---|---|---|---|---|---|---|',
  ];
  for (const { title, expect, bySeed, byContext, up, holds, runs } of results) {
    const score = (of) => number(average(runs.map((run) => average(of(run).flat()))));
    const teaching = (when) => percent(average(runs.map(({ lines }) => lines?.[when].answer ?? Number.NaN)));
    const cells = [
      title,
      score(({ untrained }) => untrained),
      score(({ trained }) => trained),
      interval(bySeed),
      `[${number(byContext.low)}, ${number(byContext.high)}]`,
      runs.every(({ lines }) => lines) ? `${teaching('untrained')} → ${teaching('trained')}` : '–',
      `${up ? 'learns' : 'does not learn'}${holds ? '' : ` (expected: ${expect})`}`,
    ];
    lines.push(`| ${cells.join(' | ')} |`);
  }
  return [...lines, '', `total: ${seconds} s`];
}

/** Mean gain over the untrained edits by round, a line a method. */
export function curvesOf({ results, seeds }) {
  const series = results.map(({ name, runs }) => {
    const points = runs[0].curve.map(([round], at) => {
      return [round, average(runs.map(({ curve }) => curve[at][1] - curve[0][1]))];
    });
    return { name, points };
  });
  return lineChart({
    title: `Score on unseen contexts, gain over untrained edits (mean of ${seeds.length} seeds)`,
    x: { label: 'rounds of training' },
    y: { label: 'nats an answer' },
    series,
  });
}

/** Six digits a number, a line an entry of the results and no more. */
export function jsonOf({ results, ...rest }) {
  const compact = (value) =>
    JSON.stringify(value, (_, inner) => (typeof inner === 'number' ? Number(inner.toPrecision(6)) : inner));
  const head = Object.entries(rest).map(([key, value]) => `${JSON.stringify(key)}: ${compact(value)}`);
  return `{\n${[...head, `"results": [\n${results.map(compact).join(',\n')}\n]`].join(',\n')}\n}`;
}
