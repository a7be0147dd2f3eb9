// Tables and file of `npm run bench:reliability`.
import { reliability } from 'selfedit';

const average = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
/** Seconds of one edit under one seed in the published pipeline: 750 edits of a 7B model in six hours on two H100s. */
export const PUBLISHED_SECONDS = 28.8;
const WANTED = 0.8;

/**
 * For each reward its reliability by number of seeds; and what a seed costs, in seconds and in tokens read or written by the model
 * (a trained token counts three times: forward, and twice as much for the backward).
 */
export function summaryOf(parts) {
  const names = Object.keys(parts[0].rewards);
  const rewards = names.map((name) => {
    const rows = parts.flatMap(({ id, rewards: own }) =>
      own[name].flatMap((seeds, edit) => seeds.map((reward) => ({ context: id, edit: `${edit}`, reward }))),
    );
    const { betweenEdits, betweenSeeds, negative, of, advice } = reliability(rows, {
      seeds: [1, 2, 3, 5, 10],
      wanted: WANTED,
    });
    return { name, betweenEdits, betweenSeeds, negative, of, advice };
  });
  const mean = (kind, part) => average(parts.map((one) => one[kind][part]));
  const cost = (answers) => ({
    seconds: mean('seconds', 'train') + mean('seconds', answers),
    tokens: 3 * mean('tokens', 'train') + mean('tokens', answers),
  });
  return {
    contexts: parts.length,
    edits: parts.reduce((sum, { edits }) => sum + edits, 0),
    rewards,
    cost: { dense: cost('likelihood'), answers: cost('answers') },
  };
}

const DENSE = 'log-likelihood';
const GRADED = 'answers, right or wrong (local)';

/** Lines of Markdown. */
export function tableOf({ contexts, edits, rewards, cost }) {
  const shown = ({ value, low, high }) => `${value.toFixed(2)} [${low.toFixed(2)}, ${high.toFixed(2)}]`;
  const seeds = rewards[0].of.map(({ n }) => n);
  const lines = [
    `${edits} edits of ${contexts} contexts; reliability of the mean of n seeds [95 % over contexts]`,
    '',
    `| reward | ${seeds.map((n) => `n = ${n}`).join(' | ')} | seeds for ${WANTED} |`,
    `|---|${seeds.map(() => '---|').join('')}---|`,
    ...rewards.map(({ name, of, advice }) => {
      const wanted = `${advice.value} [${advice.low}, ${advice.high}]`;
      return `| ${name} | ${of.map(shown).join(' | ')} | ${wanted} |`;
    }),
    '',
    '| for one edit | seeds | reliability | seconds here | tokens × passes |',
    '|---|---|---|---|---|',
  ];
  const dense = rewards.find(({ name }) => name === DENSE);
  const graded = rewards.find(({ name }) => name === GRADED);
  // The careful choice: the whole interval is above what is wanted.
  const enough = dense.advice.high;
  const row = (name, n, value, { seconds, tokens }) =>
    `| ${name} | ${n} | ${value} | ${(n * seconds).toFixed(1)} | ${Math.round(n * tokens)} |`;
  lines.push(
    row(DENSE, enough, `≥ ${WANTED}`, cost.dense),
    row(GRADED, 3, graded.of.find(({ n }) => n === 3).value.toFixed(2), cost.answers),
    `| published pipeline (7B, two H100s) | 3 | 0.31 | ${(3 * PUBLISHED_SECONDS).toFixed(1)} there | – |`,
  );
  return lines;
}

/** JSON of the file, numbers at six digits; what is infinite is null. */
export function jsonOf(value) {
  const short = (_, x) => (typeof x === 'number' && Number.isFinite(x) ? Number(x.toPrecision(6)) : x);
  return JSON.stringify(value, short, 1);
}
