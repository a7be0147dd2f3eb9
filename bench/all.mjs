#!/usr/bin/env node
// Every benchmark after the other, each in a process of its own; figures into docs/performance, and a table against the bars.
//   node bench/all.mjs --python VENV/bin/python [--device cpu] [--quick] [--shape tiny] [--out docs/performance]
import { spawnSync } from 'node:child_process';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { ifMain } from './lib/main.mjs';
import { tableOf } from './lib/report.mjs';

const HERE = fileURLToPath(new URL('.', import.meta.url));
const OUT = fileURLToPath(new URL('../docs/performance', import.meta.url));
/** Name, shapes and types of the bars; `score` and `divergence` have none but are quoted in docs/performance.md. */
const PLAN = {
  cpu: [
    ['inner-loop', ['S'], ['float32', 'bfloat16']],
    ['evaluate', ['S'], ['float32', 'bfloat16']],
    ['generate', ['S'], ['float32', 'bfloat16']],
    ['fork', ['S'], ['float32']],
    ['sparse', ['S'], ['float32']],
    ['update', ['S'], ['float32']],
    ['round', ['S'], ['float32']],
    ['load', ['S'], ['float32']],
    ['score', ['S'], ['float32']],
    ['divergence', ['S'], ['float32']],
    ['event-loop', ['S', 'tiny'], ['float32']],
  ],
  cuda: [
    ['inner-loop', ['S', 'L', 'XL'], ['bfloat16']],
    ['evaluate', ['S', 'XL'], ['bfloat16']],
    ['generate', ['S', 'XL'], ['bfloat16']],
    ['fork', ['S'], ['bfloat16']],
    ['sparse', ['S'], ['bfloat16']],
    ['update', ['S'], ['bfloat16']],
    ['round', ['S', 'XL'], ['bfloat16']],
  ],
};
const PASSED_ON = ['device', 'python', 'threads', 'repeats'];

await ifMain(import.meta.url, async (options) => {
  const out = options.out ?? OUT;
  await mkdir(out, { recursive: true });
  const passed = PASSED_ON.flatMap((name) => (options[name] ? [`--${name}`, String(options[name])] : []));
  const plan = PLAN[options.device?.startsWith('cuda') ? 'cuda' : 'cpu'];
  const figures = [];
  const failed = [];
  for (const [name, shapes, dtypes] of plan) {
    for (const shape of options.shape ? [options.shape] : shapes) {
      for (const dtype of options.dtype ? [options.dtype] : [...new Set(dtypes)]) {
        const label = `${name}-${shape}-${options.device ?? 'cpu'}-${dtype}`.replaceAll(':', '');
        console.error(`— ${label}`);
        const args = [
          '--shape',
          shape,
          '--dtype',
          dtype,
          '--json',
          ...(options.quick ? ['--quick'] : []),
          ...passed,
        ];
        const { status, stdout } = spawnSync(process.execPath, [join(HERE, `${name}.mjs`), ...args], {
          encoding: 'utf8',
          stdio: ['ignore', 'pipe', 'inherit'],
          maxBuffer: 1 << 26,
        });
        if (status !== 0) {
          failed.push(label);
          continue;
        }
        const { also = [], ...first } = JSON.parse(stdout);
        await writeFile(join(out, `${label}.json`), `${JSON.stringify({ ...first, also }, null, 2)}\n`);
        figures.push(first, ...also);
      }
    }
  }
  console.log(tableOf(figures).join('\n'));
  const missed = figures.filter(({ met }) => met === false).map(({ name, dtype }) => `${name} (${dtype})`);
  console.log(missed.length > 0 ? `\nbars missed: ${missed.join(', ')}` : '\nno bar missed');
  if (failed.length > 0) console.log(`failed: ${failed.join(', ')}`);
  if (failed.length > 0) process.exitCode = 1;
});
