/** Every way in which a process ends, with things open and work running. */
import { describe, expect, it } from 'vitest';
import { child, wellEnded } from './child.js';

const open = `
  const model = await se.Model.random(config, { seed: 1 });
  const fork = model.fork();
  const [{ delta }] = await se.adapt([{ fork, documents: [tokens(20)] }], { epochs: 1, rank: 2 });
  fork.apply(delta).fork();
  const policy = se.Policy.create(model, { rank: 2, valueHead: true });
  policy.fork();
  const head = await se.EditHead.create(policy, { space: 'lowRank', size: 2 });
`;

describe('the end of the program', () => {
  it('with a model, forks, deltas, a policy and an edit head open', async () => {
    expect(await child(`${open} console.log('end');`)).toEqual(wellEnded('end'));
  });

  it('waits for work whose promise nobody keeps', async () => {
    const source = `${open}
      se.adapt([{ fork, documents: [tokens(20)] }], { epochs: 20, onProgress: ({ done, total }) => {
        if (done === total) console.log('all of it');
      } });`;
    expect(await child(source)).toEqual(wellEnded('all of it'));
  });

  it('does not wait when nothing is going on', async () => {
    expect(await child(`${open} await policy.values([tokens(5)]); console.log('end');`)).toEqual(
      wellEnded('end'),
    );
  });
});

describe('process.exit', () => {
  // Without care the compute thread works on while libtorch's static objects are destroyed: one process in two crashed.
  it.each([1, 1, 2, 3, 4, 7, 12, 20])('in the middle of a job, at report %i', async (report) => {
    const source = `${open}
      let reports = 0;
      endless(fork, { onProgress: () => { if (++reports === ${report}) process.exit(7); } });`;
    expect(await child(source)).toEqual(wellEnded('', 7));
  });

  it.each([0, 1, 5, 20, 50])('some %i turns of the event loop after the start', async (turns) => {
    const source = `${open}
      endless(fork); se.score([{ fork, tokens: tokens(9) }]); policy.values([tokens(9)]);
      head.step({ readings: [{ features: new Float32Array(config.hiddenSize) }] });
      for (let i = 0; i < ${turns}; i++) await new Promise((turn) => setTimeout(turn, 1));
      process.exit(7);`;
    expect(await child(source)).toEqual(wellEnded('', 7));
  });

  it('with two threads at work', async () => {
    const source = `se.setThreads(2); ${open}
      let reports = 0;
      endless(fork, { onProgress: () => { if (++reports === 3) process.exit(7); } });`;
    expect(await child(source)).toEqual(wellEnded('', 7));
  });

  it('while a model loads', async () => {
    const source = `
      se.Model.random({ ...config, vocabSize: 400_000, hiddenSize: 64 });
      await new Promise((turn) => setTimeout(turn, 20));
      process.exit(7);`;
    expect(await child(source)).toEqual(wellEnded('', 7));
  });

  it('right after the close of everything', async () => {
    const source = `${open}
      await Promise.all([policy.close(), delta.close(), fork.close(), model.close()]);
      process.exit(7);`;
    expect(await child(source)).toEqual(wellEnded('', 7));
  });

  it("with listeners of 'exit' that use what is open, and start more", async () => {
    const source = `${open}
      process.on('exit', () => {
        console.log(fork.depth, fork.memory().own > 0, policy.parameters().length > 0);
        fork.fork().apply(delta);
        se.score([{ fork, tokens: tokens(9) }]).catch(() => {});
        const { handle } = fork;
        try { handle.weight(0); } catch (error) { console.log(error.code, error.message); }
      });
      endless(fork, { onProgress: () => process.exit(7) });`;
    const ended = await child(source);
    expect(ended).toEqual(wellEnded('1 true true\nCLOSED the process is exiting; no more work is taken', 7));
  });
});

describe('errors that nobody handles', () => {
  it('an exception while a job runs', async () => {
    for (let times = 0; times < 4; times++) {
      const source = `${open}
        let reports = 0;
        endless(fork, { onProgress: () => { if (++reports === 2) setImmediate(() => { throw new Error('my own'); }); } });`;
      const ended = await child(source);
      expect(ended).toMatchObject({ status: 1, signal: null, stdout: '' });
      expect(ended.stderr).toContain('Error: my own');
      expect(ended.stderr).not.toMatch(/terminate called|Segmentation|FATAL|Aborted/);
    }
  });

  it('a call that fails while another one runs', async () => {
    const source = `${open}
      endless(fork);
      async function whoAsked() { await se.score([{ fork, tokens: [9999] }], { maxBatchTokens: 0.5 }); }
      whoAsked();`;
    const ended = await child(source);
    expect(ended).toMatchObject({ status: 1, signal: null, stdout: '' });
    expect(ended.stderr).toMatch(/InputError: "maxBatchTokens" must be an integer/);
    expect(ended.stderr).toContain('whoAsked');
  });
});

describe('signals', () => {
  it.each(['SIGINT', 'SIGTERM'] as const)('%s ends a process at work as it ends any other', async (kill) => {
    const source = `${open}
      endless(fork, { onProgress: () => console.log('going') });`;
    expect(await child(source, { kill })).toMatchObject({ status: null, signal: kill, stderr: '' });
  });

  it('a listener of SIGINT can stop the work and end in order', async () => {
    const source = `${open}
      const controller = new AbortController();
      process.once('SIGINT', () => controller.abort());
      let said = false;
      const onProgress = () => { if (!said) console.log('going'); said = true; };
      await endless(fork, { signal: controller.signal, onProgress }).catch((error) => console.log(error.name));
      console.log((await se.score([{ fork, tokens: tokens(9) }]))[0].length);
      process.exitCode = 130;`;
    expect(await child(source, { kill: 'SIGINT' })).toEqual(wellEnded('going\nAbortedError\n9', 130));
  });
});
