#!/usr/bin/env node
// B8: loading a model: safetensors beside transformers, GGUF beside gguf-py; and the highest memory on the way.
// The files are in the page cache on both sides.
import { statSync } from 'node:fs';
import { join } from 'node:path';
import { Model, score } from 'selfedit';
import { compareLogprobs } from './lib/answers.mjs';
import { runIfMain } from './lib/main.mjs';
import { inTurn } from './lib/measure.mjs';
import { canReadMemory, childMemory, megabytes, weightBytes } from './lib/memory.mjs';
import { askPeer, lacking } from './lib/peer.mjs';
import { makeFigure } from './lib/report.mjs';

const ROW = [1, 2, 3, 5, 8, 13, 21, 34];

export const load = {
  name: 'load',
  title: 'loading from safetensors and GGUF',
  peerNeeds: ['torch', 'transformers'],
  async run(context) {
    const folder = await context.writeModel();
    const figures = await figuresOf(context, {
      name: this.name,
      path: folder,
      script: 'load_safetensors',
      work: { row: ROW },
      // Used where they lie in the file: read once.
      moved: (bytes) => bytes,
    });
    const gguf = await ggufOf(context, folder);
    if (!gguf) return figures;
    const more = await figuresOf(context, {
      name: 'load (GGUF)',
      path: gguf,
      script: 'load_gguf',
      work: { gguf },
      // The file is read, the weights are written.
      moved: (bytes) => statSync(gguf).size + bytes,
    });
    return [...figures, ...more];
  },
};

async function figuresOf(context, { name, path, script, work, moved }) {
  const { device, dtype } = context;
  const options = { device, dtype, signal: context.signal };
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
      ...(theirs.logprobs ? compareLogprobs([mine.logprobs], [theirs.logprobs], dtype) : []),
    ],
  });
  const limits = await context.limits();
  const bytes = weightBytes(first.parameters, dtype);
  const figure = makeFigure(context, {
    name,
    bar: 'load',
    ...measured,
    limit: moved(bytes) / limits.bandwidth,
  });
  if (!canReadMemory(context)) return [figure];
  const memory = await childMemory('load-child', { path, dtype });
  context.log(
    `${name}: ${megabytes(memory.peak)} at most beyond the ${megabytes(memory.process)} of the empty process; ` +
      `the weights are ${megabytes(bytes)}`,
  );
  const peak = makeFigure(context, {
    name: `${name}: peak memory`,
    bar: 'load memory',
    ours: measured.ours,
    share: memory.peak / bytes,
    bytes: { ...memory, weights: bytes },
  });
  return [figure, peak];
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
