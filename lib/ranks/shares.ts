/** Who works on what: the same answer on every rank, from nothing but the items' sizes. */

/** Indices `[from, to)` of `count` items in order that a rank takes: blocks whose sizes differ by one at most. */
export function block(count: number, rank: number, world: number): readonly [number, number] {
  return [Math.floor((count * rank) / world), Math.floor((count * (rank + 1)) / world)];
}

/** The rank of each item, in blocks. */
export function blocks(count: number, world: number): number[] {
  const owners: number[] = [];
  for (let rank = 0; rank < world; rank++) {
    const [from, to] = block(count, rank, world);
    for (let index = from; index < to; index++) owners.push(rank);
  }
  return owners;
}

/** The rank of each item, so that the ranks' sums of sizes are near each other: the largest first, each to the least laden rank. */
export function balanced(sizes: readonly number[], world: number): number[] {
  const order = [...sizes.keys()].sort((left, right) => sizes[right]! - sizes[left]! || left - right);
  const load = new Array<number>(world).fill(0);
  const owners = new Array<number>(sizes.length).fill(0);
  for (const index of order) {
    const rank = load.indexOf(Math.min(...load));
    owners[index] = rank;
    load[rank]! += Math.max(sizes[index]!, Number.MIN_VALUE);
  }
  return owners;
}

/** Results of all ranks in the order of the items, each rank having given those of its own items in that order. */
export function inOrder<R>(all: readonly (readonly R[])[], owners: readonly number[]): R[] {
  const next = all.map(() => 0);
  return owners.map((owner) => all[owner]![next[owner]!++]!);
}
