// Seeded draws: what the benchmarks feed to both sides.

/** Unsigned 32-bit draws (xorshift32). */
export function draws(seed) {
  let state = (Math.imul(seed + 1, 0x9e3779b1) ^ 0x5bd1e995) >>> 0 || 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state >>> 0;
  };
}

/** Fills with nearly normal values (four bytes of one draw, summed). */
export function fillNormal(values, deviation, draw) {
  // A uniform byte has variance (256² − 1) / 12.
  const step = deviation / Math.sqrt((4 * (256 ** 2 - 1)) / 12);
  for (let i = 0; i < values.length; i++) {
    const x = draw();
    values[i] = ((x & 255) + ((x >>> 8) & 255) + ((x >>> 16) & 255) + (x >>> 24) - 510) * step;
  }
  return values;
}

export function normal(count, deviation, draw) {
  return fillNormal(new Float32Array(count), deviation, draw);
}
