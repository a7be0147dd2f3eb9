#!/usr/bin/env node
// B8: loading a model: safetensors beside transformers, GGUF beside gguf-py; and the highest memory on the way.
// The files are in the page cache on both sides.
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { Model, score } from 'selfedit';
import { runIfMain } from './lib/main.mjs';
import { inTurn } from './lib/measure.mjs';
import { askPeer, lacking } from './lib/peer.mjs';
import { makeFigure } from './lib/report.mjs';
import { largestDifference } from './lib/statistics.mjs';

const ROW = [1, 2, 3, 5, 8, 13, 21, 34];
const TOLERANCE = { float32: 2e-3, bfloat16: 0.5 };

export const load = {
  name: 'load',
  title: 'loading from safetensors and GGUF',
  peerNeeds: ['torch', 'transformers'],
  async run(context) {
    if (context.device !== 'cpu') context.log('loads into the memory of the host');
    const folder = await context.writeModel();
    const figures = await figuresOf(context, {
      name: this.name,
      path: folder,
      script: 'load_safetensors',
      work: { row: ROW },
    });
    const gguf = await ggufOf(context, folder);
    if (!gguf) return figures;
    const more = await figuresOf(context, {
      name: 'load (GGUF)',
      path: gguf,
      script: 'load_gguf',
      work: { gguf },
    });
    return [...figures, ...more];
  },
};

async function figuresOf(context, { name, path, script, work }) {
  const { dtype } = context;
  const options = { dtype, signal: context.signal };
  let first;
  const measured = await inTurn(context, {
    async ours() {
      const model = await Model.load(path, options);
      // Only in the first run, which is not timed.
      first ??= {
        parameters: model.parameters,
        logprobs: (await score([{ fork: model, tokens: ROW }]))[0].subarray(1),
      };
      await model.close();
      return first;
    },
    peer: { script, work },
    check: (mine, theirs) => [
      {
        what: 'difference in parameters',
        value: Math.abs(mine.parameters - theirs.parameters),
        tolerance: 0,
      },
      ...(theirs.logprobs
        ? [
            {
              what: 'largest difference of a log-prob',
              value: largestDifference(mine.logprobs, theirs.logprobs),
              tolerance: TOLERANCE[dtype],
            },
          ]
        : []),
    ],
  });
  const limits = await context.limits();
  const memory = await memoryOf(path, dtype);
  context.log(
    `${name}: ${(memory.peak / 1e6).toFixed(1)} MB at most beyond the ${(memory.process / 1e6).toFixed(1)} MB of the empty process; ` +
      `the weights are ${(memory.weights / 1e6).toFixed(1)} MB`,
  );
  return [
    // Read once and written once.
    makeFigure(context, { name, bar: 'load', ...measured, limit: (2 * memory.weights) / limits.bandwidth }),
    makeFigure(context, {
      name: `${name}: peak memory`,
      bar: 'load memory',
      ours: measured.ours,
      share: memory.peak / memory.weights,
      bytes: memory,
    }),
  ];
}

async function memoryOf(path, dtype) {
  const script = fileURLToPath(new URL('./lib/load-child.mjs', import.meta.url));
  const { stdout } = await promisify(execFile)(process.execPath, [script, JSON.stringify({ path, dtype })]);
  return JSON.parse(stdout);
}

/** The same weights as a GGUF file (Q8_0), written by gguf-py; undefined where there is none. */
async function ggufOf(context, folder) {
  const missing = context.peerLacks ?? lacking(context.python, ['gguf', 'safetensors']);
  if (missing) {
    context.log(`GGUF is left out: ${missing}, which writes the file`);
    return undefined;
  }
  const gguf = join(context.folder, 'model.gguf');
  await askPeer(context, 'write_gguf', { ...context.peerWork, model: folder, gguf });
  return gguf;
}

await runIfMain(import.meta.url, load);
