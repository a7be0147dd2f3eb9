// A peer in Python: started once, then timed run by run in turn with our side.
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

/** Starts bench/peers/NAME.py on `work`; resolves when it is warm. `python` needs torch, transformers and peft. */
export async function startPeer(python, name, work) {
  const script = fileURLToPath(new URL(`peers/${name}.py`, import.meta.url));
  const child = spawn(python, [script], { stdio: ['pipe', 'pipe', 'inherit'] });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const next = async () => {
    const { value, done } = await lines.next();
    if (done)
      throw new Error(`the peer ${name} ended early; does ${python} have torch, transformers and peft?`);
    return JSON.parse(value);
  };
  child.stdin.write(`${JSON.stringify({ ...work, alternate: true })}\n`);
  await next();
  return {
    async run() {
      child.stdin.write('run\n');
      return (await next()).seconds;
    },
    /** Ends it; what it computed, and with which versions. */
    async end() {
      child.stdin.end();
      return next();
    },
  };
}

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}
