// What the hardware could do at most: operations and bytes a second.
import { spawnSync } from 'node:child_process';
import { Model, score } from 'selfedit';
import { weightBytes } from './memory.mjs';
import { askPeer } from './peer.mjs';
import { median } from './statistics.mjs';

/** Measured on such machines; anything else is probed. */
const KNOWN = [{ device: /H100/, bfloat16: 798e12, bandwidth: 3.0e12 }];

/** {operations, bandwidth} a second, and `source`, how they are known. */
export async function limitsOf(context) {
  const { device, dtype, threads, peerLacks, quick } = context;
  if (device.startsWith('cuda')) {
    const { stdout } = spawnSync('nvidia-smi', ['--query-gpu=name', '--format=csv,noheader'], {
      encoding: 'utf8',
    });
    const known = KNOWN.find((entry) => entry.device.test(stdout ?? ''));
    if (known?.[dtype])
      return { operations: known[dtype], bandwidth: known.bandwidth, source: 'known of this GPU' };
  }
  const own = device === 'cpu' ? await probeOwn(dtype, quick) : undefined;
  if (peerLacks) {
    return own
      ? { ...own, source: 'probed: one wide layer scored here, one buffer copied' }
      : { operations: Number.NaN, bandwidth: Number.NaN, source: 'not known' };
  }
  const { result } = await askPeer(context, 'probe', { device, dtype, threads });
  return {
    operations: Math.max(result.operations, own?.operations ?? 0),
    bandwidth: Math.max(result.bandwidth, own?.bandwidth ?? 0),
    source: "probed: the faster of torch's products and one wide layer scored here; one array read by torch",
  };
}

/** Nearly all operations of this model are three big products; through the public API, since that is all there is here. */
async function probeOwn(dtype, quick) {
  const [width, tokens, bytes] = quick ? [512, 256, 1 << 25] : [1024, 512, 1 << 28];
  const config = {
    architecture: 'llama',
    vocabSize: 256,
    hiddenSize: width,
    intermediateSize: 4 * width,
    layers: 4,
    heads: 8,
    kvHeads: 1,
    headDim: 64,
    maxPositions: tokens,
    rmsEps: 1e-5,
    ropeTheta: 1e4,
    ropeScaling: null,
    qkvBias: false,
    outputBias: false,
    mlpBias: false,
    tied: true,
  };
  const model = await Model.random(config, { dtype });
  const rows = Array.from({ length: 8 }, () => ({ fork: model, tokens: new Int32Array(tokens / 8) }));
  const seconds = await repeat(() => score(rows, { maxBatchTokens: tokens }));
  await model.close();
  const [from, to] = [Buffer.alloc(bytes, 1), Buffer.alloc(bytes)];
  const copy = await repeat(() => from.copy(to));
  return { operations: (2 * model.parameters * tokens) / seconds, bandwidth: (2 * bytes) / copy };
}

async function repeat(call) {
  const samples = [];
  for (let i = 0; i < 6; i++) {
    const begin = performance.now();
    await call();
    samples.push((performance.now() - begin) / 1e3);
  }
  return median(samples.slice(1));
}

/** Seconds that training needs at least: forward and input gradients, 4 operations a parameter and token. */
export function trainingLimit({ operations }, parameters, tokens) {
  return (4 * parameters * tokens) / operations;
}

/**
 * Seconds that generating needs at least: prompts once (2 operations a parameter and token), then for every step all
 * rows' operations, or reading the weights (and each row's own `ownBytes`) once, whichever takes longer.
 */
export function generationLimit(limits, model, { promptTokens, rows, steps, ownBytes = 0 }) {
  const bytes = weightBytes(model.parameters, model.dtype) + ownBytes;
  const step = Math.max((2 * model.parameters * rows) / limits.operations, bytes / limits.bandwidth);
  return (2 * model.parameters * promptTokens) / limits.operations + steps * step;
}
