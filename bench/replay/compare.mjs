// Ours beside the recorded: the figures, the largest difference, and what explains it.
const average = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const deviation = (values) => {
  const mean = average(values);
  return Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (values.length - 1));
};

/** Rounding to four digits moves a number by half of the last one at most, and a standard deviation of three by as much as twice. */
const FOUR_DIGITS = 5e-5 + 1e-12;
const SAME = 1e-12;

const round = (value) => Math.round(value * 1e4) / 1e4;

/**
 * Rows {what, n, ours, recorded, difference, agrees, why}: `difference` is the largest of the n single ones, `ours` and `recorded` are
 * means. A row agrees when its difference is within what its reason (`why`) allows, which is 1e-12 without one.
 */
export function compare(
  { articles, overall },
  { exact, rounded, local, flips, baselines, answers },
  choices,
) {
  const completions = articles.flatMap((article) => article.completions);
  const each = (from, pick) => from.rewards.flat().map(pick);
  const rows = [];
  const add = (what, ours, recorded, allowed = SAME, why = '') => {
    const difference = Math.max(...ours.map((value, index) => Math.abs(value - recorded[index])));
    rows.push({
      ...{ what, n: ours.length, ours: average(ours), recorded: average(recorded) },
      ...{ difference, agrees: difference <= allowed, why },
    });
  };
  const DIGITS = 'the recording keeps the share of each repeat with four digits (0.3333)';
  for (const [from, allowed, why, note] of [
    [rounded, SAME, '', ' (shares of four digits)'],
    [exact, FOUR_DIGITS, DIGITS, ''],
  ]) {
    const stats = (name) => completions.map((completion) => completion.stats[name]);
    add(
      `edited${note}`,
      each(from, ({ parts }) => parts.edited),
      stats('adapter_mean'),
      allowed,
      why,
    );
    add(
      `baseline${note}`,
      each(from, ({ parts }) => parts.unedited),
      stats('baseline_mean'),
      allowed,
      why,
    );
    add(
      `spread of three${note}`,
      each(from, ({ spread }) => spread),
      stats('adapter_std'),
      2 * allowed,
      why,
    );
  }
  const gains = completions.map(({ stats }) => stats.gain_mean);
  // The recording rounds the gain of each repeat, not the two shares that it is made of.
  add(
    'reward (gains of four digits)',
    each(exact, ({ trials }) => average(trials.map(({ reward }) => round(reward)))),
    gains,
  );
  add(
    'reward',
    each(exact, ({ reward }) => reward),
    gains,
    FOUR_DIGITS,
    DIGITS,
  );
  const byArticle = (pick) => rounded.rewards.map((own) => pick(own));
  const stats = (name) => articles.map((article) => article.stats[name]);
  const ROUNDED = 'kept with four digits';
  const edited = (own) => own.map(({ parts }) => parts.edited);
  add(
    'article: baseline',
    byArticle((own) => own[0].parts.unedited),
    stats('baseline_accuracy'),
    FOUR_DIGITS,
    ROUNDED,
  );
  add(
    'article: edited',
    byArticle((own) => average(edited(own))),
    stats('adapter_mean_accuracy'),
    FOUR_DIGITS,
    ROUNDED,
  );
  add(
    'article: gain',
    byArticle((own) => average(own.map(({ reward }) => reward))),
    stats('mean_gain'),
    2 * FOUR_DIGITS,
    ROUNDED,
  );
  add(
    'article: between edits, sd',
    byArticle((own) => deviation(edited(own))),
    stats('adapter_std_over_completions'),
    FOUR_DIGITS,
    ROUNDED,
  );
  add(
    'article: within edits, mean sd',
    byArticle((own) => average(own.map(({ spread }) => spread))),
    stats('mean_adapter_std_within_completions'),
    FOUR_DIGITS,
    ROUNDED,
  );
  const TEN = `over the 50 passages of the paper, of which ${articles.length} are given`;
  // Ten unseen means of shares lie between 0 and 1.
  const bounds = (mean, of) =>
    Math.max(of - (mean * articles.length) / 50, (mean * articles.length + 10) / 50 - of);
  for (const [what, mine, theirs] of [
    ['all: baseline', average(byArticle((own) => own[0].parts.unedited)), overall.baseline_mean_accuracy],
    ['all: edited', average(byArticle((own) => average(edited(own)))), overall.adapter_mean_accuracy],
  ]) {
    add(what, [mine], [theirs], bounds(mine, theirs), TEN);
  }

  const best = recordedChoices(articles, choices);
  const source = choices ? 'chosen (published file)' : 'chosen (published rule on the recorded means)';
  const differs = (from) => from.chosen.map((edit, article) => (edit === best[article] ? 0 : 1));
  const count = (values) => values.reduce((sum, value) => sum + value, 0);
  const zero = articles.map(() => 0);
  add(`${source}, from shares of four digits: others`, differs(rounded), zero);
  // Equal shares are told apart by rounding: only articles in which the recorded choice is one of several that are equal to ours.
  const explained = exact.chosen.map((edit, article) => {
    const own = exact.rewards[article];
    return Math.abs(own[edit].reward - own[best[article]].reward) <= 1e-9 ? best[article] : edit;
  });
  rows.push({
    what: `${source}, from verdicts: others`,
    ...{ n: articles.length, ours: count(differs(exact)), recorded: 0, difference: count(differs(exact)) },
    agrees: explained.every((edit, article) => edit === best[article]),
    why: 'equal shares, of which rounding to four digits makes one the larger: ours takes the first',
  });
  const figures = [
    ['articles with a tie for the best edit', exact.ties, 18],
    ['articles with one baseline in all 15 trainings', baselines, articles.length],
    ['answers', answers, 5460],
    ['verdicts that flip between seeds, %', Math.round(100 * flips), 41],
    ['reliability of three seeds', Math.round(100 * exact.reliability.of[1].value) / 100, 0.31],
  ];
  for (const [what, ours, recorded] of figures) add(what, [ours], [recorded]);
  const agree = local.chosen.filter((edit, article) => edit === best[article]).length;
  rows.push({
    ...{ what: 'for information: reliability of three seeds, graded by local', n: 1 },
    ...{ ours: local.reliability.of[1].value, recorded: exact.reliability.of[1].value },
    ...{ difference: Math.abs(local.reliability.of[1].value - exact.reliability.of[1].value), agrees: true },
    why: `another grader; it chooses the recorded edit in ${agree} of ${articles.length} articles`,
  });
  return rows;
}

