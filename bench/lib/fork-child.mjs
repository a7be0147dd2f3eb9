// Child of fork.mjs: what many forks hold, each with a delta of its own. Prints one line of JSON.
import { doctor, Model } from 'selfedit';
import { lowRank } from './deltas.mjs';
import { residentBytes } from './process-memory.mjs';

const { path, dtype, device, forks: count } = JSON.parse(process.argv[2]);
await doctor(); // the addon and libtorch are not what is counted
const before = residentBytes().now;
const model = await Model.load(path, { dtype, device });
const forks = [];
const deltas = [];
const begin = performance.now();
for (let i = 0; i < count; i++) {
  const delta = lowRank(model, { rank: 8, seed: i });
  deltas.push(delta);
  forks.push(model.fork().apply(delta));
}
const seconds = (performance.now() - begin) / 1e3;
// The arrays that the deltas were made from are JavaScript's.
globalThis.gc();
globalThis.gc();
const resident = residentBytes().now - before;
const own = forks.reduce((total, fork) => total + fork.memory().own, 0);
const ideal = model.bytes + deltas.reduce((total, { bytes }) => total + bytes, 0);
console.log(JSON.stringify({ seconds, resident, own, base: model.bytes, ideal }));
process.exit(0);
