// Worker threads that load the package, work, and are terminated: in the middle of a job, between two, or at their end.
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { CONFIG, draws, ENTRY, expectSame, liveTensors, scoreBits, tinyModel } from './common.mjs';

const SOURCE = `
  import { parentPort, workerData } from 'node:worker_threads';
  const se = await import(workerData.entry);
  const model = await se.Model.random(workerData.config, { seed: 7, std: 0.15 });
  const tokens = (length) => Int32Array.from({ length }, (_, i) => (i * 37 + 11) % workerData.config.vocabSize);
  const [row] = await se.score([{ fork: model, tokens: tokens(40) }]);
  if (workerData.busy) se.adapt([{ fork: model, documents: [tokens(60)] }], { epochs: 1e7, rank: 2 }).catch(() => {});
  parentPort.postMessage(Buffer.from(row.buffer).toString('base64'));
  if (workerData.stays) setInterval(() => {}, 1000);
`;

export async function workers({ times, seed }) {
  const draw = draws(seed);
  const model = await tinyModel();
  const expected = await scoreBits(model);
  const before = await liveTensors(model);
  const counts = { cycles: times, terminatedAtWork: 0, terminatedIdle: 0, endedByThemselves: 0 };
  for (let n = 0; n < times; n++) {
    const busy = n % 2 === 0;
    const stays = busy || n % 4 === 1;
    const workerData = { entry: ENTRY, config: CONFIG, busy, stays };
    const worker = new Worker(SOURCE, { eval: true, workerData });
    const exited = once(worker, 'exit');
    const [message] = await once(worker, 'message');
    expectSame(`worker ${n}: bits`, message, expected);
    if (stays) {
      if (draw() < 0.5) await new Promise((turn) => setTimeout(turn, draw() * 10));
      await worker.terminate();
      counts[busy ? 'terminatedAtWork' : 'terminatedIdle']++;
    } else {
      const [code] = await exited;
      expectSame(`worker ${n}: its exit code`, code, 0);
      counts.endedByThemselves++;
    }
    expectSame(`after worker ${n}: bits`, await scoreBits(model), expected);
  }
  const after = await liveTensors(model);
  expectSame('live tensors', after, before);
  await model.close();
  return { ...counts, liveTensors: { before, after } };
}