/** Index of the recorded choice of each article: from the file, else the largest recorded mean, the first of equal ones. */
function recordedChoices(articles, choices) {
  return articles.map(({ prompt, completions }) => {
    if (!choices) {
      const means = completions.map(({ stats }) => stats.adapter_mean);
      return means.indexOf(Math.max(...means));
    }
    const row = choices.find((choice) => choice.prompt.trim() === prompt.trim());
    return completions.findIndex(({ text }) => text.trim() === row?.completion.trim());
  });
}

const figure = (value) => (Number.isInteger(value) ? `${value}` : value.toFixed(4));

/** The table, then what explains differences. */
export function tableOf(rows) {
  const reasons = [...new Set(rows.map(({ why }) => why).filter((why) => why !== ''))];
  const cells = [
    ['', 'n', 'ours', 'recorded', 'largest difference', ''],
    ...rows.map(({ what, n, ours, recorded, difference, agrees, why }) => [
      ...[what, `${n}`, figure(ours), figure(recorded)],
      difference <= SAME ? '0' : difference.toPrecision(2),
      `${agrees ? '' : 'UNEXPLAINED '}${why === '' ? '' : `(${reasons.indexOf(why) + 1})`}`,
    ]),
  ];
  const widths = cells[0].map((_, column) => Math.max(...cells.map((row) => row[column].length)));
  return [
    ...cells.map((row) =>
      row
        .map((cell, column) => (column === 0 ? cell.padEnd(widths[0]) : cell.padStart(widths[column])))
        .join('  ')
        .trimEnd(),
    ),
    '',
    ...reasons.map((reason, index) => `(${index + 1}) ${reason}`),
  ];
}
