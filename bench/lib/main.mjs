// Runs a benchmark: from the command line of its own file, or from `selfedit bench`.
import { realpathSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { SelfeditError } from 'selfedit';
import { makeContext } from './context.mjs';
import { asJson, tableOf } from './report.mjs';

/** `benchmark`: {name, title, peerNeeds, run(context) → figures}. `signal` stops it. Returns {json, table}. */
export async function runBenchmark(benchmark, given, { log, signal }) {
  const context = await makeContext(benchmark, given, { log, signal });
  try {
    const figures = await benchmark.run(context);
    return { json: asJson(figures, context.notes), table: tableOf(figures) };
  } finally {
    context.close();
  }
}

const NUMBERS = ['forks', 'peer-forks', 'threads', 'repeats'];

/** Options of a benchmark's own file; those of `selfedit bench` are the same. */
export function parseOptions(args) {
  const text = { type: 'string' };
  const flag = { type: 'boolean' };
  const { values } = parseArgs({
    args,
    options: {
      shape: text,
      device: text,
      dtype: text,
      python: text,
      forks: text,
      'peer-forks': text,
      threads: text,
      repeats: text,
      quick: flag,
      json: flag,
      out: text,
    },
  });
  const given = Object.entries(values).map(([name, value]) => [
    name.replace(/-(\w)/g, (_, letter) => letter.toUpperCase()),
    NUMBERS.includes(name) ? whole(name, value) : value,
  ]);
  return Object.fromEntries(given);
}

function whole(name, text) {
  const value = Number(text);
  if (Number.isSafeInteger(value) && value >= 1) return value;
  throw new RangeError(`--${name} is ${text}; expected a whole number from 1`);
}

/** Calls `work(options)` when this file is the one that node was started with. */
export async function ifMain(url, work) {
  if (!process.argv[1] || realpathSync(process.argv[1]) !== fileURLToPath(url)) return;
  try {
    await work(parseOptions(process.argv.slice(2)));
  } catch (error) {
    console.error(`error: ${error instanceof SelfeditError ? error.message : error.stack}`);
    process.exit(1);
  }
  process.exit();
}

/** The benchmark of a file that was started by itself: a table, or with --json one JSON object. */
export function runIfMain(url, benchmark) {
  return ifMain(url, async (options) => {
    const { json, table } = await runBenchmark(benchmark, options, { log: (line) => console.error(line) });
    console.log(options.json ? JSON.stringify(json) : table.join('\n'));
  });
}
