/** Loading the addon in several environments of one process; each case is a process of its own. */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { packageRoot } from '../../lib/load.js';

/** Runs a module in a fresh process, with `binding` (URL of the compiled binding) and node:worker_threads at hand. */
function run(source: string, env: NodeJS.ProcessEnv = process.env) {
  const binding = JSON.stringify(new URL(`file://${join(packageRoot, 'dist', 'binding.js')}`).href);
  const worker = `import { parentPort } from 'node:worker_threads';
    import { native } from ${binding};
    native().info();
    parentPort.postMessage('loaded');
    parentPort.once('message', () => parentPort.close());`;
  const text = `import { Worker } from 'node:worker_threads';
    import { once } from 'node:events';
    import { native } from ${binding};
    const start = async () => {
      const worker = new Worker(${JSON.stringify(worker)}, { eval: true });
      await once(worker, 'message');
      return { worker, end: async () => { worker.postMessage('end'); return (await once(worker, 'exit'))[0]; } };
    };
    ${source}`;
  const { status, signal, stdout, stderr } = spawnSync(
    process.execPath,
    ['--input-type=module', '-e', text],
    { encoding: 'utf8', env, cwd: packageRoot },
  );
  return { status, signal, stdout: stdout.trim(), stderr };
}

describe('the addon', () => {
  it('loads without any environment variable', () => {
    const result = run('console.log(native().info().torch);', { PATH: process.env.PATH });
    expect(result).toMatchObject({ status: 0, signal: null });
    expect(result.stdout).toMatch(/^2\.1[1-4]\./);
  });

  it('loads in the main thread and in workers at once', () => {
    const result = run(`
      native().info();
      const workers = await Promise.all([start(), start(), start()]);
      console.log(await Promise.all(workers.map((w) => w.end())), native().info().devices.includes('cpu'));`);
    expect(result).toMatchObject({ status: 0, signal: null, stdout: '[ 0, 0, 0 ] true' });
  });

  it('loads in workers only, one after the other', () => {
    const result = run(`
      for (let i = 0; i < 3; i++) console.log(await (await start()).end());`);
    expect(result).toMatchObject({ status: 0, signal: null, stdout: '0\n0\n0' });
  });

  it('survives a worker that is terminated, and an exit with a worker running', () => {
    const result = run(`
      await (await start()).worker.terminate();
      native().info();
      await start();
      console.log('going');
      process.exit(3);`);
    expect(result).toMatchObject({ status: 3, signal: null, stdout: 'going' });
  });

  it('does not keep the process alive', () => {
    const result = run(`native().info(); console.log('end of the script');`);
    expect(result).toMatchObject({ status: 0, signal: null, stdout: 'end of the script' });
  });
});
