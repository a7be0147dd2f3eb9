#!/usr/bin/env node
// Tokens a second of generate, score and adapt beside transformers + PEFT, in turn in one run on one machine.
//   node bench/throughput.mjs MODEL [--python PYTHON] [--dtype float32|bfloat16] [--repeats 3] [--threads 2] [--only adapt] [--json]
// MODEL: a Hugging Face folder or a .gguf file. Both sides get the same token ids; what they computed is compared first.
import { mkdtemp, rm } from 'node:fs/promises';
import { cpus, tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { adapt, doctor, generate, Model, score } from '../dist/index.js';
import { median, startPeer } from './peer.mjs';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    python: { type: 'string', default: 'python3' },
    dtype: { type: 'string', default: 'float32' },
    repeats: { type: 'string', default: '3' },
    threads: { type: 'string', default: String(cpus().length) },
    only: { type: 'string' },
    json: { type: 'boolean', default: false },
  },
});
if (!positionals[0]) throw new Error('usage: node bench/throughput.mjs MODEL [--python PYTHON] …');
const path = resolve(positionals[0]);
const repeats = Number(values.repeats);
const threads = Number(values.threads);
const model = await Model.load(path, { dtype: values.dtype, threads });

// Token counts as in real self-edits: about 8 documents of 20 to 110 tokens. The ids do not matter for speed.
let state = 12345;
const draw = (n) => {
  state = (state * 1103515245 + 12345) % 2147483648;
  return state % n;
};
const tokens = (length) => Array.from({ length }, () => 100 + draw(model.config.vocabSize - 200));
const LENGTHS = [19, 19, 29, 25, 25, 31, 34, 109];
const edits = Array.from({ length: 4 }, () => LENGTHS.map(tokens));
const rows = Array.from({ length: 12 }, (_, i) => tokens(40 + 15 * i));
const prompts = Array.from({ length: 4 }, (_, i) => tokens(60 + 40 * i));
const [SAMPLES, NEW] = [2, 48];

const folder = await mkdtemp(join(tmpdir(), 'selfedit-bench-'));
const [start] = await adapt([{ fork: model, documents: [tokens(8)] }], { learningRate: 0, epochs: 1 });
await start.delta.save(folder);

const WORKS = {
  score: {
    peer: { rows },
    tokens: rows.flat().length,
    run: () => score(rows.map((row) => ({ fork: model, tokens: row }))),
    compare: (ours, peer) =>
      Math.max(
        ...ours.flatMap((row, r) => [...row].slice(1).map((x, i) => Math.abs(x - peer.logprobs[r][i + 1]))),
      ),
    unit: 'largest log-prob difference',
  },
  generate: {
    peer: { prompts, samples: SAMPLES, maxTokens: NEW, logprobs: true },
    tokens: prompts.length * SAMPLES * NEW,
    run: () =>
      generate(
        prompts.map((prompt) => ({ fork: model, prompt, samples: SAMPLES })),
        { maxTokens: NEW, temperature: 0, stopTokens: [] },
      ),
    compare: (ours, peer) =>
      ours.filter((row, r) => row.tokens.some((token, i) => token !== peer.tokens[r][i])).length /
      ours.length,
    unit: 'share of greedy rows that differ',
  },
  adapt: {
    peer: { edits, epochs: 1, init: folder },
    tokens: edits.flat(2).length,
    run: async () => {
      const results = await adapt(
        edits.map((documents) => ({ fork: model, documents, init: start.delta })),
        { epochs: 1, shuffle: false },
      );
      await Promise.all(results.map(({ delta }) => delta.close()));
      return results.map(({ loss }) => [...loss]);
    },
    compare: (ours, peer) =>
      Math.max(
        ...ours.flatMap((losses, e) => losses.map((x, i) => Math.abs(x - peer.loss[e][i]) / peer.loss[e][i])),
      ),
    unit: 'largest relative loss difference',
  },
};

const report = [];
for (const [name, work] of Object.entries(WORKS)) {
  if (values.only && values.only !== name) continue;
  const peer = await startPeer(values.python, name, {
    model: path,
    dtype: values.dtype,
    threads,
    warmup: 1,
    ...work.peer,
  });
  let result = await work.run(); // warm-up: packs the weights
  const ours = [];
  const theirs = [];
  for (let i = 0; i < repeats; i++) {
    const begin = performance.now();
    result = await work.run();
    ours.push((performance.now() - begin) / 1e3);
    theirs.push(await peer.run());
  }
  const { result: reference, versions } = await peer.end();
  const line = {
    name,
    shape: path.split('/').at(-1),
    device: 'cpu',
    dtype: values.dtype,
    threads,
    ours: median(ours),
    peer: median(theirs),
    ratio: median(theirs) / median(ours),
    tokensPerSecond: { ours: work.tokens / median(ours), peer: work.tokens / median(theirs) },
    samples: { ours, peer: theirs },
    difference: { what: work.unit, value: work.compare(result, reference) },
    versions,
  };
  report.push(line);
  if (values.json) {
    console.log(JSON.stringify(line));
  } else {
    const spread = (list) => `${Math.min(...list).toFixed(2)}–${Math.max(...list).toFixed(2)} s`;
    console.log(
      `${name.padEnd(9)} ${work.tokens} tokens  ours ${line.tokensPerSecond.ours.toFixed(0)} tokens/s (${spread(ours)})  ` +
        `peer ${line.tokensPerSecond.peer.toFixed(0)} tokens/s (${spread(theirs)})  ratio ${line.ratio.toFixed(2)}  ` +
        `${work.unit} ${line.difference.value.toExponential(1)}`,
    );
  }
}
if (!values.json) {
  const { addon } = await doctor();
  console.error(`${cpus()[0].model}, ${threads} threads, ${values.dtype}; ${JSON.stringify(addon ?? {})}`);
}
await rm(folder, { recursive: true, force: true });
await model.close();
