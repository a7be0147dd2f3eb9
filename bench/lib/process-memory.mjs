// Resident memory of this process as Linux counts it: now, and at its highest.
import { readFileSync } from 'node:fs';

/** Bytes: VmRSS and VmHWM of /proc/self/status. */
export function residentBytes() {
  const status = readFileSync('/proc/self/status', 'utf8');
  const field = (name) => 1024 * Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(status)[1]);
  return { now: field('VmRSS'), peak: field('VmHWM') };
}
