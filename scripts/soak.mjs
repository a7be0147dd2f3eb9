#!/usr/bin/env node
// `npm run test:soak`: the long tiers of docs/reliability.md on the compiled package; the fast tiers run the same code.
//   npm run test:soak -- abort --times 200       calls aborted at random times
//   npm run test:soak -- leak --times 10000      fork, adapt, score, drop
//   npm run test:soak -- workers --times 100     worker threads that come and go
//   npm run test:soak -- nan --times 100         numbers that are not finite
//   npm run test:soak -- memory --times 100      allocations that fail
//   --seed N    --json FILE    the figures, under the name of the soak, beside those that are there
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { parseArgs } from 'node:util';

const TIMES = { abort: 200, leak: 10_000, workers: 100, nan: 100, memory: 100 };

async function main() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { times: { type: 'string' }, seed: { type: 'string', default: '1' }, json: { type: 'string' } },
  });
  const [name] = positionals;
  if (!Object.hasOwn(TIMES, name ?? ''))
    throw new Error(`expected ${Object.keys(TIMES).join(', ')}; found ${name ?? 'nothing'}`);
  // Collections on demand tell what is held from what only waits for the collector.
  if (!globalThis.gc) {
    const args = ['--expose-gc', ...process.argv.slice(1)];
    process.exitCode = spawnSync(process.execPath, args, { stdio: 'inherit' }).status ?? 1;
    return;
  }
  const times = Number(values.times ?? TIMES[name]);
  const { [name]: soak } = await import(`./soak/${name}.mjs`);
  const start = performance.now();
  const figures = await soak({ times, seed: Number(values.seed) });
  const found = {
    ...figures,
    seed: Number(values.seed),
    seconds: Math.round((performance.now() - start) / 1000),
  };
  console.log(JSON.stringify({ [name]: found }));
  if (values.json) record(values.json, name, found);
}

function record(path, name, found) {
  const before = existsSync(path) ? JSON.parse(readFileSync(path, 'utf8')) : {};
  const git = spawnSync('git', ['rev-parse', '--short', 'HEAD'], { encoding: 'utf8' });
  const about = {
    commit: git.status === 0 ? git.stdout.trim() : null,
    date: new Date().toISOString().slice(0, 10),
    command: `npm run test:soak -- ${name} --times ${found.times ?? found.cycles ?? found.injections}`,
    machine: `${cpus()[0]?.model ?? 'unknown'}, ${cpus().length} threads, Node.js ${process.version}`,
  };
  writeFileSync(path, `${JSON.stringify({ ...before, [name]: { ...about, ...found } }, null, 2)}\n`);
}

await main().catch((error) => {
  console.error(`soak: ${error.stack}`);
  process.exitCode = 1;
});
