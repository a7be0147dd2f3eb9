// The bars: what a figure must reach, by name, device and shape.

/** `ratio`: how many times as fast as the peer; `fraction`: share of the physical limit; `seconds`, `share`, `delay`: at most. */
export const BARS = {
  'inner-loop': {
    cpu: { S: { ratio: 2.5 } },
    cuda: {
      S: { ratio: 500, fraction: 0.2 },
      L: { ratio: 100, fraction: 0.45 },
      XL: { ratio: 60, fraction: 0.55 },
    },
  },
  evaluate: { cpu: { S: { ratio: 4 } }, cuda: { S: { ratio: 3000 }, XL: { ratio: 200 } } },
  generate: { cpu: { S: { ratio: 2 } }, cuda: { S: { ratio: 10 }, XL: { ratio: 3 } } },
  fork: { cpu: { any: { seconds: 10e-6 } }, cuda: { any: { seconds: 10e-6 } } },
  'fork memory': { cpu: { S: { share: 1.05 } } },
  sparse: { cpu: { S: { ratio: 2 } }, cuda: { any: { ratio: 8 } } },
  update: { cpu: { S: { ratio: 1.5 } }, cuda: { any: { ratio: 3 } } },
  round: { cuda: { XL: { seconds: 300 } } },
  load: { cpu: { S: { ratio: 2 } }, cuda: { S: { ratio: 2 } } },
  'event-loop': {
    cpu: { any: { delay: { p99: 10e-3, max: 50e-3 } } },
    cuda: { any: { delay: { p99: 10e-3, max: 50e-3 } } },
  },
  'load memory': { cpu: { S: { share: 1.2 } } },
};

/** The bar of a figure, or null, and whether it is met (null: nothing to compare). `kind` is the figure's own bar name. */
export function judge(figure, kind) {
  const shapes = BARS[kind]?.[figure.device.startsWith('cuda') ? 'cuda' : figure.device];
  const bar = shapes?.[figure.shape] ?? shapes?.any ?? null;
  if (!bar) return { bar, met: null };
  const checks = [];
  if (bar.ratio !== undefined) checks.push(figure.ratio === null ? null : figure.ratio >= bar.ratio);
  if (bar.fraction !== undefined) {
    checks.push(figure.fractionOfLimit === null ? null : figure.fractionOfLimit >= bar.fraction);
  }
  if (bar.seconds !== undefined) checks.push(figure.ours <= bar.seconds);
  if (bar.share !== undefined) checks.push(figure.share <= bar.share);
  if (bar.delay) checks.push(figure.delay.p99 < bar.delay.p99 && figure.delay.max < bar.delay.max);
  return { bar, met: checks.includes(false) ? false : checks.includes(null) ? null : true };
}

/** `≥ 2.5×`, `≥ 20 % of the limit`, `< 10 µs`, `≤ 1.2×`. */
export function barText(bar) {
  if (!bar) return '–';
  const parts = [];
  if (bar.ratio !== undefined) parts.push(`≥ ${bar.ratio}×`);
  if (bar.fraction !== undefined) parts.push(`≥ ${100 * bar.fraction} % of the limit`);
  if (bar.seconds !== undefined)
    parts.push(bar.seconds < 1 ? `< ${1e6 * bar.seconds} µs` : `≤ ${bar.seconds} s`);
  if (bar.share !== undefined) parts.push(`≤ ${bar.share}× the ideal`);
  if (bar.delay) parts.push(`p99 < ${1e3 * bar.delay.p99} ms, max < ${1e3 * bar.delay.max} ms`);
  return parts.join(', ');
}
