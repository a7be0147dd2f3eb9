// What the soaks share: the compiled package, a tiny model, draws from a seed, comparison to the bit.
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

export const ROOT = join(fileURLToPath(new URL('.', import.meta.url)), '..', '..');
const dist = (name) => pathToFileURL(join(ROOT, 'dist', name)).href;
if (!existsSync(join(ROOT, 'dist', 'index.js'))) throw new Error('dist/ is missing: run "npm run build:ts"');

export const ENTRY = dist('index.js');
export const se = await import(ENTRY);
/** The hooks that are there for tests: live tensors, failures of allocations. */
export const native = (await import(dist('binding.js'))).native();

// Tiny models gain nothing from more.
se.setThreads(1);

export const CONFIG = {
  architecture: 'llama',
  vocabSize: 331,
  hiddenSize: 48,
  intermediateSize: 76,
  layers: 3,
  heads: 4,
  kvHeads: 2,
  headDim: 10,
  maxPositions: 192,
  rmsEps: 1e-5,
  ropeTheta: 10_000,
  ropeScaling: null,
  qkvBias: false,
  outputBias: false,
  mlpBias: false,
  tied: false,
};

export const tinyModel = (more = {}) => se.Model.random({ ...CONFIG, ...more }, { seed: 7, std: 0.15 });
export const tokensOf = (length, seed = 1) =>
  Int32Array.from({ length }, (_, i) => (i * 37 + seed * 11) % CONFIG.vocabSize);
export const bits = (values) =>
  Buffer.from(values.buffer, values.byteOffset, values.byteLength).toString('base64');
export const scoreBits = async (fork) => bits((await se.score([{ fork, tokens: tokensOf(40) }]))[0]);

/** Numbers in [0, 1) that a seed repeats. */
export function draws(seed) {
  let state = (seed * 2654435761 + 12345) >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

/** Tensors that something holds, once nothing is under way. Needs --expose-gc: dropped handles are collected first. */
export async function liveTensors(model) {
  for (let i = 0; i < 3; i++) {
    globalThis.gc?.();
    await new Promise(setImmediate);
  }
  if (model) await scoreBits(model); // behind what finalizers have queued
  return native.tensorMemory().tensors;
}

/** Fails the soak; what was found goes into the message. */
export function expectSame(what, found, expected) {
  if (found !== expected) throw new Error(`${what}: found ${found}, expected ${expected}`);
}

export const rowOf = (more = {}) => ({
  tokens: tokensOf(60),
  promptLength: 5,
  oldLogprobs: new Float32Array(60).fill(-5),
  advantages: Float32Array.from({ length: 60 }, (_, i) => Math.sin(i)),
  ...more,
});
