import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { adapt } from '../../lib/adapt.js';
import { weightGradient } from '../../lib/algorithm/weight-gradient.js';
import { Delta } from '../../lib/delta.js';
import { divergence } from '../../lib/divergence.js';
import { applyEdits } from '../../lib/edit/apply.js';
import { passageOnly } from '../../lib/edit/parse.js';
import type { SpaceChoice, SpaceName } from '../../lib/edit/spaces.js';
import { type Reading, WrittenWeightEdit } from '../../lib/edit/weight.js';
import { EditHead, type EditHeadOptions } from '../../lib/edit-head.js';
import type { Fork } from '../../lib/fork.js';
import { gradient } from '../../lib/gradient.js';
import type { Model } from '../../lib/model.js';
import { Policy } from '../../lib/policy.js';
import { deriveKey } from '../../lib/random.js';
import { answerLoss } from '../../lib/reward/answer-loss.js';
import { rewardForks } from '../../lib/reward/evaluate.js';
import { likelihood } from '../../lib/reward/likelihood.js';
import { renderQuestion } from '../../lib/reward/question.js';
import { score } from '../../lib/score.js';
import type { TaskContext } from '../../lib/task/task.js';
import { bits, failureOf, tinyModel as plainModel } from '../support/tiny.js';
import { tinyModel } from './helpers/tiny-model.js';

const CONTEXTS: TaskContext[] = ['The red fox sleeps by day.', 'A barge carries salt to the mill.'].map(
  (context, index) => ({
    id: String(index),
    title: `Title ${index}`,
    context,
    task: 'Answer later.',
    paying: [
      { id: `${index}a`, question: 'Who?', answers: ['the fox'] },
      { id: `${index}b`, question: 'What is carried?', answers: ['salt'] },
    ],
    report: [],
  }),
);
const TEXTS = ['Nothing of this was read before.', 'Numbers are 1, 2 and 3.'];
const INNER = { rank: 4, alpha: 8, epochs: 2, learningRate: 5e-3 };

let model: Model;
let policy: Policy;
let folder: string;
beforeAll(async () => {
  model = await tinyModel();
  policy = Policy.create(model, { rank: 2 });
  folder = await mkdtemp(join(tmpdir(), 'selfedit-head-'));
});
afterAll(async () => {
  await policy.close();
  await model.close();
  await rm(folder, { recursive: true });
});

const heads: EditHead[] = [];
async function headOf(space: EditHeadOptions['space'], more: EditHeadOptions = {}): Promise<EditHead> {
  const head = await EditHead.create(policy, { space, adapt: INNER, cacheDir: folder, ...more });
  heads.push(head);
  return head;
}
afterAll(async () => {
  for (const head of heads) await head.close();
});

async function klOf(fork: Fork, reference: Fork | Model): Promise<number> {
  const rows = await divergence(
    TEXTS.map((text) => ({ fork, reference, tokens: model.tokenizer.encode(text) })),
  );
  const all = rows.flatMap((row) => [...row]);
  return all.reduce((sum, value) => sum + value, 0) / all.length;
}

const MIXED: SpaceChoice[] = [
  { space: 'spectral', targets: ['q_proj'], size: 4 },
  { space: 'lowRank', targets: ['k_proj'], size: 3 },
  { space: 'sparse', targets: ['v_proj'], size: 6 },
  { space: 'gradient', targets: ['up_proj'], size: 5 },
  { space: 'modulated', targets: ['down_proj'] },
];

