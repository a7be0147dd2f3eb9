#!/usr/bin/env node
// What a round would take on up to 1,024 ranks, from measured parts (docs/scaling.md). It runs no round: it computes.
//   node bench/scaling.mjs [--measure] [--json]
// --measure first starts 2 and 4 ranks on this machine and measures what meeting, gathering and reading take.
import { spawn } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { availableParallelism, cpus } from 'node:os';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { strong, weak } from './lib/scaling.mjs';
import { sum } from './lib/statistics.mjs';
import { sizes } from './lib/workload.mjs';

const PARTS = new URL('../docs/scaling/parts.json', import.meta.url);
const CHILD = fileURLToPath(new URL('./lib/ranks-child.mjs', import.meta.url));
const WORLDS = [1, 2, 8, 16, 64, 256, 1024];
/** Meetings, bytes a rank and edits a rank of a sample. */
const SAMPLE = [100, 8_000_000, 200];

async function freePort() {
  const server = createServer();
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

async function measure(world) {
  const port = await freePort();
  const start = (rank) =>
    new Promise((resolve, reject) => {
      const place = { RANK: rank, WORLD_SIZE: world, LOCAL_RANK: rank, LOCAL_WORLD_SIZE: world };
      const env = { ...process.env, ...place, MASTER_ADDR: '127.0.0.1', MASTER_PORT: port };
      const child = spawn(process.execPath, [CHILD, ...SAMPLE.map(String)], {
        env,
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      let text = '';
      child.stdout.on('data', (data) => {
        text += data;
      });
      child.on('close', (code) =>
        code === 0 ? resolve(text) : reject(new Error(`rank ${rank} ended with ${code}`)),
      );
    });
  const [lead] = await Promise.all(Array.from({ length: world }, (_, rank) => start(rank)));
  return JSON.parse(lead);
}

async function measureAll(parts) {
  const found = [];
  for (const world of [2, 4]) found.push(await measure(world));
  const [two, four] = found;
  const measured = {
    date: new Date().toISOString().slice(0, 10),
    machine: `${cpus()[0].model}, ${availableParallelism()} threads`,
    worlds: found,
    storeSeconds: (four.meetingSeconds - two.meetingSeconds) / 2,
    readSeconds: two.editSeconds,
    editBytes: two.editBytes,
  };
  writeFileSync(PARTS, `${JSON.stringify({ ...parts, measured }, null, 2)}\n`);
  return measured;
}

const text = (value) => (value < 10 ? value.toPrecision(2) : value.toFixed(0));

function tableOf(title, rows) {
  console.log(`\n${title}`);
  console.log(
    '| ranks | edits | steps | own work | update | gather, read | gradients | meet | other | round | efficiency | most grown |',
  );
  console.log('|---|---|---|---|---|---|---|---|---|---|---|---|');
  for (const { world, edits, steps, seconds: s, total, efficiency, bottleneck } of rows) {
    const own = s.write + s.baseline + s.adapt + s.evaluate;
    const cells = [own, s.update, s.gather + s.read, s.gradients, s.meet, s.fingerprint + s.save, total].map(
      text,
    );
    const last = [`${(100 * efficiency).toFixed(0)} %`, world === 1 ? '–' : bottleneck];
    console.log(`| ${[world, edits, steps, ...cells, ...last].join(' | ')} |`);
  }
}

const { values } = parseArgs({ options: { measure: { type: 'boolean' }, json: { type: 'boolean' } } });
const parts = JSON.parse(readFileSync(PARTS, 'utf8'));
const measured = values.measure ? await measureAll(parts) : parts.measured;
const tokens = sizes((line) => console.error(line)).map(({ seqs }) => sum(seqs));
const plans = parts.plans.map(({ title, model, network, edits, growing, deterministic, fixed }) => {
  const { seconds, parameters, repeats } = parts.models[model];
  const options = {
    parts: {
      seconds: { ...seconds, adapt: seconds.adapt * repeats, evaluate: seconds.evaluate * repeats },
      parameters,
      bytes: measured.editBytes,
      readSeconds: measured.readSeconds,
    },
    network: { ...parts.networks[network], storeSeconds: measured.storeSeconds, ...parts.host },
    sizes: tokens,
    update: parts.update,
    deterministic,
  };
  const { minibatch } = parts.update;
  const rows = fixed
    ? strong(options, WORLDS, edits)
    : weak(options, WORLDS, edits, (world) => (growing ? minibatch * world : minibatch));
  return { title, rows };
});
if (values.json) console.log(JSON.stringify(plans));
else for (const { title, rows } of plans) tableOf(title, rows);
