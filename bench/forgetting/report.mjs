// Table, curves and file of `npm run bench:forgetting`.
import { bootstrapDifference, bootstrapMean } from 'selfedit';
import { stacked } from '../lib/svg.mjs';

const MEASURES = ['gain', 'kl', 'text', 'other'];
const NAMES = {
  untrained: 'weights, untrained (the inner loop on the passage)',
  gradient: 'weights, gradient path, λ = β',
  ppo: 'weights, PPO, β in the reward',
  'text, any': 'text, the first edit',
  text: 'text, best of n by reward − β · KL',
};
const number = (value) => (value < 0 ? '−' : '') + Math.abs(value).toFixed(3);
const interval = ({ mean, low, high }) => `${number(mean)} [${number(low)}, ${number(high)}]`;

/**
 * For every arm and β, and each measure: mean over the unseen passages of all seeds, and the difference from β = 0 on the same
 * passages, with 95 % bootstrap intervals over passages.
 */
export function summaryOf(parts, betas) {
  const results = parts.flatMap(({ seed, results: own }) => own.map((one) => ({ seed, ...one })));
  const valuesOf = (arm, beta, measure, seeds) =>
    seeds.flatMap((seed) => {
      const { values } = results.find((one) => one.seed === seed && one.arm === arm && one.beta === beta);
      return values.map((value) => [value[measure]]);
    });
  const seedsOf = (arm, beta) =>
    results.filter((one) => one.arm === arm && one.beta === beta).map(({ seed }) => seed);
  const rows = [];
  for (const arm of Object.keys(NAMES)) {
    for (const beta of [undefined, ...betas]) {
      const seeds = seedsOf(arm, beta);
      if (seeds.length === 0) continue;
      const row = { arm, beta, seeds: seeds.length };
      const scales = results.flatMap((one) => (one.arm === arm && one.beta === beta ? [one.scale] : []));
      if (scales[0] !== undefined) row.scale = scales.reduce((sum, value) => sum + value, 0) / scales.length;
      const paired = beta > 0 ? seeds.filter((seed) => seedsOf(arm, 0).includes(seed)) : [];
      for (const measure of MEASURES) {
        const values = valuesOf(arm, beta, measure, seeds);
        row[measure] = bootstrapMean(values, { key: 1n });
        if (paired.length === 0) continue;
        const [left, right] = [beta, 0].map((which) => valuesOf(arm, which, measure, paired));
        row[measure].difference = bootstrapDifference(left, right, { key: 2n });
      }
      rows.push(row);
    }
  }
  return rows;
}

/** Lines of a Markdown table, and how it was made. */
export function tableOf(summary, parts) {
  const lines = [
    '| edits | β | gain | KL on held-out texts | rise of their loss | rise of the loss of answers about other passages |',
    '|---|---|---|---|---|---|',
  ];
  for (const row of summary) {
    const cells = MEASURES.map((measure) => interval(row[measure]));
    lines.push(`| ${[NAMES[row.arm], row.beta ?? '–', ...cells].join(' | ')} |`);
  }
  lines.push(
    '',
    '| less β = 0 | β | gain | KL | loss of texts | loss of other answers |',
    '|---|---|---|---|---|---|',
  );
  for (const row of summary.filter(({ gain }) => gain.difference)) {
    const cells = MEASURES.map((measure) => interval(row[measure].difference));
    lines.push(`| ${[NAMES[row.arm], row.beta, ...cells].join(' | ')} |`);
  }
  const seconds = parts.reduce((sum, part) => sum + part.seconds, 0);
  const { n } = summary[0].gain;
  return [
    ...lines,
    '',
    `${n} unseen passages, ${new Set(parts.map(({ seed }) => seed)).size} seeds, ${seconds} s`,
  ];
}

/** Gain, KL and the rise of the texts' loss by β; β = 0 stands a step left of the smallest. */
export function chartOf(summary, betas) {
  const zero = betas[1] === undefined ? 1 : betas[1] / 3;
  const label = {
    gain: 'Gain on unseen passages, by β',
    kl: 'KL(edited ‖ unedited) on held-out texts',
    text: 'Rise of the loss of held-out texts',
  };
  return stacked(
    Object.entries(label).map(([measure, title]) => ({
      title,
      x: { label: 'β', log: true, mark: (value) => (value === zero ? '0' : undefined) },
      y: { label: 'nats a token' },
      series: ['gradient', 'ppo', 'text'].map((arm) => ({
        name: { gradient: 'gradient path', ppo: 'PPO', text: 'best of n texts' }[arm],
        points: summary
          .filter((row) => row.arm === arm)
          .map((row) => [row.beta === 0 ? zero : row.beta, row[measure].mean]),
      })),
    })),
  );
}

/** Six digits a number, a line a part. */
export function jsonOf({ parts, summary, ...rest }) {
  const compact = (value) =>
    JSON.stringify(value, (_, inner) => (typeof inner === 'number' ? Number(inner.toPrecision(6)) : inner));
  const head = Object.entries(rest).map(([key, value]) => `${JSON.stringify(key)}: ${compact(value)}`);
  const list = (name, rows) => `"${name}": [\n${rows.map(compact).join(',\n')}\n]`;
  return `{\n${[...head, list('summary', summary), list('parts', parts)].join(',\n')}\n}`;
}
