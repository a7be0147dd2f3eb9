/**
 * Seconds of a SEAL round on many ranks, from measured parts. Pure; `bench/scaling.mjs` feeds it and docs/scaling.md explains it.
 *
 * parts     of one rank: `seconds` of work an edit by phase, `bytes` that its results take, `readSeconds` that every rank's host spends on
 *           them, `parameters` trained
 * network   `bandwidth` in bytes/s of a rank, `latency` in seconds a hop, `storeSeconds` of a rank at a meeting, `hash` and `disk` in bytes/s
 * update    `epochs`, and `minibatch` in edits
 */

const SHARED = ['write', 'baseline', 'adapt', 'evaluate'];

/** Seconds of an all-gather of `bytes` in all, on a ring. */
export function gatherSeconds(bytes, world, { bandwidth, latency }) {
  return (bytes / bandwidth / world) * (world - 1) + (world - 1) * latency;
}

/** Seconds of a sum of `bytes` over all ranks: a ring's bytes, a tree's hops. */
export function reduceSeconds(bytes, world, { bandwidth, latency }) {
  return (2 * bytes * (world - 1)) / world / bandwidth + 2 * Math.ceil(Math.log2(world)) * latency;
}

/** Work of the busiest rank over the mean, of `count` items shared out largest first to the least laden. Sizes repeat. */
export function imbalance(sizes, count, world) {
  const items = Array.from({ length: count }, (_, index) => sizes[index % sizes.length]);
  items.sort((left, right) => right - left);
  const load = new Float64Array(world);
  const heap = [...load.keys()];
  for (const size of items) {
    load[heap[0]] += size;
    sink(heap, load);
  }
  const total = items.reduce((sum, size) => sum + size, 0);
  return Math.max(...load) / (total / world);
}

/** Restores the order of a heap, the least laden first, when its first one has grown. */
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
 * A round of `edits` edits by `world` ranks: seconds by part, and their sum.
 * @returns {{ world: number, edits: number, steps: number, seconds: Record<string, number>, total: number }}
 */
export function plan({ parts, network, sizes, update, edits, world, deterministic = false }) {
  const own = (edits / world) * imbalance(sizes, edits, world);
  const seconds = Object.fromEntries(SHARED.map((name) => [name, parts.seconds[name] * own]));
  // A minibatch keeps no more ranks busy than it has edits.
  const busy = Math.min(world, update.minibatch);
  seconds.update = ((parts.seconds.update * edits) / busy) * imbalance(sizes, update.minibatch, busy);
  const steps = Math.ceil(edits / update.minibatch) * update.epochs;
  const gradient = 4 * parts.parameters;
  const state = 3 * gradient;
  // Two meetings a step, and eight a round: edits, answers, rewards, first pass, fingerprint, begin and end.
  const meetings = 2 * steps + 8;
  const apart = world === 1 ? 0 : 1;
  return {
    world,
    edits,
    steps,
    seconds: {
      ...seconds,
      gather: apart * gatherSeconds(edits * parts.bytes, world, network),
      read: apart * edits * parts.readSeconds,
      // Deterministic: the gradient of every edit's context goes to all, one after the other.
      gradients:
        apart *
        steps *
        (deterministic
          ? update.minibatch * (gradient / network.bandwidth + Math.ceil(Math.log2(world)) * network.latency)
          : reduceSeconds(gradient, world, network)),
      meet: apart * meetings * world * network.storeSeconds,
      fingerprint: apart * (state / network.hash),
      save: (state + edits * parts.bytes) / network.disk,
    },
    get total() {
      return Object.values(this.seconds).reduce((sum, value) => sum + value, 0);
    },
  };
}

/** The part of a plan that has grown most over what one rank spends on its share. */
export function bottleneck(planned, alone) {
  const share = alone.edits * planned.world === planned.edits ? 1 : 1 / planned.world;
  const grown = Object.entries(planned.seconds).map(([name, value]) => [
    name,
    value - alone.seconds[name] * share,
  ]);
  return grown.sort(([, left], [, right]) => right - left)[0][0];
}

/**
 * `edits` a rank on every number of ranks: each plan with its efficiency, the time of one rank alone over its own.
 * @param {(world: number) => number} [minibatch]
 */
export function weak(options, worlds, edits, minibatch = () => options.update.minibatch) {
  const alone = plan({ ...options, world: 1, edits });
  return worlds.map((world) => {
    const update = { ...options.update, minibatch: minibatch(world) };
    const planned = plan({ ...options, update, world, edits: edits * world });
    return {
      ...planned,
      total: planned.total,
      efficiency: alone.total / planned.total,
      bottleneck: bottleneck(planned, alone),
    };
  });
}

/** One round of `edits` edits on more and more ranks. */
export function strong(options, worlds, edits) {
  const alone = plan({ ...options, world: 1, edits });
  return worlds.map((world) => {
    const planned = plan({ ...options, world, edits });
    const efficiency = alone.total / planned.total / world;
    return { ...planned, total: planned.total, efficiency, bottleneck: bottleneck(planned, alone) };
  });
}
