/** Ranks as processes of their own: what all know afterwards, and how each learns that another is gone. */
import { createServer } from 'node:net';
import { beforeEach, describe, expect, it } from 'vitest';
import { native } from '../../lib/binding.js';
import { child, type Ended } from './child.js';

const join = `
  import { spawn } from 'node:child_process';
  const leave = (signal) => {
    // One that is stopped would stay.
    if (signal === 'SIGSTOP') spawn('sh', ['-c', 'sleep 15; kill -9 ' + process.pid], { detached: true, stdio: 'ignore' }).unref();
    process.kill(process.pid, signal);
  };
  const ranks = await se.Ranks.join(se.ranksFromEnvironment(process.env), { timeout: 6 });
  const failed = async (work) => {
    const began = performance.now();
    const error = await work.then(() => ({ code: 'none' }), (error) => error);
    if (performance.now() - began > 20_000) throw new Error('it took longer than three times the limit');
    return error;
  };
`;

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await new Promise((listening) => server.once('listening', listening));
  const { port } = server.address() as { port: number };
  await new Promise((closed) => server.close(closed));
  return port;
}

/** Runs the program on every rank at once. */
async function group(world: number, source: string, env: NodeJS.ProcessEnv = {}): Promise<Ended[]> {
  const port = await freePort();
  return Promise.all(
    [...Array(world).keys()].map((rank) =>
      child(join + source, {
        env: {
          ...process.env,
          RANK: String(rank),
          WORLD_SIZE: String(world),
          MASTER_ADDR: '127.0.0.1',
          MASTER_PORT: String(port),
          ...env,
        },
      }),
    ),
  );
}

const { whyNoGloo } = native().info();
beforeEach(({ skip }) => {
  if (whyNoGloo) skip(whyNoGloo);
});

const told = (ended: Ended) => ended.stdout.split('\n').at(-1)!;

describe('what ranks exchange', () => {
  it('is the same on all of them', async () => {
    const ended = await group(
      3,
      `
      const all = await ranks.gather('one', { rank: ranks.rank, text: 'x'.repeat(7 * ranks.rank), values: Float32Array.of(ranks.rank, -0, NaN) });
      const word = await ranks.broadcast('two', ranks.lead ? { from: 'zero', big: 5n } : undefined);
      const late = await ranks.broadcast('three', ranks.rank === 2 ? [undefined, -Infinity] : undefined, 2);
      const { gathered, collectives } = ranks.takeTraffic();
      const again = ranks.takeTraffic();
      await ranks.close();
      console.log(JSON.stringify([all.map(({ rank, text, values }) => [rank, text.length, bits(values)]), word.from, String(word.big),
        String(late), collectives, gathered > 0, again.gathered]));`,
    );
    const bits = (rank: number) =>
      Buffer.from(Float32Array.of(rank, -0, Number.NaN).buffer).toString('base64');
    const all = [0, 1, 2].map((rank) => [rank, 7 * rank, bits(rank)]);
    for (const one of ended) {
      expect(one).toMatchObject({ status: 0, stderr: '' });
      expect(JSON.parse(told(one))).toEqual([all, 'zero', '5', ',-Infinity', 4, true, 0]);
    }
  });

  it('nothing of an earlier start of the group is read', async () => {
    // Rank 0 of the second start serves the same store.
    const ended = await group(
      2,
      `
      const { place } = ranks;
      await ranks.arrive('first life');
      const next = await se.Ranks.join({ ...place, hostsStore: false, restart: 1 }, { timeout: 6 });
      const all = await next.gather('second life', next.rank);
      await next.close();
      await ranks.close();
      console.log(all.join());`,
    );
    expect(ended.map(({ stdout, status }) => [stdout, status])).toEqual([
      ['0,1', 0],
      ['0,1', 0],
    ]);
  });

  it('a store that torchrun’s agent serves has only clients', async () => {
    const port = await freePort();
    const env = { MASTER_PORT: String(port), TORCHELASTIC_USE_AGENT_STORE: 'True' };
    const [ended] = await Promise.all([
      child(
        `
        const error = await se.Ranks.join(se.ranksFromEnvironment(process.env), { timeout: 1 }).catch((error) => error);
        console.log(error.code, error.message);`,
        { env: { ...process.env, RANK: '0', WORLD_SIZE: '2', MASTER_ADDR: '127.0.0.1', ...env } },
      ),
    ]);
    expect(ended!.stdout).toContain(
      `RANK_LOST rank 0 of 2: the store at 127.0.0.1:${port} cannot be reached`,
    );
  });
});

