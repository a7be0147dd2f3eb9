/** `selfedit bench`: the package's benchmarks beside their peers. They use the public API only, so they live in bench/. */
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { type Command, Option } from 'commander';
import { makeError } from '../errors.js';
import { packageRoot } from '../load.js';
import { integer } from './options.js';
import type { Session } from './session.js';

interface Options {
  shape: string;
  forks?: number;
  peerForks?: number;
  device: string;
  dtype?: string;
  threads?: number;
  python: string;
  repeats?: number;
  quick?: boolean;
  json?: boolean;
}

interface Benchmark {
  name: string;
}

/** What bench/run.mjs exports. */
interface Bench {
  BENCHMARKS: readonly Benchmark[];
  runBenchmark(
    benchmark: Benchmark,
    options: Options,
    hooks: { log: (line: string) => void; signal: AbortSignal },
  ): Promise<{ json: Record<string, unknown>; table: string[] }>;
}

export function addBench(program: Command, session: Session): void {
  program
    .command('bench')
    .description('Measures this machine beside transformers, PEFT and TRL, in turn in one run.')
    .argument(
      '<name>',
      'inner-loop, evaluate, generate, fork, sparse, update, round, load, score, divergence or event-loop',
    )
    .addOption(
      new Option('--shape <name>', 'shape of the random model')
        .choices(['tiny', 'S', 'M', 'L', 'XL'])
        .default('S'),
    )
    .option('--forks <n>', 'edited copies (default: by benchmark and device)', integer(1))
    .option('--peer-forks <n>', 'copies that the peer does; its seconds are scaled', integer(1))
    .option('--device <name>', 'cpu, cuda, cuda:1, …', 'cpu')
    .addOption(
      new Option(
        '--dtype <type>',
        'type of the weights (default: float32 on the CPU, bfloat16 on CUDA)',
      ).choices(['float32', 'bfloat16']),
    )
    .option('--threads <n>', 'threads of both sides (default: all cores)', integer(1))
    .option('--python <path>', 'Python with torch, transformers, peft, trl and gguf', 'python3')
    .option('--repeats <n>', 'timed runs (default: 5 where they take less than a minute, else 3)', integer(1))
    .option('--quick', 'less of everything, for a look')
    .option('--json', 'one JSON object')
    .addHelpText(
      'after',
      `
S is SmolLM2-135M, M Qwen2.5-0.5B, L Llama-3.2-1B, XL Qwen2.5-7B, all with random weights. Both sides get the same weights and
tokens, and what they computed is compared before they are timed. Without a peer only the own figure is printed.

Example:
  selfedit bench inner-loop --shape S --python venv/bin/python --json`,
    )
    .action((name: string, options: Options) => run(name, options, session));
}

async function run(name: string, options: Options, session: Session): Promise<void> {
  const bench = (await import(pathToFileURL(join(packageRoot, 'bench', 'run.mjs')).href)) as Bench;
  const benchmark = bench.BENCHMARKS.find((known) => known.name === name);
  if (!benchmark) {
    const names = bench.BENCHMARKS.map((known) => known.name).join(', ');
    throw makeError('OPTION_INVALID', `there is no benchmark "${name}"; expected one of ${names}`);
  }
  const { json, table } = await bench.runBenchmark(benchmark, options, {
    log: (line) => session.note(line),
    signal: session.signal,
  });
  await session.print(options.json ? `${JSON.stringify(json)}\n` : table.map((line) => `${line}\n`).join(''));
}
