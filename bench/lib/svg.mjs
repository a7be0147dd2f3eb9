// Line charts as SVG, for docs/: small enough to be read, and nothing to install.

const WIDTH = 640;
const HEIGHT = 360;
const EDGE = { left: 70, right: 20, top: 44, bottom: 52 };
const COLOURS = ['#1f6feb', '#d1481a', '#2e8540', '#7d3fb2', '#6e7781', '#bf8700', '#0a7e8c', '#c2255c'];

const NAMES_IN_A_ROW = 5;
const ROW = 16;

/**
 * `x`, `y`: {label, log}; x.mark(value): what stands at a mark instead of the number, where it returns one; `series`: [{name, points: [[x, y], …]}]. The x axis is marked at the points themselves, the y
 * axis begins at 0, or below the smallest value, unless it is logarithmic.
 */
export function lineChart({ title, x, y, series }) {
  const points = series.flatMap((one) => one.points);
  const columns = Math.min(series.length, NAMES_IN_A_ROW);
  const top = EDGE.top + ROW * (Math.ceil(series.length / NAMES_IN_A_ROW) - 1);
  const xs = [...new Set(points.map(([value]) => value))].sort((a, b) => a - b);
  const ys = points.map(([, value]) => value);
  const marks = y.log
    ? logMarks(Math.min(...ys), Math.max(...ys))
    : linearMarks(Math.min(0, ...ys), Math.max(...ys));
  const across = scale(xs[0], xs.at(-1), EDGE.left, WIDTH - EDGE.right, x.log);
  const up = scale(marks[0], marks.at(-1), HEIGHT - EDGE.bottom, top, y.log);
  const lines = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" font-family="sans-serif" font-size="12">`,
    `<rect width="${WIDTH}" height="${HEIGHT}" fill="#ffffff"/>`,
    text(EDGE.left, 20, title, 'font-size="14" font-weight="bold"'),
    text((EDGE.left + WIDTH - EDGE.right) / 2, HEIGHT - 10, x.label, 'text-anchor="middle"'),
    text(16, HEIGHT / 2, y.label, `text-anchor="middle" transform="rotate(-90 16 ${HEIGHT / 2})"`),
  ];
  for (const mark of marks) {
    const at = round(up(mark));
    lines.push(
      `<line x1="${EDGE.left}" x2="${WIDTH - EDGE.right}" y1="${at}" y2="${at}" stroke="#d0d7de"/>`,
      text(EDGE.left - 8, at + 4, number(mark), 'text-anchor="end"'),
    );
  }
  for (const value of xs) {
    lines.push(
      text(
        round(across(value)),
        HEIGHT - EDGE.bottom + 18,
        x.mark?.(value) ?? number(value),
        'text-anchor="middle"',
      ),
    );
  }
  for (const [index, { name, points: own }] of series.entries()) {
    const colour = COLOURS[index % COLOURS.length];
    const path = own.map(([px, py]) => `${round(across(px))},${round(up(py))}`);
    lines.push(`<polyline points="${path.join(' ')}" fill="none" stroke="${colour}" stroke-width="2"/>`);
    for (const point of path) {
      const [px, py] = point.split(',');
      lines.push(`<circle cx="${px}" cy="${py}" r="3" fill="${colour}"/>`);
    }
    const step = Math.min(150, (WIDTH - EDGE.left - EDGE.right) / columns);
    const row = Math.floor(index / NAMES_IN_A_ROW);
    lines.push(
      text(EDGE.left + 8 + round(step * (index % columns)), 37 + ROW * row, name, `fill="${colour}"`),
    );
  }
  return `${[...lines, '</svg>'].join('\n')}\n`;
}

/** Charts one below the other, in one file. */
export function stacked(charts) {
  const inner = charts.map((chart, index) => {
    const place = `<svg y="${index * HEIGHT}" width="${WIDTH}" height="${HEIGHT}" `;
    return lineChart(chart).replace('<svg ', place);
  });
  const box = `viewBox="0 0 ${WIDTH} ${HEIGHT * charts.length}"`;
  return `<svg xmlns="http://www.w3.org/2000/svg" ${box}>\n${inner.join('')}</svg>\n`;
}

function scale(from, to, low, high, log) {
  const turn = log ? Math.log : (value) => value;
  const range = turn(to) - turn(from) || 1;
  return (value) => low + ((turn(value) - turn(from)) / range) * (high - low);
}

/** From `smallest` or below to `largest` or beyond in about six steps of 1, 2 or 5 times a power of ten. */
function linearMarks(smallest, largest) {
  const range = largest - smallest || 1;
  const power = 10 ** Math.floor(Math.log10(range));
  const step = [0.1, 0.2, 0.5, 1, 2].map((factor) => factor * power).find((size) => range / size <= 6);
  const first = Math.floor(smallest / step);
  return Array.from({ length: Math.ceil(largest / step) - first + 1 }, (_, i) => (first + i) * step);
}

/** Powers of ten around the values. */
function logMarks(smallest, largest) {
  const first = Math.floor(Math.log10(smallest));
  const last = Math.max(first + 1, Math.ceil(Math.log10(largest)));
  return Array.from({ length: last - first + 1 }, (_, i) => 10 ** (first + i));
}

function number(value) {
  if (value >= 1e6) return `${Number((value / 1e6).toPrecision(3))}M`;
  return String(Number(value.toPrecision(3)));
}

function text(x, y, content, attributes = '') {
  const escaped = content.replace(/[&<>]/g, (c) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;' })[c]);
  return `<text x="${x}" y="${y}" ${attributes}>${escaped}</text>`;
}

function round(value) {
  return Math.round(value * 10) / 10;
}
