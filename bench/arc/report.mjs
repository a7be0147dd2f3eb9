// The tables of `npm run bench:arc`.
const percent = (value) => `${Math.round(100 * value)} %`;
const number = (value) => (value < 0 ? '−' : '') + Math.abs(value).toFixed(2);
const share = ({ mean, low, high }) =>
  `${percent(mean)} [${Math.round(100 * low)}, ${Math.round(100 * high)}]`;
const interval = ({ mean, low, high }) => `${number(mean)} [${number(low)}, ${number(high)}]`;

const row = (cells) => `| ${cells.join(' | ')} |`;

/** Lines of Markdown: a table a part that is there. */
export function textOf({ edits, choice, policy, smollm2 }) {
  return [
    ...(edits
      ? [
          'Known moves',
          '',
          ...tableOf(edits.moves),
          '',
          'Two moves at once, which no text of the model shows',
          '',
          ...tableOf(edits.composed),
          '',
        ]
      : []),
    ...(choice
      ? [
          `Directives chosen by a held-out demonstration, ${choice.tasks} tasks × ${choice.candidates} candidates (${choice.invalid} invalid)`,
          '',
          ...choiceOf(choice),
          '',
        ]
      : []),
    ...(policy
      ? [
          `seal(): ${policy.rounds} rounds of ${policy.contexts} tasks × ${policy.edits} edits, ${policy.tasks} unseen tasks`,
          '',
          ...policyOf(policy),
          '',
        ]
      : []),
    ...(smollm2 ? ["SmolLM2-135M-Instruct, SEAL's evaluation tasks", '', ...smollm2Of(smollm2)] : []),
  ];
}

function tableOf(arms) {
  return [
    '| edit | one prediction | first attempt of the vote | two attempts | cells | likelihood |',
    '|---|---|---|---|---|---|',
    ...arms.map(({ name, plain, attempt1, solved, cells, likelihood }) =>
      row([name, share(plain), share(attempt1), share(solved), percent(cells), number(likelihood)]),
    ),
    '',
    row(['solved by rule', ...Object.keys(arms[0]?.byRule ?? {})]),
    `|${'---|'.repeat(1 + Object.keys(arms[0]?.byRule ?? {}).length)}`,
    ...arms.map(({ name, byRule }) =>
      row([name, ...Object.values(byRule).map(({ n, solved }) => `${solved} of ${n}`)]),
    ),
  ];
}

function choiceOf(choice) {
  return [
    '| measure | mean of the candidates | chosen | chosen − mean | best by the test itself |',
    '|---|---|---|---|---|',
    ...['solved', 'cells', 'likelihood'].map((measure) => {
      const { mean, chosen, difference, oracle } = choice[measure];
      return row([measure, interval(mean), interval(chosen), interval(difference), number(oracle)]);
    }),
  ];
}

function policyOf(policy) {
  const { untrained, trained } = policy.written;
  const chose = ({ switches, output, learningRate, epochs, invalid }) =>
    `${Object.entries(switches)
      .map(([name, of]) => `${name} ${percent(of)}`)
      .join(
        ', ',
      )}; outputs alone ${percent(output)}; learning rate ${learningRate.toFixed(4)}; epochs ${epochs.toFixed(1)}; invalid ${percent(invalid)}`;
  return [
    '| measure | untrained policy | trained policy | difference |',
    '|---|---|---|---|',
    ...['solved', 'cells', 'likelihood'].map((measure) => {
      const { untrained: before, trained: after, difference } = policy[measure];
      return row([measure, number(before), number(after), interval(difference)]);
    }),
    '',
    `Untrained: ${chose(untrained)}`,
    `Trained: ${chose(trained)}`,
  ];
}

function smollm2Of({ all, before, after }) {
  const line = (name, { n, solved, cells, likelihood }) =>
    row([name, n, share(solved), percent(cells), number(likelihood)]);
  return [
    '| model | tasks | solved | cells | likelihood |',
    '|---|---|---|---|---|',
    line('in context', all),
    ...(after
      ? [line('in context, the smaller tasks', before), line('adapted, the smaller tasks', after)]
      : []),
  ];
}