describe('the untrained mean edit', () => {
  it.each<SpaceName>(['spectral', 'lowRank', 'sparse'])('of a %s space changes nothing', async (space) => {
    const head = await headOf(space);
    const [edit] = await head.write(CONTEXTS.slice(0, 1), { mean: true });
    await using fork = policy.fork().apply(edit!.edit);
    expect(edit!.edit.vector.every((value) => value === 0)).toBe(true);
    expect(await klOf(fork, model)).toBe(0);
    await edit!.close();
  });

  it('of a gradient space is one step of gradient descent on the passage', async () => {
    const head = await headOf('gradient', { targets: ['layers.1.self_attn.v_proj'], rate: 0.3 });
    const [edit] = await head.write(CONTEXTS.slice(1), { mean: true });
    const matrix = head.blocks[0]!.matrix;
    const { out, in: width } = model.tensors[matrix]!;
    const values = new Float32Array(out * width);
    const zero = Delta.fromParts(model, [{ kind: 'dense', matrix, values }]);
    const documents = passageOnly(CONTEXTS[1]!).documents.map((text) =>
      model.tokenizer.encode(text as string),
    );
    await using fork = policy.fork().apply(zero);
    const { gradients } = await gradient(documents.map((tokens) => ({ fork, tokens })));
    const slope = gradients[0]!.gradient.part(0) as { values: Float32Array };
    await using edited = policy.fork().apply(edit!.edit);
    const before = await model.fork().weight(matrix);
    const after = await edited.weight(matrix);
    const largest = Math.max(...slope.values.map(Math.abs));
    expect(largest).toBeGreaterThan(1e-4);
    for (const [i, value] of after.entries()) {
      const expected = before[i]! - (0.3 * slope.values[i]!) / documents.length;
      expect(Math.abs(value - expected)).toBeLessThan(1e-6 * (1 + Math.abs(expected)));
    }
    await edit!.close();
  });

  it('of a modulated space is what the inner loop gave, to the bit', async () => {
    const head = await headOf('modulated');
    const edits = await head.write(CONTEXTS, { mean: true, seed: 4, round: 2 });
    await using parent = policy.fork();
    const trained = await adapt(
      CONTEXTS.map((context, index) => ({
        fork: parent,
        documents: passageOnly(context).documents as string[],
        seed: deriveKey(4, 'modulated', [2, index]),
      })),
      INNER,
    );
    for (const [index, { edit }] of edits.entries()) {
      const { delta } = trained[index]!;
      expect(edit.delta.parts.length).toBe(delta.parts.length);
      for (const part of delta.parts.keys()) {
        expect(bits(edit.delta.factors(part).a)).toBe(bits(delta.factors(part).a));
        expect(bits(edit.delta.factors(part).b)).toBe(bits(delta.factors(part).b));
      }
    }
    for (const edit of edits) await edit.close();
  });
});

describe('noise', () => {
  it.each<EditHeadOptions['space']>(['spectral', 'lowRank', 'sparse', 'gradient', 'modulated', MIXED])(
    'is calibrated to a stated KL in %j',
    async (space) => {
      const head = await headOf(space, { rate: 0.5 });
      const readings = await head.read(CONTEXTS);
      const before = head.noise;
      const { kl, factor } = await head.calibrate(readings, TEXTS, { kl: 0.02, seed: 3 });
      expect(Math.abs(Math.log(kl / 0.02))).toBeLessThan(Math.log(1.051));
      expect(head.noise[0]! / before[0]!).toBeCloseTo(factor, 4);
      // Other draws than those of the calibration, measured here, against the mean edit of their context.
      const draws = await head.write(readings, { samples: 6, seed: 8 });
      const means = await head.write(readings, { mean: true });
      let total = 0;
      for (const { edit, group } of draws) {
        await using fork = policy.fork().apply(edit);
        await using reference = policy.fork().apply(means[group]!.edit);
        total += (await klOf(fork, reference)) / draws.length;
      }
      expect(total).toBeGreaterThan(0.005);
      expect(total).toBeLessThan(0.08);
      // It is held there: nothing moves when calibrated again.
      expect(await head.calibrate(readings, TEXTS, { kl: 0.02, seed: 3 })).toMatchObject({ evaluations: 1 });
      for (const closing of [...draws, ...means, ...readings]) await closing.close();
    },
  );

  it('stays as it was where no noise changes anything', async () => {
    const head = await headOf('modulated', { adapt: { ...INNER, learningRate: 0 } });
    const readings = await head.read(CONTEXTS.slice(0, 1));
    const before = bits(head.noise);
    const error = await failureOf(head.calibrate(readings, TEXTS));
    expect(error.code).toBe('INPUT_INVALID');
    expect(bits(head.noise)).toBe(before);
  });

  it('makes every edit of a context another one, mirrored in pairs, the same whatever else is written', async () => {
    const head = await headOf('lowRank');
    const readings = await head.read(CONTEXTS);
    const edits = await head.write(readings, { samples: 4, seed: 1, round: 3 });
    expect(edits.map(({ group, sample }) => [group, sample])).toEqual([
      ...[0, 1, 2, 3].map((sample) => [0, sample]),
      ...[0, 1, 2, 3].map((sample) => [1, sample]),
    ]);
    const vectors = edits.map(({ edit }) => bits(edit.vector));
    expect(new Set(vectors).size).toBe(8);
    for (const pair of [0, 2, 4, 6]) {
      const [left, right] = [edits[pair]!.edit.vector, edits[pair + 1]!.edit.vector];
      expect(left.every((value, entry) => value === -right[entry]!)).toBe(true); // the mean is 0
    }
    const fewer = await head.write(readings.slice(0, 1), { samples: 2, seed: 1, round: 3 });
    expect(fewer.map(({ edit }) => bits(edit.vector))).toEqual(vectors.slice(0, 2));
  });
});

