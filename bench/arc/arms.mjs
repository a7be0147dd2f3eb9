// What adaptation does on tasks that the model has not seen, and what choosing the directives adds.
import { applyEdits, bootstrapDifference, bootstrapMean, deriveKey, wilson } from 'selfedit';
import { ADAPT, candidates, ruleOf, taskOf } from './world.mjs';

/** Forks trained and asked together. */
const BATCH = 8;

const average = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

/** The fixed edits that are compared: the first switches nothing on. */
const TRAINING = { learningRate: 0.003, epochs: 4, loss: 'output' };
export const EDITS = {
  none: null,
  'leave-one-out': { ...TRAINING, augmentations: [] },
  basic: { ...TRAINING, augmentations: ['basic'] },
  'all four': { ...TRAINING, augmentations: ['basic', 'size', 'chain', 'repeat'] },
};

/**
 * Trains a fork a (task, text of directives) and asks it: one {plain, attempt1, solved, cells, likelihood} a row; `plain` is
 * one prediction of the problem as it is. `text: null` leaves the model as it is. `held`: the same of the held-out
 * demonstration, where the task has one.
 */
export async function examine(model, tasks, rows, { seed = 0, signal, options = {} } = {}) {
  const voted = taskOf(tasks, options);
  const plain = taskOf(tasks, { ...options, symmetries: ['identity'] });
  const contexts = new Map(voted.contexts(0, tasks.length).map((context) => [context.id, context]));
  const parent = model.fork();
  const results = [];
  try {
    for (let first = 0; first < rows.length; first += BATCH) {
      const batch = rows.slice(first, first + BATCH).map(({ id, text }, at) => {
        const context = contexts.get(id);
        const edit = text === null ? { documents: [] } : voted.parse(text, context);
        return { context, edit, seed: deriveKey(seed, 'adapt', [first + at]) };
      });
      const copies = await applyEdits(parent, batch, { ...ADAPT, signal });
      const asked = copies.map(({ fork }, at) => ({ fork, context: batch[at].context }));
      const answers = await voted.ask(asked, { signal });
      const once = await plain.ask(asked, { signal, measures: ['attempt1'] });
      for (const copy of copies) await copy.close();
      results.push(
        ...answers.map(({ paying, report }, at) => ({
          ...paying[0].scores,
          plain: once[at].paying[0].scores.attempt1,
          ...(report[0] ? { held: report[0].scores } : {}),
          invalid: batch[at].edit.invalid ?? null,
        })),
      );
    }
  } finally {
    await parent.close();
  }
  return results;
}

const MEASURES = ['plain', 'attempt1', 'solved'];

/** Every fixed edit on every task: shares with Wilson's 95 % intervals, means of cells and likelihood, and solved by rule. */
export async function compareEdits(model, tasks, call) {
  const arms = [];
  for (const [name, directives] of Object.entries(EDITS)) {
    const start = performance.now();
    const text = directives === null ? null : JSON.stringify(directives);
    const rows = await examine(
      model,
      tasks,
      tasks.map(({ id }) => ({ id, text })),
      call,
    );
    const shares = Object.fromEntries(
      MEASURES.map((measure) => {
        const { mean, low, high } = wilson(rows.filter((row) => row[measure] === 1).length, rows.length);
        return [measure, { mean, low, high }];
      }),
    );
    const byRule = {};
    for (const [index, { id }] of tasks.entries()) {
      byRule[ruleOf(id)] ??= { n: 0, plain: 0, solved: 0 };
      byRule[ruleOf(id)].n++;
      byRule[ruleOf(id)].plain += rows[index].plain;
      byRule[ruleOf(id)].solved += rows[index].solved;
    }
    arms.push({
      name,
      directives,
      n: rows.length,
      ...shares,
      cells: average(rows.map(({ cells }) => cells)),
      likelihood: average(rows.map(({ likelihood }) => likelihood)),
      byRule,
      seconds: Math.round((performance.now() - start) / 1000),
    });
  }
  return arms;
}

/**
 * Best of `count` directives by chance for every task, chosen by the likelihood of a demonstration that is held out of
 * training, and judged on the test, which had no part in the choice: mean over the candidates, the chosen one, and their
 * difference with a bootstrap over tasks. `oracle`: the best by the test itself, which no honest choice can know.
 */
export async function chooseDirectives(model, tasks, { count, seed = 1, signal }) {
  const texts = tasks.map((_, index) => candidates(Number(seed) * 1000 + index, count));
  const rows = tasks.flatMap(({ id }, index) => texts[index].map((text) => ({ id, text })));
  const results = await examine(model, tasks, rows, { seed, signal, options: { heldOut: 1 } });
  const groups = tasks.map((_, index) => results.slice(index * count, (index + 1) * count));
  const chosen = groups.map((group) =>
    group.reduce((best, row, at) => (row.held.likelihood > group[best].held.likelihood ? at : best), 0),
  );
  const measures = Object.fromEntries(
    ['solved', 'cells', 'likelihood'].map((measure) => {
      const means = groups.map((group) => [average(group.map((row) => row[measure]))]);
      const best = groups.map((group, index) => [group[chosen[index]][measure]]);
      const oracle = groups.map((group) => Math.max(...group.map((row) => row[measure])));
      const interval = (made) => ({ mean: made.mean, low: made.low, high: made.high });
      const key = deriveKey(0, measure);
      return [
        measure,
        {
          mean: interval(bootstrapMean(means, { key })),
          chosen: interval(bootstrapMean(best, { key })),
          difference: interval(bootstrapDifference(best, means, { key })),
          oracle: average(oracle),
        },
      ];
    }),
  );
  return {
    tasks: tasks.length,
    candidates: count,
    invalid: results.filter(({ invalid }) => invalid !== null).length,
    ...measures,
    chosen: chosen.map((at, index) => ({ id: tasks[index].id, text: texts[index][at] })),
  };
}
