#!/usr/bin/env node
// Every way to train on the same passages, each as a run of examples/squad.yaml with its own override, and one table over
// the same unseen passages. A run that is there already is resumed, so the command can be killed and started again.
//   node bench/squad.mjs [--config examples/squad.yaml] [--methods ppo,grpo] [--out runs/squad] [--figures docs/learning]
import { existsSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { cpus } from 'node:os';
import { dirname, isAbsolute, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import {
  bootstrapDifference,
  bootstrapMean,
  direction,
  doctor,
  Model,
  pull,
  readConfig,
  resolveConfig,
  train,
} from 'selfedit';

/** What each method changes in the configuration. */
const METHODS = {
  ppo: { algorithm: 'ppo' },
  grpo: { algorithm: 'grpo' },
  restem: { algorithm: 'restem' },
  ...Object.fromEntries(
    ['modulated', 'gradient', 'sparse', 'lowRank', 'spectral'].flatMap((space) => [
      [`${space}-ppo`, { edit: { kind: 'weights' }, algorithm: 'ppo', weights: { space } }],
      [`${space}-gradient`, { edit: { kind: 'weights' }, algorithm: 'gradient', weights: { space } }],
    ]),
  ),
};
const COMMON = ['unedited', 'passage only'];
/** The configuration with a method's own values over it, section by section. */
const withMethod = (config, method) =>
  Object.fromEntries(
    Object.entries({ ...config, ...method }).map(([key, value]) => [
      key,
      typeof value === 'object' && value !== null && !Array.isArray(value)
        ? { ...config[key], ...value }
        : value,
    ]),
  );

const { values: options } = parseArgs({
  options: {
    config: { type: 'string', default: fileURLToPath(new URL('../examples/squad.yaml', import.meta.url)) },
    methods: { type: 'string', default: Object.keys(METHODS).join(',') },
    out: { type: 'string', default: 'runs/squad' },
    figures: { type: 'string' },
  },
});
const names = options.methods.split(',');
const unknown = names.find((name) => !Object.hasOwn(METHODS, name));
if (unknown !== undefined) {
  console.error(
    `error: method "${unknown}" is not known; expected some of ${Object.keys(METHODS).join(', ')}`,
  );
  process.exit(2);
}

const config = await readConfig(options.config);
const model = await Model.load(existsSync(config.model) ? config.model : await pull(config.model), {
  dtype: config.dtype,
  device: config.device,
});
const columns = [];
for (const name of names) {
  const run = join(options.out, name);
  const begin = performance.now();
  const { comparison } = await train(resolveConfig(withMethod(config, METHODS[name])), {
    run,
    resume: existsSync(join(run, 'config.json')),
    model,
    onEvent: (event) => {
      if (event.type === 'round') {
        const { round, reward } = event.result;
        console.error(
          `${name} round ${round + 1}: mean reward ${reward.mean.toFixed(3)}, ${reward.invalid} invalid`,
        );
      }
      if (event.type === 'method') console.error(`${name}: ${event.method}`);
    },
  });
  console.error(`${name}: ${((performance.now() - begin) / 1e3).toFixed(0)} s`);
  const valuesOf = (method) => comparison.methods.find((result) => result.method === method).values;
  if (columns.length === 0)
    columns.push(...COMMON.map((method) => ({ name: method, values: valuesOf(method) })));
  // Untrained text edits are the same whichever algorithm trains them; every space has its own untrained head.
  const kind = METHODS[name].weights?.space ?? 'text';
  const untrained = `untrained edits (${kind})`;
  if (!columns.some((column) => column.name === untrained)) {
    columns.push({ name: untrained, values: valuesOf('untrained edits') });
  }
  columns.push({ name: `trained edits (${name})`, values: valuesOf('trained edits'), before: untrained });
}
await model.close();

const measures = Object.keys(columns[0].values);
const table = columns.map(({ name, values, before = 'unedited' }) => {
  const other = columns.find((column) => column.name === before);
  const row = { name, before };
  for (const measure of measures) {
    const difference = bootstrapDifference(values[measure], other.values[measure], { key: 2n });
    row[measure] = {
      mean: bootstrapMean(values[measure], { key: 1n }),
      difference,
      verdict: name === before ? '–' : direction(difference),
    };
  }
  return row;
});
const passages = columns[0].values[measures[0]].length;
const text = ({ mean, low, high }) => `${mean.toFixed(3)} [${low.toFixed(3)}, ${high.toFixed(3)}]`;
console.log(
  `${passages} unseen passages; mean [95 % interval over passages] (difference from unedited; of trained edits from untrained ones)`,
);
for (const row of table) {
  const cells = measures.map(
    (measure) =>
      `${measure} ${text(row[measure].mean)} (${text(row[measure].difference)}, ${row[measure].verdict})`,
  );
  console.log(`${row.name.padEnd(36)} ${cells.join('   ')}`);
}
if (options.figures) {
  await mkdir(options.figures, { recursive: true });
  const { version, libtorch } = await doctor();
  const machine = `${cpus()[0]?.model ?? 'unknown'}, ${cpus().length} threads`;
  const versions = { selfedit: version, node: process.version, libtorch: libtorch?.version ?? null, machine };
  // Paths as the configuration has them, not as they are on this machine.
  const portable = (_, value) =>
    typeof value === 'string' && isAbsolute(value) ? relative(dirname(options.config), value) : value;
  const report = { config, versions, passages, table };
  await writeFile(join(options.figures, 'squad.json'), `${JSON.stringify(report, portable, 2)}\n`);
}