describe('the way back', () => {
  it('agrees with finite differences of likelihood and divergence', async () => {
    const head = await headOf(MIXED, { basis: 'learnt', rate: 0.5 });
    head.setNoise(head.noise.map(() => 0.3));
    const readings = await head.read(CONTEXTS);
    await using parent = policy.fork();
    const objective = answerLoss(head, { parent, retention: TEXTS, lambda: 0.5, atOnce: 1 });
    const edits = await head.write(readings, { samples: 1, seed: 2 });
    const { losses, gradients, basis, figures } = await objective(edits);
    expect(basis!.length).toBeGreaterThan(0);

    /** The loss from its definition: questions one by one, divergence by itself. */
    const lossOf = async (reading: (typeof readings)[number], vector: Float32Array) => {
      const [edit] = await head.compose([reading], [vector]);
      await using fork = parent.fork().apply(edit!);
      const { title, paying } = reading.context;
      const asked = await likelihood(
        paying.map(({ question, answers }) => ({
          fork,
          prompt: renderQuestion({ title, question }, model.tokenizer),
          answer: model.tokenizer.encode(answers[0]!, { specialTokens: false }),
        })),
      );
      const kl = await klOf(fork, parent);
      await edit!.delta.close();
      return { loss: 0.5 * kl - (asked[0]! + asked[1]!) / 2, kl };
    };
    let kls = 0;
    for (const [index, { reading, edit }] of edits.entries()) {
      const here = await lossOf(reading, edit.vector);
      kls += here.kl / edits.length;
      expect(losses[index]!).toBeCloseTo(here.loss, 5);
      // One entry of every block, in single precision: the exact check is the core's.
      let offset = 0;
      for (const { size } of head.blocks) {
        const entry = offset + (index % size);
        const moved = (by: number) => edit.vector.map((value, i) => (i === entry ? value + by : value));
        const [up, down] = [await lossOf(reading, moved(0.02)), await lossOf(reading, moved(-0.02))];
        const slope = (up.loss - down.loss) / 0.04;
        expect(Math.abs(gradients[index]![entry]! - slope)).toBeLessThan(2e-4 + 0.02 * Math.abs(slope));
        offset += size;
      }
    }
    expect(figures!.kl).toBeCloseTo(kls, 5);
  });

  /** Edits of given vectors, as `write` gives them. */
  const writtenOf = async (head: EditHead, rows: [Reading<TaskContext>, Float32Array][]) => {
    const readings = rows.map(([reading]) => reading);
    const edits = await head.compose(
      readings,
      rows.map(([, vector]) => vector),
    );
    const mean = new Float32Array(head.size);
    return edits.map((edit, sample) => {
      const parts = { group: 0, sample, edit, mean, noise: head.noise };
      return new WrittenWeightEdit(readings[sample]!, parts, false);
    });
  };

  it.each([1, 2, 8])('leaves out edits that overflow, and only them (%i at once)', async (atOnce) => {
    const head = await headOf('lowRank', { basis: 'learnt' });
    const readings = await head.read(CONTEXTS);
    await using parent = policy.fork();
    const objective = answerLoss(head, { parent, retention: TEXTS, lambda: 0.5, atOnce });
    const small = (phase: number) => new Float32Array(head.size).map((_, i) => 0.1 * Math.sin(i + phase));
    const large = small(0).map((value) => 1e30 * value);
    const healthy = await writtenOf(head, [
      [readings[0]!, small(1)],
      [readings[1]!, small(2)],
    ]);
    const broken = await writtenOf(head, [
      [readings[0]!, large],
      [readings[1]!, large],
    ]);
    const alone = await objective(healthy);
    const mixed = await objective([healthy[0]!, broken[0]!, broken[1]!, healthy[1]!]);
    expect(mixed.losses.map(Number.isFinite)).toEqual([true, false, false, true]);
    expect(mixed.gradients.map((gradient) => gradient && bits(gradient))).toEqual([
      bits(alone.gradients[0]!),
      undefined,
      undefined,
      bits(alone.gradients[1]!),
    ]);
    expect(mixed.figures).toEqual(alone.figures);
    for (const [index, value] of mixed.basis!.entries()) {
      expect(Math.abs(value - alone.basis![index]!)).toBeLessThan(1e-6);
    }

    // The update is that of the healthy edits.
    const [first, second] = [head, await headOf('lowRank', { basis: 'learnt' })];
    const without = await weightGradient().update(second, healthy, [], { objective });
    const among = await weightGradient().update(first, [...healthy, ...broken], [], { objective });
    expect([without.overflowed, among.overflowed]).toEqual([0, 2]);
    expect([without.steps, among.steps, among.stepsSkipped]).toEqual([1, 1, 0]);
    expect(among.loss).toBe(without.loss);
    const moved = second.parameters();
    expect(moved.some((value) => value !== 0)).toBe(true);
    for (const [index, value] of first.parameters().entries()) {
      expect(Math.abs(value - moved[index]!)).toBeLessThan(1e-6);
    }

    // Where all overflow, parameters and moments stay as they are.
    const [before, after] = [join(folder, 'before.safetensors'), join(folder, 'after.safetensors')];
    await head.save(before);
    const none = await weightGradient().update(head, broken, [], { objective });
    expect(none).toMatchObject({ steps: 0, stepsSkipped: 1, overflowed: 2, loss: Number.NaN });
    await head.save(after);
    expect(await readFile(after)).toEqual(await readFile(before));
  });

  it('says so when the gradient overflows on its way into the vector', async () => {
    const head = await headOf('modulated', { targets: ['layers.0.self_attn.v_proj'] });
    const matrix = head.blocks[0]!.matrix;
    const { out, in: width } = model.tensors[matrix]!;
    const dense = (value: number) =>
      Delta.fromParts(model, [{ kind: 'dense', matrix, values: new Float32Array(out * width).fill(value) }]);
    const reading = { material: dense(1e20) };
    const edit = { vector: Float32Array.of(0) };
    const { vectors } = await head.pullBack([{ reading, edit }], [dense(1e10)]);
    expect(vectors[0]![0]).toBeGreaterThan(1e30);
    const error = await failureOf(head.pullBack([{ reading, edit }], [dense(1e20)]));
    expect(error.code).toBe('LOSS_NOT_FINITE');
    expect(error.message).toMatch(/edit 0, entry 0/);
  });
});

