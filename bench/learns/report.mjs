// The table and the curves of `npm run bench:learns`.
import { lineChart } from '../lib/svg.mjs';
import { average } from './examine.mjs';
import { FAMILIES } from './world.mjs';

const number = (value) => (value < 0 ? '−' : '') + Math.abs(value).toFixed(3);
const interval = ({ mean, low, high }) => `${number(mean)} [${number(low)}, ${number(high)}]`;
const percent = (value) => `${Math.round(100 * value)} %`;

/** Lines of a Markdown table, and what it says. */
export function tableOf({ references, results, seconds }) {
  const reference = (name) => {
    const mean = (part) => average(references.map((seed) => seed[name][part]));
    return `${number(mean('score'))} (${percent(mean('exact'))})`;
  };
  const lines = [
    'Log-likelihood of the answers about unseen contexts in nats (answered exactly), mean over seeds: unedited ' +
      `${reference('unedited')}; after true lines about every fact, all of one family: ` +
      `${FAMILIES.map(({ name }) => `${name} ${reference(name)}`).join(', ')}; after training on the context itself ${reference('passage')}`,
    '',
    '| method | untrained | trained | trained − untrained [95 % over seeds] | [95 % over contexts] | exact [95 % of the change, points] | KL on retention texts | teaching lines | verdict |',
    '|---|---|---|---|---|---|---|---|---|',
  ];
  for (const { title, expect, bySeed, byContext, exact, up, holds, runs } of results) {
    const points = `[${[exact.low, exact.high].map((value) => Math.round(100 * value)).join(', ')}]`;
    const mean = (of) => average(runs.flatMap((run) => [of(run)].flat(3)));
    const change = (show, of) =>
      `${show(mean((run) => of(run).untrained))} → ${show(mean((run) => of(run).trained))}`;
    const cells = [
      title,
      number(mean(({ untrained }) => untrained)),
      number(mean(({ trained }) => trained)),
      interval(bySeed),
      `[${number(byContext.low)}, ${number(byContext.high)}]`,
      `${change(percent, (run) => run.exact)} ${points.replaceAll('-', '−')}`,
      change(number, ({ kl }) => kl),
      runs.every(({ lines }) => lines)
        ? change(percent, ({ lines: { untrained, trained } }) => {
            return { untrained: untrained.answer, trained: trained.answer };
          })
        : '–',
      `${up ? 'learns' : 'does not learn'}${{ report: ' (reported only)' }[expect] ?? ''}${holds ? '' : ` (expected: ${expect})`}`,
    ];
    lines.push(`| ${cells.join(' | ')} |`);
  }
  const alike = results
    .filter(({ runs }) => runs.every((run) => run.alike !== undefined))
    .map(({ name, runs }) => `${name} ${number(average(runs.map((run) => run.alike)))}`);
  if (alike.length > 0)
    lines.push('', `Trained heads with the same vector for all contexts: ${alike.join(', ')}`);
  return [...lines, '', `total: ${seconds} s`];
}

/**
 * By round, a line a method, means over the seeds; two SVGs for every chart that methods name: {file: text}.
 * @returns {Record<string, string>}
 */
export function curvesOf({ results, seeds }) {
  const draw = (methods, column, title, label) => {
    const series = methods.map(({ name, runs }) => {
      const points = runs[0].curve.map(([round], at) => {
        return [round, average(runs.map(({ curve }) => curve[at][column]))];
      });
      return { name, points };
    });
    const full = `${title} (mean of ${seeds.length} seeds)`;
    return lineChart({ title: full, x: { label: 'rounds of training' }, y: { label }, series });
  };
  const files = {};
  for (const chart of new Set(results.map((result) => result.chart))) {
    const methods = results.filter((result) => result.chart === chart);
    files[`${chart}.svg`] = draw(
      methods,
      1,
      'Log-likelihood of answers about unseen contexts',
      'nats an answer',
    );
    files[`${chart}-exact.svg`] = draw(
      methods,
      2,
      'Questions about unseen contexts answered exactly',
      'share of the questions',
    );
  }
  return files;
}

/** Four digits a number, a line an entry of the results and no more. What is exact is told by the curves. */
export function jsonOf({ results, ...rest }) {
  const compact = (value) =>
    JSON.stringify(value, (_, inner) => (typeof inner === 'number' ? Number(inner.toPrecision(4)) : inner));
  const head = Object.entries(rest).map(([key, value]) => `${JSON.stringify(key)}: ${compact(value)}`);
  const lines = results.map(({ runs, ...result }) => {
    return compact({ ...result, runs: runs.map(({ exact, ...run }) => run) });
  });
  return `{\n${[...head, `"results": [\n${lines.join(',\n')}\n]`].join(',\n')}\n}`;
}
