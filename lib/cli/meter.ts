/** Progress on standard error: a bar with rate and time left on a terminal, now and then a plain line elsewhere. */
import { SingleBar } from 'cli-progress';

export interface MeterOptions {
  /** What is being done, for example `score`. */
  label: string;
  /** What is counted, in the plural; its rate is shown. Absent: only the share is. */
  unit?: string;
}

/** Seconds before the first plain line, and between two of them. */
const QUIET_SECONDS = 5;

/** A terminal that can redraw a line. */
function isTerminal(): boolean {
  return process.stderr.isTTY === true && process.env.TERM !== 'dumb';
}

export class Meter {
  readonly #options: MeterOptions;
  readonly #start = performance.now();
  #bar: SingleBar | undefined;
  #lastLine = this.#start;
  #ended = false;

  constructor(options: MeterOptions) {
    this.#options = options;
  }

  /** `total` undefined: not known. `left` are the seconds that remain, when the caller knows better. */
  update(done: number, total: number | undefined, { status = '', left }: MeterUpdate = {}): void {
    if (this.#ended) return;
    const now = performance.now();
    const seconds = (now - this.#start) / 1000;
    const text = this.#describe(done, total, seconds, left) + (status && ` ${status}`);
    if (isTerminal()) {
      this.#draw(done, total, text);
    } else if (now - this.#lastLine >= QUIET_SECONDS * 1000) {
      this.#lastLine = now;
      const share = total ? ` ${Math.floor((100 * done) / total)} %` : '';
      process.stderr.write(`${this.#options.label}${share} ${text}\n`);
    }
  }

  /** Clears the bar so that something else can be written; the next update draws it again. */
  pause(): void {
    this.#bar?.stop();
    this.#bar = undefined;
  }

  end(): void {
    this.pause();
    this.#ended = true;
  }

  #describe(done: number, total: number | undefined, seconds: number, left: number | undefined): string {
    const { unit } = this.#options;
    const rate = seconds > 0 ? done / seconds : 0;
    const parts: string[] = [];
    if (unit)
      parts.push(total === undefined ? `${whole(done)} ${unit}` : `${whole(done)}/${whole(total)} ${unit}`);
    if (unit && rate > 0) parts.push(`${rateText(rate)}/s`);
    const remaining = left ?? (total !== undefined && rate > 0 ? (total - done) / rate : undefined);
    if (remaining !== undefined && seconds >= 1) parts.push(`${durationText(remaining)} left`);
    return parts.join(', ');
  }

  #draw(done: number, total: number | undefined, text: string): void {
    const bar = total === undefined ? '' : '[{bar}] {percentage} % ';
    if (!this.#bar) {
      const options = {
        format: `${this.#options.label} ${bar}{text}`,
        stream: process.stderr,
        barsize: 24,
        hideCursor: false,
        clearOnComplete: true,
        linewrap: false,
        // Its own handling of interrupts would end the process; ours finishes cleanly.
        gracefulExit: false,
      };
      this.#bar = new SingleBar(options);
      this.#bar.start(total ?? 1, total === undefined ? 0 : done, { text });
      return;
    }
    this.#bar.update(total === undefined ? 0 : done, { text });
  }
}

export interface MeterUpdate {
  status?: string;
  left?: number | undefined;
}

function whole(value: number): string {
  return Math.floor(value).toLocaleString('en-US');
}

function rateText(rate: number): string {
  return rate >= 100 ? whole(rate) : rate.toPrecision(2);
}

/** `4 s`, `3:07` or `1:02:03`. */
export function durationText(seconds: number): string {
  const rounded = Math.max(0, Math.round(seconds));
  if (rounded < 60) return `${rounded} s`;
  const two = (value: number) => String(value).padStart(2, '0');
  const minutes = Math.floor(rounded / 60);
  if (minutes < 60) return `${minutes}:${two(rounded % 60)}`;
  return `${Math.floor(minutes / 60)}:${two(minutes % 60)}:${two(rounded % 60)}`;
}

/** `512 B`, `98.4 MB`. */
export function bytesText(bytes: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${unit === 0 ? value : value.toPrecision(3)} ${units[unit]}`;
}
