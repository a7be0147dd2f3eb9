/** Which process on which machine: enough to tell later whether it still runs. */
import { readFileSync, readlinkSync } from 'node:fs';
import { hostname } from 'node:os';

export interface ProcessIdentity {
  readonly host: string;
  readonly pid: number;
  /** Clock ticks from the machine's start to that of the process; null where the system does not say (not Linux). */
  readonly start: number | null;
  /** Of the running system, and of the namespace that numbers its processes: where either differs, the number says nothing. */
  readonly boot: string | null;
  readonly namespace: string | null;
}

/** This process. */
export function ownIdentity(): ProcessIdentity {
  return {
    host: hostname(),
    pid: process.pid,
    start: startOf(process.pid),
    boot: orNull(() => readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()),
    namespace: orNull(() => readlinkSync('/proc/self/ns/pid')),
  };
}

/** Whether a process still runs; undefined where that cannot be seen from here. */
export function isRunning(other: ProcessIdentity): boolean | undefined {
  const own = ownIdentity();
  if (other.host !== own.host || other.boot !== own.boot || other.namespace !== own.namespace) {
    return undefined;
  }
  try {
    process.kill(other.pid, 0);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ESRCH') return false;
  }
  const stat = statOf(other.pid);
  // A zombie holds nothing any more, and the number may have gone to another process since.
  return stat?.state !== 'Z' && (!stat || other.start === null || stat.start === other.start);
}

function startOf(pid: number): number | null {
  return statOf(pid)?.start ?? null;
}

/** Fields 3 and 22 of /proc/<pid>/stat; the name in field 2 may hold anything, so counting begins after its last bracket. */
function statOf(pid: number): { state: string; start: number } | null {
  return orNull(() => {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
    return { state: fields[0]!, start: Number(fields[19]) };
  });
}

function orNull<T>(read: () => T): T | null {
  try {
    return read();
  } catch {
    return null;
  }
}
