// A peer in Python: started once, warmed up, then timed run by run in turn with our side.
import { spawn, spawnSync } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

const ENVIRONMENT = {
  ...process.env,
  PYTHONDONTWRITEBYTECODE: '1',
  HF_HUB_OFFLINE: '1',
  TOKENIZERS_PARALLELISM: 'false',
};

/** Why `python` cannot import these modules; undefined when it can. */
export function lacking(python, modules) {
  // One by one, so that the message names the one that is missing; found, not run: importing them takes seconds.
  const source = `import importlib.util as u; print([m for m in ${JSON.stringify(modules)} if u.find_spec(m) is None])`;
  const { status, stdout, error, stderr } = spawnSync(python, ['-c', source], {
    env: ENVIRONMENT,
    encoding: 'utf8',
  });
  if (error) return `${python} does not start (${error.code ?? error.message})`;
  if (status !== 0) return `${python} fails: ${stderr.trim().split('\n').at(-1)}`;
  const missing = JSON.parse(stdout.replaceAll("'", '"'));
  return missing.length > 0 ? `${python} cannot import ${missing.join(', ')}` : undefined;
}

/**
 * Starts bench/peers/NAME.py on `work` with the context's Python. Resolves when it is warm: `result` is what it
 * computed, `seconds` how long the warm run took; `run()` does the work once more and returns its seconds.
 */
export async function startPeer({ python, signal }, name, work) {
  const script = fileURLToPath(new URL(`../peers/${name}.py`, import.meta.url));
  const child = spawn(python, [script], { env: ENVIRONMENT, signal, stdio: 'pipe' });
  const closed = new Promise((resolve) => child.on('close', resolve));
  let complaint = '';
  child.stderr.setEncoding('utf8').on('data', (text) => {
    complaint = `${complaint}${text}`.slice(-4000);
  });
  child.on('error', () => {});
  child.stdin.on('error', () => {});
  const stop = () => child.kill();
  process.once('exit', stop);
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const next = async () => {
    const { value, done } = await lines.next();
    if (!done) return JSON.parse(value);
    await closed;
    signal?.throwIfAborted();
    throw new Error(`the peer ${name} ended early: ${complaint.trim().split('\n').slice(-3).join(' / ')}`);
  };
  child.stdin.write(`${JSON.stringify(work)}\n`);
  const first = await next();
  return {
    ...first,
    pid: child.pid,
    async run() {
      child.stdin.write('run\n');
      return (await next()).seconds;
    },
    async end() {
      child.stdin.end();
      await closed;
      process.off('exit', stop);
    },
  };
}

/** Starts a peer, takes what it answers at once, and ends it. */
export async function askPeer(context, name, work) {
  const peer = await startPeer(context, name, work);
  await peer.end();
  return peer;
}
