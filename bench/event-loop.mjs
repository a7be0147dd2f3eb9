#!/usr/bin/env node
// How long the event loop is held up while the package works: the delay of a timer that is due every millisecond, phase by
// phase. At S on SmolLM2-135M-Instruct's GGUF (pulled once), else on random weights with a tokenizer. `idle` is what the
// machine itself adds; `longest own work` is processor time of the loop's own thread, which other programs do not add to. There
// is no peer: the figure is the 99th percentile, the bar is on it and on the maximum.
import { readFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import { adapt, Delta, generate, Model, Policy, pull, score } from 'selfedit';
import { runIfMain } from './lib/main.mjs';
import { draws } from './lib/random.mjs';
import { makeFigure } from './lib/report.mjs';
import { makeTokenizer } from './lib/tokenizer.mjs';

export const eventLoop = {
  name: 'event-loop',
  title: 'delay of the event loop while work runs',
  peerNeeds: [],
  async run(context) {
    const path = await modelOf(context);
    const repeats = context.repeats ?? 3;
    const found = new Map();
    for (let time = 0; time < repeats; time++) {
      for await (const [phase, delay] of phases(context, path)) {
        found.set(phase, [...(found.get(phase) ?? []), delay]);
      }
    }
    return [...found].map(([phase, delays]) => figureOf(context, phase, delays));
  },
};

async function modelOf(context) {
  if (context.shape.name === 'S') return pull('smollm2-135m-instruct', { signal: context.signal });
  const folder = await context.writeModel();
  const size = context.shape.config.vocab_size;
  await writeFile(join(folder, 'tokenizer.json'), JSON.stringify(makeTokenizer(size, 12)));
  return folder;
}

/** The delays of each phase, in nanoseconds as perf_hooks counts them. */
async function* phases(context, path) {
  const { quick, signal, device, dtype } = context;
  const files = join(context.folder, 'saved');
  yield ['idle', await delayDuring(() => sleep(quick ? 100 : 1000))];
  let model;
  const load = async () => {
    model = await Model.load(path, { device, dtype, signal });
  };
  yield ['load', await delayDuring(load)];
  const tokens = rowsOf(model.config.vocabSize);
  const rows = tokens(8, 64);
  const edits = rows.map((row) => ({ fork: model, documents: [row, row.slice(0, 40)] }));
  let deltas;
  const inner = async () => {
    deltas = await adapt(edits, { epochs: quick ? 1 : 3, rank: 32, targets: ['all'], signal });
  };
  yield ['adapt', await delayDuring(inner)];
  const forks = deltas.map(({ delta }) => model.fork().apply(delta));
  const asked = forks.map((fork) => ({ fork, prompt: rows[0], samples: 2 }));
  const answer = () =>
    generate(asked, { maxTokens: quick ? 8 : 48, temperature: 1, stop: ['\n\n'], stopTokens: [], signal });
  yield ['generate', await delayDuring(answer)];
  yield [
    'score',
    await delayDuring(() =>
      score(
        forks.flatMap((fork) => rows.map((row) => ({ fork, tokens: row }))),
        { signal },
      ),
    ),
  ];
  const policy = Policy.create(model, { rank: 16, targets: ['all'], seed: 1 });
  const steps = rows.map((row) => ({
    tokens: row,
    promptLength: 16,
    oldLogprobs: new Float32Array(row.length).fill(-5),
    advantages: new Float32Array(row.length).fill(1),
  }));
  yield ['update', await delayDuring(() => policy.step({ rows: steps, learningRate: 1e-5, signal }))];
  const save = async () => {
    await policy.save(`${files}.safetensors`);
    await deltas[0].delta.save(files);
  };
  yield ['save', await delayDuring(save)];
  const restore = async () => {
    await policy.load(`${files}.safetensors`);
    await (await Delta.load(model, files)).close();
  };
  yield ['load of what was saved', await delayDuring(restore)];
  for (const thing of [policy, ...forks, ...deltas.map(({ delta }) => delta), model]) await thing.close();
}

function rowsOf(vocabulary) {
  const draw = draws(5);
  return (count, length) =>
    Array.from({ length: count }, () => Int32Array.from({ length }, () => draw() % vocabulary));
}

async function delayDuring(work) {
  // What earlier work left to be collected is not this one's.
  globalThis.gc?.();
  await sleep(20);
  const delay = monitorEventLoopDelay({ resolution: 1 });
  const stretch = longestStretch();
  delay.enable();
  await work();
  // The tick that was held up to the end.
  await sleep(2);
  delay.disable();
  return Object.assign(delay, { busy: stretch() });
}

/**
 * The most processor time, in nanoseconds, that this thread used between two turns of the loop: what holds the loop up by
 * itself, however busy the machine is. Linux only; NaN elsewhere.
 */
function longestStretch() {
  const used = () => {
    try {
      return Number(readFileSync(`/proc/self/task/${process.pid}/schedstat`, 'utf8').split(' ')[0]);
    } catch {
      return Number.NaN;
    }
  };
  let last = used();
  let most = 0;
  const tick = () => {
    const now = used();
    most = Number.isNaN(now) ? now : Math.max(most, now - last);
    last = now;
  };
  const timer = setInterval(tick, 1);
  return () => {
    clearInterval(timer);
    tick();
    return most;
  };
}

function figureOf(context, phase, delays) {
  const worst = (value) => Math.max(...delays.map(value)) / 1e9;
  const delay = {
    p50: worst((one) => one.percentile(50)),
    p99: worst((one) => one.percentile(99)),
    max: worst(({ max }) => max),
    busy: worst(({ busy }) => busy),
    ticks: delays.reduce((sum, { count }) => sum + count, 0),
  };
  const text = ['p50', 'p99', 'max', 'busy'].map((name) => `${(1e3 * delay[name]).toFixed(1)}`).join(' / ');
  context.log(`${phase}: ${text} ms (p50 / p99 / max / longest own work) over ${delay.ticks} ticks`);
  return makeFigure(context, {
    name: `event-loop: ${phase}`,
    bar: 'event-loop',
    ours: delays.map((one) => one.percentile(99) / 1e9),
    delay,
  });
}

await runIfMain(import.meta.url, eventLoop);