describe('a rank that is gone', () => {
  const arriving = `const error = await failed(ranks.arrive('rewards of round 3'));
    console.log(error.code, error.message); await ranks.close();`;

  it.each(['SIGKILL', 'SIGSTOP'] as const)(
    'by %s is named, with the phase',
    async (signal) => {
      const ended = await group(
        3,
        `await ranks.arrive('edits of round 3');
       if (ranks.rank === 1) leave('${signal}');
       ${arriving}`,
      );
      for (const rank of [0, 2]) {
        expect(told(ended[rank]!)).toBe(
          'RANK_LOST rank 1 of 3 did not arrive at "rewards of round 3" within 3.0 s of the last sign of life; ' +
            'last seen at "edits of round 3"',
        );
        expect(ended[rank]).toMatchObject({ status: 0, stderr: '' });
      }
    },
    90_000,
  );

  it.each(['SIGKILL', 'SIGSTOP'] as const)(
    'by %s, and the store with it',
    async (signal) => {
      const ended = await group(
        2,
        `const steps = async () => {
         await ranks.arrive('one');
         if (ranks.lead) leave('${signal}');
         await ranks.arrive('two');
       };
       const error = await failed(steps());
       console.log(error.code, error.message);
       await ranks.close();`,
      );
      expect(told(ended[1]!)).toMatch(/^RANK_LOST .*the store at 127\.0\.0\.1:\d+/);
      expect(ended[1]!.status).toBe(0);
    },
    90_000,
  );

  it('before it has joined', async () => {
    const ended = await group(2, '', { WORLD_SIZE: '3' });
    for (const { stderr, status } of ended) {
      expect(stderr).toContain(
        'rank 2 of 3 did not arrive at "join" within 6.0 s of the last sign of life; nothing was heard at all',
      );
      expect(status).toBe(1);
    }
  }, 90_000);

  it('is waited for as long as it lives, however long it works', async () => {
    const ended = await group(
      2,
      `if (ranks.lead) await new Promise((done) => setTimeout(done, 8000));
       await ranks.arrive('late'); await ranks.close(); console.log('met');`,
    );
    expect(ended.map(told)).toEqual(['met', 'met']);
  }, 90_000);
});

describe('a rank that fails', () => {
  it('ends all ranks with its error, those that wait and those that work', async () => {
    const ended = await group(
      3,
      `await ranks.arrive('one');
       if (ranks.lead) {
         const { message } = await ranks.fail(new se.WorkError('IO', 'no space left'));
         console.log(message); await ranks.close();
       } else if (ranks.rank === 1) {
         const error = await failed(ranks.arrive('two')); console.log(error.code, error.message); await ranks.close();
       } else {
         const model = await se.Model.random(config, { seed: 1 });
         const error = await failed(endless(model.fork(), { signal: ranks.signal }));
         console.log(error.code, ranks.failure.code, ranks.failure.message); await ranks.close();
       }`,
    );
    expect(ended.map(told)).toEqual([
      'rank 0 of 3: no space left',
      'IO rank 0 of 3: no space left',
      'ABORTED IO rank 0 of 3: no space left',
    ]);
  });

  it('ranks that take other steps are told apart', async () => {
    const ended = await group(
      2,
      `const error = await failed(ranks.arrive(ranks.lead ? 'left' : 'right')); console.log(error.code, error.message);
       await ranks.close();`,
    );
    expect(
      ended
        .map(told)
        .filter((line) => /^RANKS_DIVERGED rank \d of 2 is at ".*", another rank at ".*"/.test(line)),
    ).toHaveLength(1);
  });

  it('an abort of one is the end of all', async () => {
    const ended = await group(
      2,
      `const controller = new AbortController();
       const again = await se.Ranks.join({ ...ranks.place, hostsStore: false, restart: 7 }, { timeout: 6, signal: controller.signal });
       if (again.lead) setTimeout(() => controller.abort(), 50);
       const endlessly = async () => { for (let i = 0; ; i++) await again.arrive('step ' + i); };
       const error = await failed(endlessly());
       console.log(error.code, error.message);
       await again.close(); await ranks.close();`,
    );
    expect(ended.map(told)).toEqual(['ABORTED rank 0 of 2: interrupted', 'ABORTED rank 0 of 2: interrupted']);
  });
});
