/**
 * Seconds of a SEAL round on many ranks, from measured parts. Pure; `bench/scaling.mjs` feeds it and docs/scaling.md explains it.
 *
 * parts     of one rank: seconds an edit of the phases, bytes of an edit, seconds the host takes to read one, parameters trained
 * network   bytes/s and seconds of a hop between ranks, seconds of one call of the store, bytes/s of SHA-256 and of the disk
 */

/** Phases whose edits are shared out. */
export const SHARED = ['write', 'baseline', 'adapt', 'evaluate', 'update'];

/** Places of a round where ranks meet: three gathers of edits and results, then two a minibatch; the fingerprint, the end. */
export function meetings({ minibatches }) {
  return 3 + 2 * minibatches + 2;
}

/** Seconds of an all-gather of `bytes` in all, on a ring. */
export function gatherSeconds(bytes, world, { bandwidth, latency }) {
  return world === 1 ? 0 : (bytes * (world - 1)) / world / bandwidth + (world - 1) * latency;
}

/** Seconds of a sum of `bytes` over all ranks, on a ring; latencies as in a tree, which libraries take for short ones. */
export function reduceSeconds(bytes, world, { bandwidth, latency }) {
  return world === 1 ? 0 : (2 * bytes * (world - 1)) / world / bandwidth + 2 * Math.ceil(Math.log2(world)) * latency;
}

/**
 * How much longer the busiest rank works than the mean one: `edits` of the sizes' distribution, shared out as `balanced` does it (largest
 * first, to the least laden).
 */
export function imbalance(sizes, edits, world) {
  const load = new Float64Array(world);
  const drawn = Array.from({ length: edits }, (_, index) => sizes[index % sizes.length]);
  drawn.sort((left, right) => right - left);
  // A heap would do; the sizes come in order, so that the least laden is found by a walk.
  const heap = [...load.keys()];
  for (const size of drawn) {
    load[heap[0]] += size;
    sink(heap, load);
  }
  const total = drawn.reduce((sum, size) => sum + size, 0);
  return Math.max(...load) / (total / world);
}

/** Restores the order of a heap (least laden first) whose first one has grown. */
function sink(heap, load) {
  for (let at = 0; ; ) {
    let least = at;
    for (const child of [2 * at + 1, 2 * at + 2]) {
      if (child < heap.length && load[heap[child]] < load[heap[least]]) least = child;
    }
    if (least === at) return;
    [heap[at], heap[least]] = [heap[least], heap[at]];
    at = least;
  }
}

/**
 * A round of `edits` edits by `world` ranks: seconds by part, their sum, and the part that has grown most over one rank's share.
 * In `deterministic` mode the gradient of every context travels instead of one sum.
 */
export function plan({ parts, network, sizes, edits, world, contexts, deterministic = false }) {
  const share = (edits / world) * imbalance(sizes, edits, world);
  const own = Object.fromEntries(SHARED.map((name) => [name, parts.seconds[name] * share]));
  const gradient = 4 * parts.parameters;
  const { minibatches } = parts;
  const gradients = deterministic
    ? // Contexts are in one minibatch each, and every gradient goes to all.
      (parts.passes ?? 1) * gatherSeconds(contexts * gradient, world, network)
    : minibatches * reduceSeconds(gradient, world, network);
  const others = {
    gather: gatherSeconds(edits * parts.bytes, world, network),
    read: world === 1 ? 0 : edits * parts.readSeconds,
    gradients,
    meet: world === 1 ? 0 : meetings(parts) * (world * 4 * network.store + Math.ceil(Math.log2(world)) * network.latency),
    // Values and both moments.
    fingerprint: world === 1 ? 0 : (3 * gradient) / network.hash,
    save: (3 * gradient + edits * parts.bytes) / network.disk,
  };
  const seconds = { ...own, ...others };
  const total = Object.values(seconds).reduce((sum, value) => sum + value, 0);
  const [bottleneck] = Object.entries(others).sort(([, left], [, right]) => right - left)[0];
  return { world, edits, seconds, total, bottleneck };
}

/** Weak scaling: the same number of edits a rank. Efficiency is the share of the round that one rank alone would need. */
export function weak(options, worlds, perRank, contextsPerRank) {
  const alone = plan({ ...options, world: 1, edits: perRank, contexts: contextsPerRank });
  return worlds.map((world) => {
    const planned = plan({ ...options, world, edits: perRank * world, contexts: contextsPerRank * world });
    return { ...planned, efficiency: alone.total / planned.total };
  });
}

/** Strong scaling: one round, spread out. */
export function strong(options, worlds, edits, contexts) {
  const alone = plan({ ...options, world: 1, edits, contexts });
  return worlds.map((world) => {
    const planned = plan({ ...options, world, edits, contexts });
    return { ...planned, efficiency: alone.total / planned.total / world };
  });
}
