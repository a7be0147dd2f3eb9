// A figure as JSON and as a line of a table.
import { barText, judge } from './bars.mjs';
import { median, spread } from './statistics.mjs';

/**
 * One figure: times in seconds; `ratio` is peer / ours, `limit` the least seconds that the hardware allows. What does not
 * exist is null. `bar` names its entry in bars.mjs.
 */
export function makeFigure(context, { name, bar = name, ours, peer = [], limit = null, ...more }) {
  const seconds = { ours: median(ours), peer: peer.length > 0 ? median(peer) : null };
  const least = Number.isFinite(limit) ? limit : null;
  const figure = {
    name,
    shape: context.shape.name,
    device: context.device,
    dtype: context.dtype,
    ours: seconds.ours,
    peer: seconds.peer,
    ratio: seconds.peer === null ? null : seconds.peer / seconds.ours,
    limit: least,
    fractionOfLimit: least === null ? null : least / seconds.ours,
    samples: { ours, peer },
    versions: context.versions,
    threads: context.threads,
    ...more,
  };
  return { ...figure, ...judge(figure, bar) };
}

/** One object for one benchmark: the first figure, the others in `also`, and what was said on the way in `notes`. */
export function asJson([first, ...rest], notes) {
  return { ...first, ...(rest.length > 0 ? { also: rest } : {}), notes };
}

export function seconds(value) {
  if (value === null || value === undefined) return '–';
  if (value < 1e-3) return `${(value * 1e6).toPrecision(3)} µs`;
  return value < 1 ? `${(value * 1e3).toPrecision(3)} ms` : `${value.toPrecision(4)} s`;
}

function timed(value, samples) {
  if (value === null) return '–';
  if (samples.length < 2) return seconds(value);
  const { low, high } = spread(samples);
  return `${seconds(value)} (${seconds(low)} … ${seconds(high)})`;
}

const HEAD = ['name', 'shape', 'dtype', 'ours', 'peer', 'ratio', 'limit', 'of limit', 'bar', 'met', 'check'];

/** Lines of a table with a head; `figures` may be of several benchmarks. */
export function tableOf(figures) {
  const rows = figures.map((figure) => [
    figure.name,
    figure.shape,
    figure.dtype,
    timed(figure.ours, figure.samples.ours),
    timed(figure.peer, figure.samples.peer),
    figure.share !== undefined
      ? `${figure.share.toFixed(3)}× the ideal`
      : figure.ratio === null
        ? '–'
        : `${figure.ratio.toPrecision(3)}×`,
    seconds(figure.limit),
    figure.fractionOfLimit === null ? '–' : `${(100 * figure.fractionOfLimit).toFixed(1)} %`,
    barText(figure.bar),
    figure.met === null ? '–' : figure.met ? 'yes' : 'no',
    figure.check
      ? figure.check.map(({ what, value }) => `${what} ${value.toExponential(1)}`).join('; ')
      : '–',
  ]);
  const all = [HEAD, ...rows];
  const widths = HEAD.map((_, column) => Math.max(...all.map((row) => row[column].length)));
  return all.map((row) =>
    row
      .map((cell, column) => cell.padEnd(widths[column]))
      .join('  ')
      .trimEnd(),
  );
}
