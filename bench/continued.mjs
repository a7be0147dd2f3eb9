// Continued pretraining on SmolLM2: the passages of bench:stream's first streams trained together, low-rank and full weights.
//   --model NAME|FOLDER|FILE   smollm2-135m-instruct by default;  --passages 32
//   --weights lowRank,full     which
//   --out FOLDER               continued.json; docs/stream by default. Written after each kind; what is there is kept
import { existsSync, readFileSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { cpus } from 'node:os';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { continuedPretraining, doctor, Model, pull } from 'selfedit';
import { drawWorld, INNER } from './stream/world.mjs';

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
/** Low-rank as one edit of a stream, with the rank that many passages share. */
const KINDS = {
  lowRank: { ...INNER, rank: 64, alpha: 128, batchSize: 8, learningRate: 1e-3 },
  full: { epochs: INNER.epochs, batchSize: 8, learningRate: 5e-5, targets: ['all'] },
};

const text = { type: 'string' };
const { values: given } = parseArgs({ options: { model: text, passages: text, weights: text, out: text } });
const passages = Number(given.passages ?? 32);
const name = given.model ?? 'smollm2-135m-instruct';
const world = await drawWorld({
  recorded: here('../../shared/data/seal/self_edits.json'),
  corpus: here('../examples/corpus.json'),
  ...{ sequences: 1, length: passages, seed: 1 },
});
const model = await Model.load(existsSync(name) ? name : await pull(name), { dtype: 'bfloat16' });
const parent = model.fork();
const contexts = world.streams[0];
const edits = [];
for (const context of contexts) edits.push(...(await world.editsOf(parent, context, 1)));

const out = given.out ?? here('../docs/stream');
const file = join(out, 'continued.json');
await mkdir(out, { recursive: true });
const results = existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')).results : [];
const { version, libtorch } = await doctor();
const machine = `${cpus()[0]?.model ?? 'unknown'}, ${cpus().length} threads`;
const versions = { selfedit: version, node: process.version, libtorch: libtorch?.version ?? null, machine };
const settings = { model: basename(name), dtype: 'bfloat16', edits: world.edits, passages };
for (const weights of given.weights?.split(',') ?? Object.keys(KINDS)) {
  if (results.some((one) => one.weights === weights)) continue;
  const start = performance.now();
  const arms = await continuedPretraining({
    ...{ parent, contexts, weights, adapt: KINDS[weights], seed: 1 },
    // An edit's documents and the passage behind them.
    edits: { 'recorded edits': edits },
    reward: { measure: 'likelihood', report: ['recall'], maxAnswerTokens: 16 },
    onArm: (arm) => console.error(`${weights}, ${arm}`),
  });
  results.push({
    ...{ weights, adapt: KINDS[weights], seconds: Math.round((performance.now() - start) / 1e3) },
    arms: arms.map(({ values: _, loss, ...arm }) => ({ ...arm, steps: loss.length, lastLoss: loss.at(-1) })),
  });
  const rounded = (_, value) => (typeof value === 'number' ? Number(value.toPrecision(5)) : value);
  await writeFile(file, `${JSON.stringify({ settings, versions, results }, rounded, 1)}\n`);
}
await parent.close();
await model.close();

const interval = ({ mean, low, high }, digits) =>
  `${mean.toFixed(digits)} [${low.toFixed(digits)}, ${high.toFixed(digits)}]`;
console.log('| weights | arm | documents | likelihood, nats a token | gain | beyond passages | recall, % |');
console.log('|---|---|---|---|---|---|---|');
for (const { weights, arms } of results) {
  for (const { arm, documents, intervals, gain, beyondPassages } of arms) {
    const cells = [intervals.likelihood, gain?.likelihood, beyondPassages?.likelihood].map((one) =>
      one ? interval(one, 2) : '–',
    );
    console.log(
      `| ${[weights, arm, documents, ...cells, (100 * intervals.recall.mean).toFixed(1)].join(' | ')} |`,
    );
  }
}
process.exit();
