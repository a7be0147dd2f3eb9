/** What the garbage collector takes while work runs, and what must not stay. */
import { describe, expect, it } from 'vitest';
import { fixture } from '../support/fixtures.js';
import { child, wellEnded } from './child.js';

const flags = ['--expose-gc'];
const path = JSON.stringify(fixture('models', 'llama-tied'));

describe('collected while working', () => {
  it('model, forks, deltas and promises that nobody holds any more', async () => {
    const source = `
      const collect = async () => { for (let i = 0; i < 3; i++) { gc(); await new Promise(setImmediate); } };
      const run = async (between) => {
        const work = [];
        {
          const model = await se.Model.random(config, { seed: 1 });
          const fork = model.fork();
          const [{ delta }] = await se.adapt([{ fork, documents: [tokens(20)] }], { epochs: 3, rank: 2 });
          fork.apply(delta);
          work.push(se.adapt([{ fork, documents: [tokens(60)] }], { epochs: 40, rank: 2, onProgress: () => between?.() })
            .then(([{ loss }]) => bits(loss)));
          work.push(scored(fork), fork.weight(0).then(bits), model.fingerprint());
          scored(fork);
        }
        await between?.();
        return (await Promise.all(work)).join();
      };
      const expected = await run();
      console.log(expected.length > 500, (await run(collect)) === expected);
      await collect();`;
    expect(await child(source, { flags })).toEqual(wellEnded('true true'));
  });

  it('a policy in the middle of a step', async () => {
    const source = `
      const model = await se.Model.random(config, { seed: 1 });
      const row = { tokens: tokens(60), promptLength: 1, oldLogprobs: new Float32Array(60), advantages: new Float32Array(60).fill(1) };
      const steps = [];
      for (let i = 0; i < 20; i++) {
        steps.push(se.Policy.create(model, { rank: 2 }).step({ rows: [row] }));
        gc();
      }
      console.log(new Set((await Promise.all(steps)).map(({ loss }) => loss)).size);`;
    expect(await child(source, { flags })).toEqual(wellEnded('1'));
  });
});

describe('memory stays bounded over', () => {
  /** Runs a body 50 times, then 200 times more, and prints by how many MB the process has grown in between. */
  const grown = (body: string, rest = '') => `
    ${rest}
    const once = async () => { ${body} };
    for (let i = 0; i < 50; i++) await once();
    const before = process.memoryUsage.rss();
    for (let i = 0; i < 200; i++) await once();
    const grown = (process.memoryUsage.rss() - before) / 1e6;
    console.log(grown < 150 ? 'bounded' : grown);`;
  // About 4 MB of weights each: 800 MB over 200 rounds if any stayed.
  const large = '{ ...config, vocabSize: 10_000 }';

  it('models that are used and closed', async () => {
    const body = `
      const model = await se.Model.random(${large}, { seed: 1 });
      await scored(model);
      const [{ delta }] = await se.adapt([{ fork: model, documents: [tokens(10)] }], { epochs: 1, rank: 2 });
      await model.fork().apply(delta).close();
      await delta.close();
      await model.close();`;
    expect(await child(grown(body))).toEqual(wellEnded('bounded'));
  });

  it('models of a file that are loaded and closed', async () => {
    const body = `const model = await se.Model.load(${path}); await scored(model); await model.close();`;
    expect(await child(grown(body))).toEqual(wellEnded('bounded'));
  });

  it('models that are only dropped: the collector knows their bytes', async () => {
    const body = `await scored(await se.Model.random(${large}, { seed: 1 }));`;
    expect(await child(grown(body))).toEqual(wellEnded('bounded'));
  });

  it('deltas and forks that are dropped', async () => {
    const body = `
      const edits = [1, 2, 3].map((seed) => ({ fork: model, documents: [tokens(10, seed)] }));
      const made = await se.adapt(edits, { epochs: 1, rank: 32, targets: ['all'] });
      for (const { delta } of made) await scored(model.fork().apply(delta));`;
    const rest = `const model = await se.Model.random({ ...config, hiddenSize: 256, intermediateSize: 512 });`;
    expect(await child(grown(body, rest))).toEqual(wellEnded('bounded'));
  });

  it('calls that fail or are stopped', async () => {
    const body = `
      await se.Model.random(${large}, { std: -1 }).catch(() => {});
      await se.score([{ fork: model, tokens: [99_999] }]).catch(() => {});
      const controller = new AbortController();
      const work = endless(model, { signal: controller.signal, rank: 256, targets: ['all'] });
      setImmediate(() => controller.abort());
      await work.catch(() => {});`;
    const rest = `const model = await se.Model.random(config);`;
    expect(await child(grown(body, rest))).toEqual(wellEnded('bounded'));
  });
});
