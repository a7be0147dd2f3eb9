// How far rewards of text edits can be trusted, and what trust costs: the same edits of a real model, each trained under many seeds,
// scored by the gain in log-likelihood of the gold answers (dense) and by graded answers. `npm run bench:reliability`.
//   --model NAME|FOLDER|FILE   smollm2-135m-instruct by default;  --data FILE  passages (SQuAD, or the small examples/corpus.json)
//   --contexts 8 --edits 4 --seeds 8;  --quick: a look, whose figures mean nothing
//   --out FOLDER               reliability.json; docs/reward-reliability by default. Written after every context;
//   --resume                   goes on with the contexts that this file lacks
import { existsSync, readFileSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { cpus } from 'node:os';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { doctor, Model, pull, readPassages } from 'selfedit';
import { jsonOf, summaryOf, tableOf } from './reliability/report.mjs';
import { contextsOf, INNER, measureContext } from './reliability/rewards.mjs';

const FULL = {
  ...{ contexts: 8, edits: 4, seeds: 8, questions: 4 },
  ...{ passageTokens: 120, editTokens: 64, answerTokens: 24 },
};
const QUICK = { ...FULL, contexts: 2, edits: 2, seeds: 2, questions: 2, editTokens: 32, answerTokens: 8 };
const here = (path) => fileURLToPath(new URL(path, import.meta.url));

async function main() {
  const text = { type: 'string' };
  const flag = { type: 'boolean' };
  const { values: given } = parseArgs({
    options: {
      ...{ model: text, data: text, contexts: text, edits: text, seeds: text, out: text },
      ...{ quick: flag, resume: flag },
    },
  });
  const size = { ...(given.quick ? QUICK : FULL) };
  for (const name of ['contexts', 'edits', 'seeds']) {
    if (given[name] !== undefined) size[name] = Number(given[name]);
    if (!(Number.isInteger(size[name]) && size[name] >= 2)) {
      throw new RangeError(`--${name} is ${given[name]}; expected a whole number of at least 2`);
    }
  }
  const squad = here('../../shared/data/squad/passages.json');
  const data = given.data ?? (existsSync(squad) ? squad : here('../examples/corpus.json'));
  const { passages, sha256 } = await readPassages(data);
  const name = given.model ?? 'smollm2-135m-instruct';
  const model = await Model.load(existsSync(name) ? name : await pull(name), { dtype: 'bfloat16' });
  const { version, libtorch } = await doctor();
  const settings = { model: basename(name), dtype: 'bfloat16', data: sha256, inner: INNER, size };
  const versions = {
    ...{ selfedit: version, node: process.version, libtorch: libtorch?.version ?? null },
    machine: `${cpus()[0]?.model ?? 'unknown'}, ${cpus().length} threads`,
  };

  const out = given.out ?? here('../docs/reward-reliability');
  const file = join(out, 'reliability.json');
  await mkdir(out, { recursive: true });
  const earlier = given.resume && existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : undefined;
  if (earlier && JSON.stringify(earlier.settings) !== JSON.stringify(settings)) {
    throw new RangeError(`--resume: ${file} is of other settings`);
  }
  const parts = earlier?.parts ?? [];
  const write = async () => {
    const summary = summaryOf(parts);
    const text = jsonOf({ settings, versions: earlier?.versions ?? versions, summary, parts });
    await writeFile(file, `${text}\n`);
    return summary;
  };
  const parent = model.fork();
  for (const context of contextsOf(passages, model, size)) {
    if (parts.some(({ id }) => id === context.id)) continue;
    const start = performance.now();
    parts.push({ id: context.id, ...(await measureContext({ model, parent, context, size })) });
    await write();
    console.error(`context ${context.id}: ${Math.round((performance.now() - start) / 1000)} s`);
  }
  await parent.close();
  await model.close();
  console.log(tableOf(await write()).join('\n'));
}

await main().catch((error) => {
  console.error(`error: ${error.stack}`);
  process.exitCode = 1;
});
process.exit();