describe('singular factors', () => {
  it('have a folder only where a block is spectral', async () => {
    const cacheDir = join(folder, 'factors');
    const plain = await headOf('lowRank', { cacheDir });
    for (const reading of await plain.read(CONTEXTS.slice(0, 1))) await reading.close();
    expect(existsSync(cacheDir)).toBe(false);
    const spectral = await headOf('spectral', { cacheDir });
    for (const reading of await spectral.read(CONTEXTS.slice(0, 1))) await reading.close();
    expect(existsSync(cacheDir)).toBe(true);
  });
});

describe('weight edits among the others', () => {
  it('are applied, rewarded and closed as text edits are', async () => {
    const head = await headOf('modulated');
    await using parent = policy.fork();
    const edits = await head.write(CONTEXTS, { samples: 2, parent });
    const copies = await applyEdits(parent, edits);
    const rewards = await rewardForks(parent, edits, copies, TEXTS, { beta: 0.1 });
    expect(rewards).toHaveLength(4);
    for (const { reward, parts } of rewards) expect(reward).toBeCloseTo(parts.gain - 0.1 * parts.kl, 6);
    expect(copies.every(({ fork, diverged }) => fork.depth === parent.depth + 1 && !diverged)).toBe(true);
    for (const copy of copies) await copy.close();
    expect(edits.every(({ edit, reading }) => edit.delta.closed && reading.material.closed)).toBe(true);
  });

  it('compose in the order in which they are applied', async () => {
    const head = await headOf('lowRank');
    const edits = await head.write(CONTEXTS, { samples: 1, antithetic: false });
    await using both = policy.fork().apply(edits[0]!.edit).apply(edits[1]!.edit, { scale: 0.5 });
    const matrix = head.blocks[0]!.matrix;
    const [base, one, two, sum] = await Promise.all(
      [model.fork(), model.fork().apply(edits[0]!.edit), model.fork().apply(edits[1]!.edit), both].map(
        (fork) => fork.weight(matrix),
      ),
    );
    sum!.forEach((value, i) => {
      const expected = one![i]! + 0.5 * (two![i]! - base![i]!);
      expect(Math.abs(value - expected)).toBeLessThan(1e-6);
    });
  });
});

