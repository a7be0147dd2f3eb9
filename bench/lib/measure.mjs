// Both sides in turn, after both have computed the same.
import { makeError } from 'selfedit';
import { startPeer } from './peer.mjs';

/** Runs that take less than this all together are done five times, not three. */
const SHORT = 60;

export async function stopwatch(call) {
  const begin = performance.now();
  const result = await call();
  return { seconds: (performance.now() - begin) / 1e3, result };
}

/**
 * Warms both sides up, compares what they computed, then times them in turn.
 *   ours()                    does the work once and returns what it computed
 *   peer {script, work}       the script of bench/peers and its work
 *   scale                     how much more our side does than the peer: the peer's seconds are multiplied by it
 *   check(ours, theirs)       [{what, value, tolerance}, …]; a value above its tolerance ends the benchmark
 */
export async function inTurn(context, { ours, peer, scale = 1, check }) {
  const warm = await stopwatch(ours);
  if (context.peerLacks) {
    const repeats = repeatsOf(context, warm.seconds);
    const own = [];
    for (let i = 0; i < repeats; i++) {
      context.signal?.throwIfAborted();
      own.push((await stopwatch(ours)).seconds);
    }
    return { ours: own, peer: [], check: null };
  }
  const other = await startPeer(context, peer.script, { ...context.peerWork, ...peer.work });
  Object.assign(context.versions, other.versions);
  if (scale !== 1) context.log(`the peer does 1/${scale.toPrecision(4)} of the work; its seconds are scaled`);
  const found = check(warm.result, other.result);
  for (const { what, value, tolerance } of found) {
    if (value <= tolerance) continue;
    throw makeError(
      'INTERNAL',
      `${context.name}: the two sides computed different things: ${what} is ${value.toPrecision(3)}, allowed is ${tolerance}`,
    );
  }
  const repeats = repeatsOf(context, warm.seconds + other.seconds);
  const samples = { ours: [], peer: [] };
  for (let i = 0; i < repeats; i++) {
    context.signal?.throwIfAborted();
    samples.ours.push((await stopwatch(ours)).seconds);
    samples.peer.push((await other.run()) * scale);
  }
  await other.end();
  return { ...samples, check: found };
}

function repeatsOf({ repeats }, seconds) {
  return repeats ?? (5 * seconds < SHORT ? 5 : 3);
}
