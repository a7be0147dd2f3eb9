// What KL(edited ‖ unedited) in the reward or the loss does to forgetting, over a range of β: `npm run bench:forgetting`. Trains
// weight edits by the gradient path (λ = β) and by PPO, and chooses text edits, on a real model; then measures on unseen passages
// what was gained, and on texts and passages that have nothing to do with the edit what was lost.
//   --model NAME|FOLDER|FILE   smollm2-135m-instruct by default;  --data FILE  passages (SQuAD, or the small examples/corpus.json)
//   --betas 0,0.1,1            --seeds 3;  --quick: a look, whose figures mean nothing
//   --out FOLDER               forgetting.json and forgetting.svg; docs/learning by default. Written after every part;
//   --resume                   goes on with the parts that this file lacks
import { existsSync, readFileSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { cpus } from 'node:os';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { doctor, Model, pull, readPassages, readTexts } from 'selfedit';
import { bestOfText, byGradient, byPpo, untrained } from './forgetting/arms.mjs';
import { chartOf, jsonOf, summaryOf, tableOf } from './forgetting/report.mjs';
import { drawWorld, readWorld, referenceOf } from './forgetting/world.mjs';

const BETAS = [0, 0.1, 0.3, 1, 3, 10];
const FULL = {
  ...{ training: 12, unseen: 6, others: 6, questions: 3, seen: 2, held: 6, textTokens: 96 },
  ...{ rounds: 6, contexts: 6, samples: { gradient: 2, ppo: 4, text: 6 }, editTokens: 96 },
};
const QUICK = {
  ...{ training: 2, unseen: 2, others: 2, questions: 1, seen: 1, held: 2, textTokens: 32 },
  ...{ rounds: 1, contexts: 2, samples: { gradient: 2, ppo: 2, text: 2 }, editTokens: 16 },
};
const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const log = (line) => console.error(line);
const since = (start) => Math.round((performance.now() - start) / 1000);

/** Calls `part(name, work)` for every part of a seed; `work` gives a list of [beta, values, more]. */
async function playSeed(world, betas, part) {
  // Made when the first part needs them: a seed that is there already costs nothing.
  const made = {};
  const once = (name, make) => () => {
    made[name] ??= make(world);
    return made[name];
  };
  const reference = once('reference', referenceOf);
  const read = once('read', readWorld);
  try {
    await part('text', async () => {
      const { any, chosen } = await bestOfText(world, await reference(), betas);
      return [
        { arm: 'text, any', values: any },
        ...betas.map((beta) => ({ arm: 'text', beta, values: chosen[beta] })),
      ];
    });
    await part('untrained', async () => [
      { arm: 'untrained', ...(await untrained(world, await read(), await reference())) },
    ]);
    for (const [arm, train] of Object.entries({ gradient: byGradient, ppo: byPpo })) {
      for (const beta of betas) {
        await part(`${arm} ${beta}`, async () => [
          { arm, beta, ...(await train(world, await read(), await reference(), beta)) },
        ]);
      }
    }
  } finally {
    await (await made.read)?.close();
    await world.parent.close();
  }
}

async function main() {
  const text = { type: 'string' };
  const flag = { type: 'boolean' };
  const { values: given } = parseArgs({
    options: { model: text, data: text, betas: text, seeds: text, out: text, quick: flag, resume: flag },
  });
  const size = given.quick ? QUICK : FULL;
  const betas = given.betas?.split(',').map(Number) ?? BETAS;
  const seeds = Array.from({ length: Number(given.seeds ?? 3) }, (_, index) => index + 1);
  if (betas[0] !== 0 || betas.some((beta) => !(beta >= 0)) || seeds.length === 0) {
    throw new RangeError('--betas begins with 0, which everything is compared with; --seeds is at least 1');
  }
  const squad = here('../../shared/data/squad/passages.json');
  const data = given.data ?? (existsSync(squad) ? squad : here('../examples/corpus.json'));
  const { passages, sha256 } = await readPassages(data);
  const { texts } = await readTexts(here('../examples/retention.json'));
  const name = given.model ?? 'smollm2-135m-instruct';
  const model = await Model.load(existsSync(name) ? name : await pull(name), { dtype: 'bfloat16' });
  const { version, libtorch } = await doctor();
  const machine = `${cpus()[0]?.model ?? 'unknown'}, ${cpus().length} threads`;
  const settings = { model: basename(name), dtype: 'bfloat16', data: sha256, size, betas };

  const out = given.out ?? here('../docs/learning');
  const file = join(out, 'forgetting.json');
  await mkdir(out, { recursive: true });
  const earlier = given.resume && existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : undefined;
  if (earlier && JSON.stringify(earlier.settings) !== JSON.stringify(settings)) {
    throw new RangeError(`--resume: ${file} is of other settings`);
  }
  const parts = earlier?.parts ?? [];
  const versions = { selfedit: version, node: process.version, libtorch: libtorch?.version ?? null, machine };
  for (const seed of seeds) {
    const missing = (part) => !parts.some((one) => one.seed === seed && one.part === part);
    const world = drawWorld({ model, passages, texts, seed, size });
    await playSeed(world, betas, async (part, work) => {
      if (!missing(part)) return;
      const start = performance.now();
      const results = await work();
      parts.push({ seed, part, seconds: since(start), results });
      const summary = summaryOf(parts, betas);
      await writeFile(file, `${jsonOf({ settings, versions, summary, parts })}\n`);
      log(`seed ${seed}, ${part}: ${since(start)} s`);
    });
  }
  await model.close();
  const summary = summaryOf(parts, betas);
  await writeFile(join(out, 'forgetting.svg'), chartOf(summary, betas));
  console.log(tableOf(summary, parts).join('\n'));
}

await main().catch((error) => {
  console.error(`error: ${error.stack}`);
  process.exitCode = 1;
});
process.exit();
