/**
 * Faults at single file calls of a run: those that TypeScript makes through `realDisk`, and those of the addon. Both are
 * counted apart, from 0. What a fault does: `error` (the call fails with `code`), `short` (a write writes half of its bytes),
 * `kill` (SIGKILL before the call), `torn` (SIGKILL after half of a write; after any other call).
 */
import { constants } from 'node:os';

/** Reading is never disturbed. */
const ON_PATHS = ['link', 'mkdir', 'open', 'rename', 'rm', 'truncate'];
const ON_FILES = ['close', 'sync', 'truncate', 'write', 'writeFile'];

/**
 * Counts the calls of both layers and does `effect` to number `at` of `layer`, once.
 * @param {{ disk: Record<string, Function>, native: { fileFault: Function } }} layers changed in place until `end`
 * @param {{ layer?: 'disk' | 'native', at?: number, effect?: string, code?: string }} fault none: calls are only counted
 */
export function plan({ disk, native }, { layer, at = -1, effect = 'none', code = 'EIO' } = {}) {
  const original = { ...disk };
  /** @type {{ layer: string, at: number, call: string }[]} */
  const calls = [];
  const counts = { disk: 0, native: 0 };
  const aims = layer === 'native';
  native.fileFault(aims ? at : 0, aims ? effect : 'none', constants.errno[code]);
  // Reading the addon's list begins its count anew, so only when nothing is aimed at.
  const drain = () => {
    if (aims) return;
    for (const call of native.fileFault(0, 'none', 0)) {
      calls.push({ layer: 'native', at: counts.native++, call });
    }
  };
  const hit = (call) => {
    drain();
    calls.push({ layer: 'disk', at: counts.disk, call });
    return counts.disk++ === at && layer === 'disk' ? effect : 'none';
  };
  const act = async (name, work, half = work) => {
    const what = hit(name);
    if (what === 'kill') die();
    const closes = name.startsWith('close ');
    if (what === 'error' && !closes) throw injected(code);
    const result = await (what === 'short' || what === 'torn' ? half() : work());
    if (what === 'torn') die();
    if (what === 'error') throw injected(code);
    return result;
  };
  for (const name of ON_PATHS) {
    disk[name] = async (path, ...more) => {
      if (name === 'open' && more[0] === 'r') return file(path, await original.open(path, 'r'), ['sync']);
      const both = name === 'rename' || name === 'link';
      const result = await act(`${name} ${path}${both ? `\t${more[0]}` : ''}`, () =>
        original[name](path, ...more),
      );
      return name === 'open' ? file(path, result, ON_FILES) : result;
    };
  }
  const file = (path, handle, counted) =>
    new Proxy(handle, {
      get(target, key) {
        const value = Reflect.get(target, key);
        if (typeof value !== 'function') return value;
        if (!counted.includes(key)) return value.bind(target);
        const name = `${key === 'sync' ? 'fsync' : key} ${path}`;
        return (...args) => {
          const half = key === 'write' && ArrayBuffer.isView(args[0]) ? halfOf(args) : undefined;
          return act(name, () => value.apply(target, args), half && (() => value.apply(target, half)));
        };
      },
    });
  return {
    /** All calls in their order; those of the addon only where none of them is aimed at. */
    end() {
      drain();
      native.fileFault(-1, 'none', 0);
      Object.assign(disk, original);
      return calls;
    },
  };
}

const halfOf = ([bytes, from, count]) => [bytes, from, Math.ceil(count / 2)];

function injected(code) {
  return Object.assign(new Error(`${code}: injected`), { code, errno: -constants.errno[code] });
}

/** The signal ends the process before this returns. */
function die() {
  process.kill(process.pid, 'SIGKILL');
  for (;;);
}
