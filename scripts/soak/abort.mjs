// Calls of every kind are aborted at random times: each ends with its step, nothing stays, the next call gives the same bits.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  bits,
  draws,
  expectSame,
  liveTensors,
  native,
  ROOT,
  rowOf,
  scoreBits,
  se,
  tinyModel,
  tokensOf,
} from './common.mjs';

const GGUF = join(ROOT, 'test', 'fixtures', 'models', 'gguf', 'llama-bf16.gguf');

export async function abort({ times, seed, folder = mkdtempSync(join(tmpdir(), 'selfedit-soak-')) }) {
  const draw = draws(seed);
  const model = await tinyModel();
  const fork = model.fork();
  const policy = se.Policy.create(model, { rank: 2, seed: 1 });
  const kinds = kindsOf({ model, fork, policy, folder, gguf: GGUF });
  const names = Object.keys(kinds);
  for (const kind of names) await kinds[kind]({ small: true }); // packs weights, makes first-time buffers
  const expected = {
    score: await scoreBits(fork),
    policy: bits(policy.parameters()),
    version: policy.version,
  };
  const before = { tensors: await liveTensors(model), resources: process.getActiveResourcesInfo().length };
  const counts = { times, aborted: 0, finished: 0, mostReportsAfter: 0, byKind: {} };
  for (let time = 0; time < times; time++) {
    const kind = names[time % names.length];
    const controller = new AbortController();
    let after = 0;
    const call = { signal: controller.signal, onProgress: () => controller.signal.aborted && after++ };
    const work = kinds[kind](call).then(
      () => 'finished',
      (error) => error,
    );
    await pause(draw);
    controller.abort();
    controller.abort();
    const end = await work;
    if (end === 'finished') counts.finished++;
    else {
      expectSame(`${kind}: the error`, `${end.name} ${end.code}`, 'AbortedError ABORTED');
      counts.aborted++;
      counts.byKind[kind] = (counts.byKind[kind] ?? 0) + 1;
    }
    // A report that was waiting, and that of the step under way: work that goes on would give more.
    if (after > 2) throw new Error(`${kind}: ${after} reports after the abort, expected at most 2`);
    counts.mostReportsAfter = Math.max(counts.mostReportsAfter, after);
    expectSame(`${kind}: bits of the next call`, await scoreBits(fork), expected.score);
    if (kind !== 'update') {
      expectSame(`${kind}: the policy`, bits(policy.parameters()), expected.policy);
    } else if (end !== 'finished') {
      expectSame('update: the policy', bits(policy.parameters()), expected.policy);
      expectSame('update: steps', policy.version, expected.version);
    } else {
      Object.assign(expected, { policy: bits(policy.parameters()), version: policy.version });
    }
  }
  expectSame('live tensors', await liveTensors(model), before.tensors);
  expectSame('active resources', process.getActiveResourcesInfo().length, before.resources);
  for (const thing of [policy, fork, model]) await thing.close();
  const left = await liveTensors();
  rmSync(folder, { recursive: true, force: true });
  return { ...counts, liveTensors: before.tensors, afterClose: left - native.tensorMemory().tensors };
}

/** Between nothing and some turns of the event loop, or up to 30 ms. */
async function pause(draw) {
  const kind = draw();
  if (kind < 0.1) return;
  if (kind < 0.5)
    for (let turns = Math.floor(draw() * 20); turns > 0; turns--) await new Promise(setImmediate);
  else await new Promise((turn) => setTimeout(turn, draw() * 30));
}

/** Each takes far longer than a pause, but with `small`. */
function kindsOf({ model, fork, policy, folder, gguf }) {
  const many = (small, count) => Array.from({ length: small ? 2 : count });
  const row = tokensOf(60);
  const adapted = (small, more) =>
    se.adapt(
      many(small, 3).map(() => ({ fork, documents: [row, tokensOf(40, 2)] })),
      { epochs: small ? 1 : 100_000, rank: 2, ...more },
    );
  const closing = async (made) => {
    for (const { delta } of await made) await delta.close();
  };
  return {
    adapt: ({ small, ...call }) => closing(adapted(small, call)),
    generate: ({ small, ...call }) =>
      se.generate(
        many(small, 2000).map(() => ({ fork, prompt: row })),
        { maxTokens: 40, maxRows: 4, temperature: 1, ...call },
      ),
    score: ({ small, ...call }) =>
      se.score(
        many(small, 3000).map(() => ({ fork, tokens: row })),
        { maxBatchTokens: 60, ...call },
      ),
    divergence: ({ small, ...call }) =>
      se.divergence(
        many(small, 2000).map(() => ({ fork, reference: model, tokens: row })),
        { maxBatchTokens: 60, ...call },
      ),
    update: ({ small, signal }) =>
      policy.step({ rows: many(small, 1500).map(() => rowOf()), maxBatchTokens: 60, signal }),
    load: async ({ small, ...call }) => {
      for (let i = 0; i < (small ? 1 : 1000); i++) await (await se.Model.load(gguf, call)).close();
    },
    // Saving is one step and takes no signal: whenever the others are aborted, the files are whole.
    save: async ({ small, signal }) => {
      const [{ delta }] = await se.adapt([{ fork, documents: [row] }], {
        epochs: small ? 1 : 20,
        rank: 2,
        signal,
      });
      try {
        await policy.save(join(folder, 'policy.safetensors'));
        await policy.load(join(folder, 'policy.safetensors'));
        await delta.save(join(folder, 'delta'));
        await (await se.Delta.load(model, join(folder, 'delta'))).close();
      } finally {
        await delta.close();
      }
    },
    evaluate: async ({ small, ...call }) => {
      const prompts = many(small, 1000).map(() => ({ fork, prompt: tokensOf(9) }));
      const answers = await se.generate(prompts, { maxTokens: 20, maxRows: 8, temperature: 0, ...call });
      await se.score(
        answers.map(({ tokens }) => ({ fork, tokens })),
        call,
      );
    },
  };
}
