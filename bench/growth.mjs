#!/usr/bin/env node
// How the cost grows: with the number of edits, the length of documents, the rank and the size of the model. Our side only.
//   node bench/growth.mjs [--shape S --device cpu --dtype float32 --quick] [--out docs/performance]
// Writes growth-AXIS.svg and growth.json.
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { adapt, generate } from 'selfedit';
import { makeContext } from './lib/context.mjs';
import { lowRank } from './lib/deltas.mjs';
import { ifMain } from './lib/main.mjs';
import { stopwatch } from './lib/measure.mjs';
import { draws } from './lib/random.mjs';
import { median } from './lib/statistics.mjs';
import { lineChart } from './lib/svg.mjs';

const OUT = fileURLToPath(new URL('../docs/performance', import.meta.url));
const TRAINING = { epochs: 1, targets: ['q_proj', 'v_proj'], shuffle: false };
const QUESTION = 32;

/** Milliseconds a token of training `forks` edits of `documents` documents of `length` tokens. */
async function training(model, { repeats, vocabulary }, { forks, documents, length, rank = 32 }) {
  const draw = draws(9);
  const tokens = () => Int32Array.from({ length }, () => draw() % vocabulary);
  const edits = Array.from({ length: forks }, () => ({
    fork: model,
    documents: Array.from({ length: documents }, tokens),
  }));
  const run = async () => {
    const results = await adapt(edits, { ...TRAINING, rank });
    await Promise.all(results.map(({ delta }) => delta.close()));
  };
  return (1e3 * (await medianSeconds(run, repeats))) / (forks * documents * length);
}

/** Milliseconds a new token of `forks` edited forks with two questions each. */
async function answering(model, { repeats, vocabulary }, { forks, rank = 32, newTokens = 16 }) {
  const draw = draws(11);
  const deltas = Array.from({ length: forks }, (_, e) => lowRank(model, { rank, seed: e }));
  const edited = deltas.map((delta) => model.fork().apply(delta));
  const rows = edited.flatMap((fork) =>
    [0, 1].map(() => ({ fork, prompt: Int32Array.from({ length: QUESTION }, () => draw() % vocabulary) })),
  );
  const run = () => generate(rows, { maxTokens: newTokens, temperature: 0, stopTokens: [] });
  const seconds = await medianSeconds(run, repeats);
  await Promise.all([...edited, ...deltas].map((resource) => resource.close()));
  return (1e3 * seconds) / (rows.length * newTokens);
}

async function medianSeconds(run, repeats) {
  await run();
  const samples = [];
  for (let i = 0; i < repeats; i++) samples.push((await stopwatch(run)).seconds);
  return median(samples);
}

function axesOf(quick) {
  return [
    {
      name: 'forks',
      title: 'edits together (64 tokens each)',
      values: quick ? [1, 2, 4] : [1, 8, 32, 128],
      train: (forks) => ({ forks, documents: 2, length: 32 }),
      answer: (forks) => ({ forks }),
    },
    {
      name: 'length',
      title: 'tokens of a document (2,048 in all)',
      values: quick ? [16, 64] : [16, 32, 64, 128, 256, 512],
      train: (length) => ({ forks: 4, documents: (quick ? 128 : 512) / length, length }),
    },
    {
      name: 'rank',
      title: 'rank (8 edits)',
      values: quick ? [8, 32] : [8, 16, 32, 64, 128],
      train: (rank) => ({ forks: quick ? 2 : 8, documents: 2, length: 32, rank }),
      answer: (rank) => ({ forks: quick ? 2 : 8, rank }),
    },
  ];
}

async function measureAxis(model, settings, { name, title, values, train, answer }, log) {
  const series = [{ name: 'train', points: [] }];
  if (answer) series.push({ name: 'answer', points: [] });
  for (const value of values) {
    series[0].points.push([value, await training(model, settings, train(value))]);
    if (answer) series[1].points.push([value, await answering(model, settings, answer(value))]);
    log(
      `${name} ${value}: ${series.map((s) => `${s.name} ${s.points.at(-1)[1].toPrecision(3)} ms a token`).join(', ')}`,
    );
  }
  return { name, title, series };
}

/** Sizes of models, each loaded on its own. */
async function measureSizes(options, names, repeats, log) {
  const series = ['train', 'answer'].map((name) => ({ name, points: [] }));
  for (const name of names) {
    await withModel({ ...options, shape: name }, log, async (model, vocabulary) => {
      const settings = { repeats, vocabulary };
      const forks = options.quick ? 2 : 8;
      series[0].points.push([
        model.parameters,
        await training(model, settings, { forks, documents: 2, length: 32 }),
      ]);
      series[1].points.push([model.parameters, await answering(model, settings, { forks })]);
    });
    log(
      `${name}: ${series.map((s) => `${s.name} ${s.points.at(-1)[1].toPrecision(3)} ms a token`).join(', ')}`,
    );
  }
  return { name: 'parameters', title: `parameters (${names.join(', ')}; 8 edits)`, log: true, series };
}

async function withModel(options, log, work) {
  const context = await makeContext({ name: 'growth', peerNeeds: [] }, options, { log });
  try {
    const model = await context.loadModel();
    await work(model, context.shape.config.vocab_size, context);
    await model.close();
  } finally {
    context.close();
  }
}

/** Measures all axes; returns {shape, device, dtype, versions, axes}. */
export async function growth(options, log) {
  const repeats = options.repeats ?? 3;
  const result = { axes: [] };
  await withModel(options, log, async (model, vocabulary, { shape, device, dtype, versions }) => {
    Object.assign(result, { shape: shape.name, device, dtype, versions });
    for (const axis of axesOf(options.quick)) {
      result.axes.push(await measureAxis(model, { repeats, vocabulary }, axis, log));
    }
  });
  const sizes = options.quick ? ['tiny', result.shape] : ['tiny', 'S', 'M'];
  result.axes.push(await measureSizes(options, [...new Set(sizes)], repeats, log));
  return result;
}

await ifMain(import.meta.url, async (options) => {
  const result = await growth(options, (line) => console.error(line));
  const out = options.out ?? OUT;
  await mkdir(out, { recursive: true });
  for (const { name, title, log, series } of result.axes) {
    const chart = lineChart({
      title: `Cost a token by ${title}`,
      x: { label: title, log: true },
      y: { label: 'milliseconds a token', log },
      series,
    });
    await writeFile(join(out, `growth-${name}.svg`), chart);
  }
  await writeFile(join(out, 'growth.json'), `${JSON.stringify(result, null, 2)}\n`);
  console.log(
    `written: ${result.axes.map(({ name }) => `growth-${name}.svg`).join(', ')} and growth.json in ${out}`,
  );
});
