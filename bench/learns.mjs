// Proof that the loop learns: `npm run bench:learns`. A small world whose model the benchmark pre-trains itself, in which some
// edits teach and some do not; every method, over text edits and over weight edits, must raise the score on contexts that it has not seen, over five seeds, and a
// random reward must not. Exits with 1 when one of them fails. docs/learning.md says what all of it means.
//   --out FOLDER    learning.json and the curves as SVG; docs/learning by default
//   --model FOLDER  a model that an earlier run has pre-trained (kept there when the folder is new)
//   --methods a,b   only these; --seeds N; --rounds N; --quick: a look, whose verdict means nothing
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { doctor } from 'selfedit';
import { METHODS } from './learns/methods.mjs';
import { openModel, pretrain } from './learns/pretrain.mjs';
import { curvesOf, jsonOf, tableOf } from './learns/report.mjs';
import { referenceScores } from './learns/text-edits.mjs';
import { verdictOf } from './learns/verdict.mjs';
import { taskOf } from './learns/world.mjs';

const OUT = fileURLToPath(new URL('../docs/learning', import.meta.url));
const FULL = { pretraining: 2400, rounds: 16, contexts: 8, examine: 4, training: 128, evaluation: 48 };
const QUICK = { pretraining: 60, rounds: 2, contexts: 2, examine: 1, training: 8, evaluation: 4 };

const log = (line) => console.error(line);
const since = (start) => Math.round((performance.now() - start) / 1000);

async function main() {
  const text = { type: 'string' };
  const { values } = parseArgs({
    options: { out: text, model: text, methods: text, seeds: text, rounds: text, quick: { type: 'boolean' } },
  });
  const size = { ...(values.quick ? QUICK : FULL) };
  if (values.rounds) {
    size.rounds = Number(values.rounds);
    size.examine = Math.ceil(size.rounds / 6);
    size.training = size.rounds * size.contexts;
  }
  const seeds = Array.from({ length: Number(values.seeds ?? 5) }, (_, index) => index + 1);
  const names = values.methods?.split(',') ?? METHODS.map(({ name }) => name);
  const methods = names.map((name) => {
    const found = METHODS.find((method) => method.name === name);
    if (found) return found;
    throw new RangeError(
      `--methods: "${name}" is none of ${METHODS.map((method) => method.name).join(', ')}`,
    );
  });

  const start = performance.now();
  const folder = values.model ?? mkdtempSync(join(tmpdir(), 'selfedit-learns-'));
  if (!values.model) process.once('exit', () => rmSync(folder, { recursive: true, force: true }));
  let pretraining = null;
  if (!existsSync(join(folder, 'model.safetensors'))) {
    const loss = await pretrain(folder, { steps: size.pretraining, log });
    const last = loss.slice(-20);
    pretraining = {
      steps: loss.length,
      loss: [loss[0], last.reduce((sum, value) => sum + value, 0) / last.length],
      seconds: since(start),
    };
    log(
      `pre-trained: loss ${pretraining.loss.map((value) => value.toFixed(3)).join(' → ')} in ${pretraining.seconds} s`,
    );
  }
  const model = await openModel(folder);
  const worlds = seeds.map((seed) => ({ model, seed, task: taskOf(seed, size), ...size }));
  const references = [];
  for (const world of worlds) references.push(await referenceScores(world));

  const results = [];
  for (const method of methods) {
    const began = performance.now();
    const runs = [];
    for (const world of worlds) {
      runs.push(await method.train(world));
      log(
        `${method.name}, seed ${world.seed}: ${runs
          .at(-1)
          .curve.map(([, score]) => score.toFixed(3))
          .join(' ')}`,
      );
    }
    const verdict = verdictOf(method, runs);
    const { name, title, expect, chart } = method;
    results.push({ name, title, expect, chart, ...verdict, seconds: since(began), runs });
    log(`${name}: ${verdict.holds ? 'as expected' : 'NOT AS EXPECTED'} (${since(began)} s)`);
  }
  await model.close();

  const report = await doctor();
  const machine = `${cpus()[0]?.model ?? 'unknown'}, ${cpus().length} threads`;
  const versions = {
    selfedit: report.version,
    node: process.version,
    libtorch: report.libtorch?.version ?? null,
    machine,
  };
  const result = { size, seeds, seconds: since(start), versions, pretraining, references, results };
  const out = values.out ?? OUT;
  await mkdir(out, { recursive: true });
  await writeFile(join(out, 'learning.json'), `${jsonOf(result)}\n`);
  for (const [file, svg] of Object.entries(curvesOf(result))) await writeFile(join(out, file), svg);
  console.log(tableOf(result).join('\n'));
  if (results.some(({ holds }) => !holds)) process.exitCode = 1;
}

await main().catch((error) => {
  console.error(`error: ${error.stack}`);
  process.exitCode = 1;
});
process.exit();
