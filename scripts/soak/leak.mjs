// fork → adapt → score → drop, again and again: live tensors return to the start, resident memory does not grow.
import { liveTensors, scoreBits, se, tinyModel, tokensOf } from './common.mjs';

export async function leak({ times, seed }) {
  const model = await tinyModel();
  const cycle = async (n) => {
    const fork = model.fork();
    const documents = [tokensOf(12, (seed + n) % 97)];
    const options = { epochs: 1, rank: 32, targets: ['all'], seed: n };
    const [{ delta }] = await se.adapt([{ fork, documents }], options);
    fork.apply(delta);
    await scoreBits(fork);
    const { own } = fork.memory();
    await fork.close();
    await delta.close();
    return own;
  };
  const warm = Math.max(50, Math.floor(times / 10));
  let bytes = 0;
  for (let n = 0; n < warm; n++) bytes = await cycle(n);
  const before = await liveTensors(model);
  const points = [];
  const every = Math.max(10, Math.floor(times / 200));
  const start = performance.now();
  for (let n = 0; n < times; n++) {
    await cycle(warm + n);
    if (n % every !== every - 1) continue;
    globalThis.gc?.();
    points.push([n, process.memoryUsage.rss()]);
  }
  const seconds = (performance.now() - start) / 1000;
  const after = await liveTensors(model);
  await model.close();
  const slope = slopeOf(points);
  return {
    cycles: times,
    seconds: Math.round(seconds),
    liveTensors: { before, after },
    deltaBytes: bytes,
    residentMb: { first: megabytes(points[0][1]), last: megabytes(points.at(-1)[1]) },
    bytesPerCycle: Math.round(slope),
  };
}

/** Least squares. */
function slopeOf(points) {
  const mean = (at) => points.reduce((sum, point) => sum + point[at], 0) / points.length;
  const [x, y] = [mean(0), mean(1)];
  const across = points.reduce((sum, point) => sum + (point[0] - x) * (point[1] - y), 0);
  return across / points.reduce((sum, point) => sum + (point[0] - x) ** 2, 0);
}

const megabytes = (bytes) => Math.round(bytes / 1e5) / 10;
