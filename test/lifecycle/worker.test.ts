/** Worker threads: environments that come and go while others work. */
import { describe, expect, it } from 'vitest';
import { fixture } from '../support/fixtures.js';
import { child, wellEnded } from './child.js';

const path = JSON.stringify(fixture('models', 'llama-tied'));

describe('a worker', () => {
  it('loads, scores and ends; its numbers are those of the main thread', async () => {
    const source = `
      const { message, exited } = await start(\`
        const model = await se.Model.load(${path.replaceAll('"', "'")});
        post(await scored(model));
      \`);
      const code = await exited;
      const model = await se.Model.load(${path});
      console.log(code, message === (await scored(model)));`;
    expect(await child(source)).toEqual(wellEnded('0 true'));
  });

  it('is terminated in the middle of a job; the others go on', async () => {
    const source = `
      const model = await se.Model.random(config, { seed: 1 });
      const before = await scored(model);
      for (let i = 0; i < 5; i++) {
        const { worker } = await start(\`
          const model = await se.Model.random(config, { seed: 1 });
          let reports = 0;
          endless(model, { onProgress: () => { if (++reports === \${i + 1}) post('going'); } });
        \`);
        await worker.terminate();
        console.log((await scored(model)) === before);
      }`;
    expect(await child(source)).toEqual(wellEnded('true\ntrue\ntrue\ntrue\ntrue'));
  });

  it('is terminated in the middle of a progress callback', async () => {
    const source = `
      for (let i = 0; i < 3; i++) {
        const { worker } = await start(\`
          const model = await se.Model.random(config, { seed: 1 });
          endless(model, { onProgress: () => { post('going'); for (;;); } });
        \`);
        await worker.terminate();
      }
      console.log('end');`;
    expect(await child(source)).toEqual(wellEnded('end'));
  });

  it('is terminated when its results are ready but not yet taken', async () => {
    const source = `
      for (let i = 0; i < 10; i++) {
        const { worker } = await start(\`
          const model = await se.Model.random(config, { seed: 1 });
          for (let i = 0; i < 50; i++) {
            se.score([{ fork: model, tokens: tokens(5) }], { onProgress() {} }).then(() => model.fork());
          }
          post('going');
        \`);
        await new Promise((turn) => setTimeout(turn, i));
        await worker.terminate();
      }
      console.log('end');`;
    expect(await child(source)).toEqual(wellEnded('end'));
  });

  it('is terminated with work in the queue, without waiting for the work of others', async () => {
    const source = `
      const model = await se.Model.random(config, { seed: 1 });
      const controller = new AbortController();
      const work = endless(model, { signal: controller.signal }).catch((error) => error.name);
      const { worker } = await start(\`
        se.Model.random(config).then(() => post('never'));
        post('queued');
      \`);
      await worker.terminate();
      console.log('terminated');
      controller.abort();
      console.log(await work);`;
    expect(await child(source)).toEqual(wellEnded('terminated\nAbortedError'));
  });

  it('calls process.exit, or throws, while it works', async () => {
    const source = `
      for (const end of ['process.exit(5)', 'setImmediate(() => { throw new Error("of the worker"); })']) {
        const { exited } = await start(\`
          const model = await se.Model.random(config, { seed: 1 });
          let reports = 0;
          endless(model, { onProgress: () => { if (++reports === 1) post('going'); if (reports === 4) { \${end}; } } });
        \`, { onError: ({ message }) => console.log(message) });
        console.log(await exited);
      }
      const model = await se.Model.random(config, { seed: 1 });
      console.log((await scored(model)).length > 0);`;
    expect(await child(source)).toEqual(wellEnded('5\nof the worker\n1\ntrue'));
  });
});

describe('several environments', () => {
  it('two workers and the main thread at once, each with its own results', async () => {
    const source = `
      const body = \`
        import { workerData } from 'node:worker_threads';
        const model = await se.Model.random(config, { seed: workerData });
        const all = [];
        for (let i = 0; i < 20; i++) all.push(await scored(model));
        const [{ loss }] = await se.adapt([{ fork: model, documents: [tokens(30)] }], { epochs: 5 });
        post([new Set(all).size, all[0], bits(loss)]);
      \`;
      const work = async (seed) => {
        return (await start(body, { workerData: seed })).message;
      };
      const [one, two] = await Promise.all([work(1), work(2)]);
      const model = await se.Model.random(config, { seed: 1 });
      const [{ loss }] = await se.adapt([{ fork: model, documents: [tokens(30)] }], { epochs: 5 });
      console.log(one[0], two[0], one[1] === (await scored(model)), one[2] === bits(loss), one[1] !== two[1]);`;
    expect(await child(source)).toEqual(wellEnded('1 1 true true true'));
  });

  it('workers only, that start while others end', async () => {
    const source = `
      const lives = async (n) => {
        for (let i = 0; i < 6; i++) {
          const { worker, message, exited } = await start(\`
            const model = await se.Model.random(config, { seed: 1 });
            post(await scored(model));
          \`);
          seen.add(message);
          if ((i + n) % 2) await worker.terminate();
          else await exited;
        }
      };
      const seen = new Set();
      await Promise.all([lives(0), lives(1), lives(2)]);
      console.log(seen.size);`;
    expect(await child(source)).toEqual(wellEnded('1'));
  });

  it('process.exit of the main thread with workers at work', async () => {
    for (let turns = 0; turns < 4; turns++) {
      const source = `
        const load = 'const model = await se.Model.random(config, { seed: 1 });';
        await start(\`\${load} endless(model, { onProgress: () => post('going') });\`);
        // Its job, and that of the main thread, wait behind the endless one.
        await start(\`se.Model.random(config); post('queued');\`);
        se.Model.random(config, { seed: 1 });
        for (let i = 0; i < ${turns}; i++) await new Promise((turn) => setTimeout(turn, 1));
        process.exit(7);`;
      expect(await child(source)).toEqual(wellEnded('', 7));
    }
  });
});
