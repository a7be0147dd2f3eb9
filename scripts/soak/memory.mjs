// Allocations of tensors fail, at a random place of every kind of work: a typed error, the state as it was, and the next
// call gives the same bits. Half of the failures are std::bad_alloc, half libtorch's own error.
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

export async function memory({ times, seed }) {
  const folder = mkdtempSync(join(tmpdir(), 'selfedit-soak-'));
  const draw = draws(seed);
  const model = await tinyModel();
  const policy = se.Policy.create(model, { rank: 2, seed: 1, valueHead: true });
  const [{ delta }] = await se.adapt([{ fork: model, documents: [tokensOf(30)] }], { epochs: 1, rank: 2 });
  const fork = model.fork().apply(delta);
  const kinds = kindsOf({ model, fork, policy, delta, folder });
  const names = Object.keys(kinds);
  const allocations = {};
  const expected = {};
  for (const kind of names) {
    await kinds[kind]();
    const before = native.tensorMemory().allocations;
    expected[kind] = await kinds[kind]();
    allocations[kind] = native.tensorMemory().allocations - before;
  }
  const state = async () => `${bits(policy.parameters())} ${policy.version} ${await scoreBits(fork)}`;
  const atStart = await state();
  const tensors = await liveTensors(model);
  const counts = { injections: 0, typed: 0, goneOnWithLess: 0, allocations, byKind: {} };
  const warnings = [];
  const listen = (warning) => warnings.push(warning);
  process.on('warning', listen);
  const worth = names.filter((kind) => allocations[kind] > 0);
  for (let n = 0; n < times; n++) {
    const kind = worth[n % worth.length];
    const how = Math.floor(n / worth.length) % 2 ? 'bad_alloc' : 'libtorch';
    const once = kind !== 'load' && n % 5 === 4;
    native.failAllocations(Math.floor(draw() * allocations[kind]), once ? 1 : 1_000_000_000, how);
    const end = await kinds[kind]().then(
      (found) => ({ found }),
      (error) => ({ error }),
    );
    native.failAllocations(0, 0, how);
    counts.injections++;
    counts.byKind[kind] = (counts.byKind[kind] ?? 0) + 1;
    // One failure may be got over by working on less at once; then the result is the same.
    if (end.error === undefined && once) {
      expectSame(`${kind}: with less at once`, end.found, expected[kind]);
      counts.goneOnWithLess++;
    } else {
      const { error } = end;
      expectSame(`${kind} (${how}): the error`, `${error?.name} ${error?.code}`, 'WorkError OUT_OF_MEMORY');
      counts.typed++;
    }
    expectSame(`${kind} (${how}): the state`, await state(), atStart);
    expectSame(`${kind} (${how}): the next call`, await kinds[kind](), expected[kind]);
  }
  process.off('warning', listen);
  expectSame('live tensors', await liveTensors(model), tensors);
  for (const thing of [policy, fork, delta, model]) await thing.close();
  rmSync(folder, { recursive: true });
  return { ...counts, liveTensors: tensors };
}

/** Each leaves everything as it was, and gives what it computed as text. */
function kindsOf({ model, fork, policy, delta, folder }) {
  const row = tokensOf(60);
  const path = join(folder, 'policy.safetensors');
  return {
    load: async () => {
      const loaded = await se.Model.load(GGUF);
      try {
        return bits((await se.score([{ fork: loaded, tokens: [1, 2, 3, 4, 5] }]))[0]);
      } finally {
        await loaded.close();
      }
    },
    adapt: async () => {
      const edits = [1, 2, 3].map((s) => ({ fork, documents: [tokensOf(50, s), tokensOf(20, s)] }));
      const made = await se.adapt(edits, { epochs: 2, rank: 3 });
      for (const one of made) await one.delta.close();
      return made.map(({ loss }) => bits(loss)).join();
    },
    'adapt (sparse)': async () => {
      const made = await se.adapt([{ fork, documents: [row] }], { epochs: 2, kind: 'sparse', density: 0.05 });
      await made[0].delta.close();
      return bits(made[0].loss);
    },
    'materialise a fork': async () => {
      const copy = model.fork().apply(delta);
      try {
        await copy.materialise();
        return await scoreBits(copy);
      } finally {
        await copy.close();
      }
    },
    generate: async () => {
      const prompts = [1, 2, 3].map((s) => ({ fork, prompt: tokensOf(20, s), samples: 2 }));
      const rows = await se.generate(prompts, { maxTokens: 12, temperature: 1, seed: 3, stopTokens: [] });
      return rows.map(({ tokens, logprobs }) => bits(tokens) + bits(logprobs)).join();
    },
    score: async () => {
      const rows = await se.score([1, 2, 3].map((s) => ({ fork, tokens: tokensOf(50, s) })));
      return rows.map(bits).join();
    },
    divergence: async () => bits((await se.divergence([{ fork, reference: model, tokens: row }]))[0]),
    // The step itself, taken back by what was saved before.
    'policy step': async () => {
      await policy.save(path);
      const rows = [rowOf({ returns: new Float32Array(60).fill(1), oldValues: new Float32Array(60) })];
      await policy.step({ rows, learningRate: 1e-2 });
      const moved = bits(policy.parameters());
      native.failAllocations(0, 0, 'bad_alloc');
      await policy.load(path);
      return moved;
    },
    'save and load': async () => {
      await policy.save(path);
      await policy.load(path);
      await delta.save(join(folder, 'delta'));
      const read = await se.Delta.load(model, join(folder, 'delta'));
      const values = read.part(0).a;
      await read.close();
      return bits(values);
    },
  };
}
