#!/usr/bin/env node
// `npm run test:ranks`: one run by several ranks under torchrun, of which random ranks are killed (kill -9) again and again; it must
// end with the checkpoints and the journal of a run by one process that nothing happened to. Writes docs/reliability/ranks.json.
//   --kills N    (20)      --ranks N   (2)      --rounds N   (4 a kill)     --seed N   of the victims and times (1)
import { execFileSync } from 'node:child_process';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { findTorchrun, ranksOf, startTorchrun, whyNoTorchrun } from './torchrun.mjs';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const { values: given } = parseArgs({
  options: {
    kills: { type: 'string', default: '20' },
    ranks: { type: 'string', default: '2' },
    rounds: { type: 'string' },
    seed: { type: 'string', default: '1' },
  },
});
const [kills, ranks, seed] = ['kills', 'ranks', 'seed'].map((name) => Number(given[name]));
const rounds = Number(given.rounds ?? 4 * kills);
const torchrun = findTorchrun();
if (!torchrun) throw new Error(whyNoTorchrun());

let state = seed;
const draw = () => {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return state / 2 ** 32;
};
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

const folder = mkdtempSync(join(tmpdir(), 'selfedit-ranks-'));
const model = join(folder, 'model');
cpSync(join(ROOT, 'test/fixtures/models/llama-tied'), model, { recursive: true });
const path = join(model, 'config.json');
writeFileSync(path, readFileSync(path, 'utf8').replace(/("max_position_embeddings": )128/, '$11024'));
const passages = Array.from({ length: 8 }, (_, index) => ({
  title: `Title ${index}`,
  context: `The thing number ${index} is made of wood.`,
  questions: [
    { question: `Made of what? (${index})`, answer: 'wood' },
    { question: `Which number? (${index})`, answer: `${index}` },
  ],
}));
writeFileSync(join(folder, 'data.json'), JSON.stringify(passages));
const config = {
  ...{ model: './model', seed: 4, rounds, contextsPerRound: 3, editsPerContext: 3, deterministic: true },
  ...{ task: { data: 'data.json', evaluation: 2, retention: 1 }, edit: { maxTokens: 12 } },
  ...{ adapt: { rank: 2, alpha: 4, epochs: 1 }, policy: { rank: 2, alpha: 4 }, keepCheckpoints: 'all' },
  reward: { beta: 0.1, retentionTexts: 1, report: ['f1'], maxAnswerTokens: 4 },
};
writeFileSync(join(folder, 'config.yaml'), JSON.stringify(config));

const journal = (run) => {
  const file = join(folder, run, 'journal.jsonl');
  if (!existsSync(file)) return [];
  return readFileSync(file, 'utf8')
    .split('\n')
    .slice(0, -1)
    .map((line) => JSON.parse(line));
};
const figures = (run) =>
  journal(run).map(({ timings: _, ranks: __, crc32: ___, ...line }) => JSON.stringify(line));
const policy = (run, round) => readFileSync(join(folder, run, 'checkpoints', round, 'policy.safetensors'));

const main = join(ROOT, 'dist/cli/main.js');
execFileSync(process.execPath, [main, 'train', 'config.yaml', '--out', 'alone'], {
  cwd: folder,
  stdio: 'ignore',
});

const began = performance.now();
const args = ['train', 'config.yaml', '--out', 'killed', '--resume-or-begin'];
const { child, ended } = startTorchrun(torchrun, ranks, args, { cwd: folder, restarts: kills });
const done = [];
let over = false;
void ended.then(() => {
  over = true;
});
for (let kill = 0; kill < kills && !over; kill++) {
  const before = ranksOf(child.pid).join();
  // At a random time after the group has begun anew: while it loads, joins, or works.
  await pause(2000 + 8000 * draw());
  const pids = ranksOf(child.pid);
  const victim = Math.floor(draw() * ranks);
  if (pids.length !== ranks || over) {
    kill--;
    continue;
  }
  process.kill(pids[victim], 'SIGKILL');
  done.push({ victim, rounds: journal('killed').filter(({ type }) => type === 'round').length });
  console.error(`kill ${done.length} of ${kills}: rank ${victim}, after ${done.at(-1).rounds} rounds`);
  while (!over && (ranksOf(child.pid).length < ranks || ranksOf(child.pid).join() === before))
    await pause(50);
}
const { code, output } = await ended;
const same =
  JSON.stringify(figures('killed')) === JSON.stringify(figures('alone')) &&
  readdirSync(join(folder, 'alone', 'checkpoints')).every((round) =>
    policy('killed', round).equals(policy('alone', round)),
  );
const commit = execFileSync('git', ['rev-parse', '--short', 'HEAD'], { cwd: ROOT, encoding: 'utf8' }).trim();
const result = {
  ...{ commit, date: new Date().toISOString().slice(0, 10), cpu: cpus()[0]?.model, ranks, rounds, seed },
  ...{
    kills: done.length,
    exitCode: code,
    equalToTheBit: same,
    seconds: Math.round((performance.now() - began) / 1000),
  },
  byRank: Array.from({ length: ranks }, (_, rank) => done.filter(({ victim }) => victim === rank).length),
};
console.log(JSON.stringify(result, null, 2));
if (code !== 0) console.error(output.slice(-3000));
mkdirSync(join(ROOT, 'docs/reliability'), { recursive: true });
writeFileSync(join(ROOT, 'docs/reliability/ranks.json'), `${JSON.stringify(result, null, 2)}\n`);
rmSync(folder, { recursive: true, force: true });
process.exitCode = code === 0 && same && done.length === kills ? 0 : 1;