describe('files', () => {
  it('restore every bit, the next step included', async () => {
    const head = await headOf(MIXED, { basis: 'learnt' });
    const readings = await head.read(CONTEXTS);
    const step = (to: EditHead) => {
      const slope = new Float32Array(2 * to.size).map((_, i) => Math.sin(i));
      return to.step({ readings, gradient: slope });
    };
    await step(head);
    const path = join(folder, 'head.safetensors');
    await head.save(path);
    const other = await headOf(MIXED, { basis: 'learnt', seed: 9 });
    await other.load(path);
    expect(other.version).toBe(1);
    await step(head);
    await step(other);
    expect(bits(other.parameters())).toBe(bits(head.parameters()));
    const before = bits(other.parameters());
    const smaller = await headOf('lowRank');
    expect((await failureOf(smaller.load(path))).code).toBe('FILE_FORMAT');
    expect((await failureOf(other.load(join(folder, 'none.safetensors')))).code).toBe('FILE_NOT_FOUND');
    expect(bits(other.parameters())).toBe(before);
  });
});

describe('bad input', () => {
  it.each<[string, EditHeadOptions, string, RegExp]>([
    ['targets that match nothing', { targets: ['x_proj'] }, 'TARGET_UNKNOWN', /x_proj/],
    ['no targets', { targets: [] }, 'TARGET_UNKNOWN', /no target/],
    ['an unknown space', { space: 'dense' as SpaceName }, 'OPTION_INVALID', /"dense"/],
    ['size 0', { space: 'lowRank', size: 0 }, 'OPTION_INVALID', /size is 0/],
    ['more entries than singular values', { space: 'spectral', size: 33 }, 'OPTION_INVALID', /33 entries/],
    ['a negative rate', { rate: -1 }, 'OPTION_INVALID', /rate is -1/],
    ['an unknown basis', { basis: 'random' as 'fixed' }, 'OPTION_INVALID', /"random"/],
    [
      'a matrix in two spaces',
      {
        space: [
          { space: 'lowRank', targets: ['all'] },
          { space: 'sparse', targets: ['q_proj'] },
        ],
      },
      'OPTION_INVALID',
      /two spaces/,
    ],
    ['a spectral gain', { space: 'spectral', targets: ['norm'], size: 1 }, 'TARGET_UNKNOWN', /is a vector/],
  ])('refuses %s', async (_, options, code, message) => {
    const error = await failureOf(EditHead.create(policy, options));
    expect(error.code).toBe(code);
    expect(error.message).toMatch(message);
  });

  it('refuses vectors, forks and numbers that do not fit, and stays as it was', async () => {
    const head = await headOf('lowRank');
    const readings = await head.read(CONTEXTS);
    const foreign = await plainModel();
    await using fork = foreign.fork();
    await using parent = policy.fork();
    const vector = new Float32Array(head.size);
    const before = bits(head.parameters());
    const cases: [() => unknown, string, RegExp][] = [
      [() => head.compose(readings.slice(0, 1), [vector.subarray(1)]), 'INPUT_INVALID', /has \d+ entries/],
      [
        () => head.compose(readings.slice(0, 1), [vector.map((_, i) => (i === 3 ? Number.NaN : 0))]),
        'INPUT_INVALID',
        /entry 3/,
      ],
      [() => head.compose(readings, [vector]), 'INPUT_INVALID', /1 vectors for 2/],
      [() => head.read(CONTEXTS, { parent: fork }), 'INPUT_INVALID', /another model/],
      [() => head.write(CONTEXTS, { samples: 0 }), 'OPTION_INVALID', /samples is 0/],
      [() => head.calibrate(readings, TEXTS, { kl: -0.1 }), 'OPTION_INVALID', /kl is -0.1/],
      [() => head.calibrate(readings, []), 'INPUT_INVALID', /0 texts/],
      [() => head.step({ readings, klCoefficient: -1 }), 'OPTION_INVALID', /klCoefficient/],
      [() => head.step({ readings: [] }), 'INPUT_INVALID', /no context/],
      // Finite, but its square would make the second moment infinite, and the saved head one that does not load.
      [
        () =>
          head.step({
            readings,
            gradient: new Float32Array(readings.length * head.size).fill(1e25),
            maxGradNorm: 0,
          }),
        'LOSS_NOT_FINITE',
        /the head was not changed/,
      ],
      [() => head.setNoise(head.noise.map(() => 0)), 'OPTION_INVALID', /above 0/],
      [() => answerLoss(head, { parent, retention: TEXTS, lambda: -1 }), 'OPTION_INVALID', /lambda is -1/],
      [() => answerLoss(head, { parent, lambda: 1 }), 'OPTION_INVALID', /no retention texts/],
      [() => policy.fork().apply({} as Delta), 'INPUT_INVALID', /expected a Delta or a weight edit/],
    ];
    for (const [work, code, message] of cases) {
      const error = await failureOf(work);
      expect(error.code).toBe(code);
      expect(error.message).toMatch(message);
    }
    expect(bits(head.parameters())).toBe(before);
    expect(head.version).toBe(0);
    await foreign.close();
  });

  it('refuses work after it is closed, and while it is being updated', async () => {
    const head = await headOf('lowRank');
    const readings = await head.read(CONTEXTS);
    // The compute thread works on this first, so the step is still to come when the means are asked for.
    const busy = score(Array.from({ length: 8 }, () => ({ fork: model, tokens: new Int32Array(500) })));
    const step = head.step({ readings, gradient: new Float32Array(2 * head.size).fill(1) });
    expect((await failureOf(() => head.means(readings))).message).toMatch(/being updated/);
    await Promise.all([busy, step]);
    await head.close();
    expect((await failureOf(() => head.means(readings))).code).toBe('CLOSED');
    expect((await failureOf(head.write(readings))).code).toBe('CLOSED');
  });
});
