// Eight edits in sequence on a real model, the scores of all passages after each, without and with each remedy:
// `npm run bench:stream`. Beside it the published matrix, where the shared recordings are.
//   --model NAME|FOLDER|FILE   smollm2-135m-instruct by default
//   --blocks 2                 of four streams each; every arm runs on all of them
//   --arms "none,replay"       some arms only;  --quick: a look, whose figures mean nothing
//   --out FOLDER               stream.json, stream.svg; docs/stream by default. Written after every part;
//   --resume                   goes on with the parts that this file lacks
import { existsSync, readFileSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { cpus } from 'node:os';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { doctor, Model, pull, runStream } from 'selfedit';
import { chartOf, jsonOf, summaryOf, textOf } from './stream/report.mjs';
import { ARMS, drawWorld, INNER } from './stream/world.mjs';

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const log = (line) => console.error(line);
const since = (start) => Math.round((performance.now() - start) / 1000);

async function playArm(arm, { model, streams, editsOf, seed }) {
  const { candidates = 1, recall = false, ...options } = ARMS[arm];
  const parent = model.fork();
  try {
    return await runStream({
      ...{ parent, seed, sequences: streams, adapt: INNER },
      edit: (fork, context) => editsOf(fork, context, candidates),
      reward: { measure: 'likelihood', report: recall ? ['recall'] : [], maxAnswerTokens: 16 },
      ...options,
    });
  } finally {
    await parent.close();
  }
}

async function main() {
  const text = { type: 'string' };
  const flag = { type: 'boolean' };
  const { values: given } = parseArgs({
    options: { model: text, blocks: text, arms: text, out: text, quick: flag, resume: flag },
  });
  const size = given.quick ? { streams: 2, length: 2, seed: 1 } : { streams: 4, length: 8, seed: 1 };
  const blocks = Number(given.blocks ?? (given.quick ? 1 : 2));
  const arms = given.arms?.split(',') ?? Object.keys(ARMS);
  const unknown = arms.find((arm) => !Object.hasOwn(ARMS, arm));
  if (unknown !== undefined) {
    throw new RangeError(`arm "${unknown}" is not known; expected some of ${Object.keys(ARMS).join(', ')}`);
  }
  const world = await drawWorld({
    recorded: here('../../shared/data/seal/self_edits.json'),
    corpus: here('../examples/corpus.json'),
    ...{ sequences: blocks * size.streams, length: size.length, seed: size.seed },
  });
  const name = given.model ?? 'smollm2-135m-instruct';
  const model = await Model.load(existsSync(name) ? name : await pull(name), { dtype: 'bfloat16' });
  const { version, libtorch } = await doctor();
  const machine = `${cpus()[0]?.model ?? 'unknown'}, ${cpus().length} threads`;
  const settings = { model: basename(name), dtype: 'bfloat16', edits: world.edits, size, inner: INNER };

  const out = given.out ?? here('../docs/stream');
  const file = join(out, 'stream.json');
  await mkdir(out, { recursive: true });
  const earlier = given.resume && existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : undefined;
  if (earlier && JSON.stringify(earlier.settings) !== JSON.stringify(settings)) {
    throw new RangeError(`--resume: ${file} is of other settings`);
  }
  const parts = earlier?.parts ?? [];
  const versions = { selfedit: version, node: process.version, libtorch: libtorch?.version ?? null, machine };
  const published = here('../../shared/data/seal/recorded_forgetting.json');
  const recorded = existsSync(published)
    ? JSON.parse(readFileSync(published, 'utf8')).mean_over_sequences
    : undefined;
  for (let block = 0; block < blocks; block++) {
    const streams = world.streams.slice(block * size.streams, (block + 1) * size.streams);
    for (const arm of arms) {
      if (parts.some((part) => part.block === block && part.arm === arm)) continue;
      const start = performance.now();
      const results = await playArm(arm, { ...world, model, streams, seed: size.seed + block });
      parts.push({ block, arm, seconds: since(start), results });
      await writeFile(file, `${jsonOf({ settings, versions, summary: summaryOf(parts), parts })}\n`);
      log(`block ${block}, ${arm}: ${since(start)} s`);
    }
  }
  await model.close();
  const summary = summaryOf(parts);
  await writeFile(join(out, 'stream.svg'), chartOf(summary, recorded));
  console.log(textOf(summary, parts, recorded).join('\n'));
}

await main().catch((error) => {
  console.error(`error: ${error.stack}`);
  process.exitCode = 1;
});
process.exit();
