// Memory of host processes, measured in a process of its own.
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

/** Says so, and returns false, where weights are not in the host's memory or the system does not tell. */
export function canReadMemory({ device, log }) {
  const able = process.platform === 'linux' && device === 'cpu';
  if (!able) log('memory is read only on Linux, and of models on the CPU');
  return able;
}

/** Runs bench/lib/NAME.mjs with `work` as its argument; returns the object that it prints. */
export async function childMemory(name, work) {
  const script = fileURLToPath(new URL(`./${name}.mjs`, import.meta.url));
  const { stdout } = await promisify(execFile)(process.execPath, [
    '--expose-gc',
    script,
    JSON.stringify(work),
  ]);
  return JSON.parse(stdout);
}

export function weightBytes(parameters, dtype) {
  return parameters * (dtype === 'bfloat16' ? 2 : 4);
}

export function megabytes(bytes) {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}
