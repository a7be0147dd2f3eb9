// One build at a time in one folder: two would write the same object files.
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

function alive(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error.code === 'EPERM';
  }
}

/** Runs `work` while holding the lock folder; waits for another holder, and takes over from a dead one. */
export async function withLock(folder, log, work) {
  for (let waited = 0; ; waited++) {
    try {
      mkdirSync(folder);
      break;
    } catch (error) {
      if (error.code !== 'EEXIST') throw error;
      let pid = 0;
      try {
        pid = Number(readFileSync(join(folder, 'pid'), 'utf8'));
      } catch {
        // Just being made, or left behind without a name; the latter is clear after a few seconds.
      }
      if ((pid > 0 && !alive(pid)) || (pid === 0 && waited >= 5)) {
        rmSync(folder, { recursive: true, force: true });
        continue;
      }
      if (waited === 0) log('another build runs in this folder; waiting for it');
      await sleep(1000);
    }
  }
  try {
    writeFileSync(join(folder, 'pid'), String(process.pid));
    return await work();
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
