import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { weightGradient } from '../../lib/algorithm/weight-gradient.js';
import { weightPpo } from '../../lib/algorithm/weight-ppo.js';
import { EditHead } from '../../lib/edit-head.js';
import type { RoundResult } from '../../lib/edit-result.js';
import type { Model } from '../../lib/model.js';
import { Policy } from '../../lib/policy.js';
import { rewardForks } from '../../lib/reward/evaluate.js';
import { seal } from '../../lib/seal.js';
import type { WeightSealOptions } from '../../lib/seal-weights.js';
import { measureSequence } from '../../lib/sequence.js';
import { knowledge } from '../../lib/task/knowledge.js';
import { bits, failureOf } from '../support/tiny.js';
import { tinyModel } from './helpers/tiny-model.js';

const task = knowledge(
  Array.from({ length: 6 }, (_, index) => ({
    title: `T${index}`,
    context: `Passage ${index} says that fact ${index} holds.`,
    questions: ['a', 'b'].map((letter) => ({
      question: `Which ${letter}?`,
      answers: [`fact ${index}${letter}`],
    })),
  })),
  { retention: 2, evaluation: 1 },
);

let model: Model;
let policy: Policy;
beforeAll(async () => {
  model = await tinyModel();
  policy = Policy.create(model, { rank: 2 });
});
afterAll(async () => {
  await policy.close();
  await model.close();
});

const headOf = () => EditHead.create(policy, { space: 'lowRank', size: 4, cacheDir: null });
const base = {
  task,
  rounds: 2,
  contextsPerRound: 2,
  editsPerContext: 4,
  seed: 5,
  reward: { beta: 0.1, report: ['recall'], maxAnswerTokens: 4 } as WeightSealOptions['reward'],
};
async function run(head: EditHead, more: Partial<WeightSealOptions> = {}): Promise<RoundResult[]> {
  const results: RoundResult[] = [];
  for await (const result of seal({ ...base, head, ...more } as WeightSealOptions)) results.push(result);
  return results;
}

describe('a round of weight edits', () => {
  it('calibrates, writes, rewards and learns, and gives the same again', async () => {
    const head = await headOf();
    const phases: string[] = [];
    const results = await run(head, { onPhase: (round, phase) => phases.push(`${round} ${phase}`) });
    expect(phases.slice(0, 5)).toEqual(
      ['baseline', 'adapt', 'write', 'evaluate', 'update'].map((p) => `0 ${p}`),
    );
    for (const { edits, update, reward } of results) {
      expect(edits).toHaveLength(8);
      expect(Math.abs(Math.log((update.noiseKl as number) / 0.02))).toBeLessThan(0.05);
      expect(new Set(edits.map((edit) => edit.reward)).size).toBe(8);
      expect(edits.every(({ vectorNorm }) => vectorNorm! > 0)).toBe(true);
      for (const edit of edits) {
        expect(edit.reward).toBeCloseTo(edit.parts.gain - 0.1 * edit.parts.kl, 6);
        expect(Object.keys(edit.scores.paying)).toEqual(['likelihood', 'recall']);
      }
      expect(reward.mean).toBeCloseTo(edits.reduce((sum, edit) => sum + edit.reward, 0) / 8, 10);
    }
    expect(head.version).toBeGreaterThan(0);
    expect(policy.version).toBe(0);

    // Another head, resumed after the first round, ends at the same bits.
    const [first, second] = [await headOf(), await headOf()];
    await run(first, { rounds: 1 });
    second.setParameters(first.parameters());
    expect(bits(second.parameters())).not.toBe(bits(head.parameters()));
    await run(first, { startRound: 1 });
    expect(bits(first.parameters())).toBe(bits(head.parameters()));
    for (const each of [head, first, second]) await each.close();
  });

  it('makes the loss smaller on what it has seen, by either algorithm', async () => {
    for (const algorithm of [
      weightPpo({ learningRate: 0.3, epochs: 2 }),
      weightGradient({ learningRate: 0.3, steps: 2 }),
    ]) {
      const head = await headOf();
      const contexts = task.contexts(0, 4);
      const meanReward = async () => {
        await using parent = policy.fork();
        const edits = await head.write(contexts, { mean: true, parent });
        const forks = edits.map(({ edit }) => ({ fork: parent.fork().apply(edit) }));
        const rewards = await rewardForks(parent, edits, forks, task.retention, base.reward);
        for (const { fork } of forks) await fork.close();
        for (const edit of edits) await edit.close();
        return rewards.reduce((sum, { reward }) => sum + reward, 0) / rewards.length;
      };
      expect(await meanReward()).toBe(0);
      await run(head, { algorithm, rounds: 6, contextsPerRound: 4, editsPerContext: 8 });
      expect(await meanReward(), algorithm.name).toBeGreaterThan(0.02);
      await head.close();
    }
  });

  it('goes on when edits make the model overflow: the floor, counted as diverged', async () => {
    const head = await headOf();
    head.setNoise(head.noise.map(() => 1e30));
    const [round] = await run(head, { rounds: 1, noiseKl: 0 });
    expect(round!.reward.invalid).toBeGreaterThan(0);
    expect(round!.reward.invalidBy).toEqual({ diverged: round!.reward.invalid });
    for (const edit of round!.edits) {
      expect(edit.invalid === 'diverged').toBe(!Number.isFinite(edit.parts.gain));
      if (edit.invalid) expect(edit.reward).toBe(-1);
    }
    await head.close();
  });

  it('goes on by the gradient path when edits overflow, and learns from the others', async () => {
    const head = await headOf();
    const before = head.parameters();
    head.setNoise(head.noise.map(() => 1.6e9));
    const [result] = await run(head, { rounds: 1, noiseKl: 0, algorithm: weightGradient() });
    const { update, reward, edits } = result!;
    expect(reward.invalid).toBeGreaterThan(0);
    // What could not be tested is not learnt from either.
    expect(update.overflowed).toBeGreaterThanOrEqual(reward.invalid);
    expect(update.overflowed).toBeLessThan(edits.length);
    expect(update).toMatchObject({ steps: 1, stepsSkipped: 0 });
    expect(update.loss).toSatisfy(Number.isFinite);
    expect(head.parameters()).not.toEqual(before);
    expect(head.parameters().every(Number.isFinite)).toBe(true);
    await head.close();
  });

  it('leaves the head as it was when every edit overflows', async () => {
    const head = await headOf();
    const before = head.parameters();
    head.setNoise(head.noise.map(() => 1e30));
    const results = await run(head, { noiseKl: 0, algorithm: weightGradient() });
    expect(results).toHaveLength(2);
    for (const { update, edits } of results) {
      expect(update).toMatchObject({ overflowed: edits.length, steps: 0, stepsSkipped: 1 });
    }
    expect(head.version).toBe(0);
    expect(head.parameters()).toEqual(before);
    await head.close();
  });

  it('refuses settings that cannot work, before anything is done', async () => {
    const head = await headOf();
    const cases: [Partial<WeightSealOptions>, RegExp][] = [
      [{ noiseKl: -1 }, /noiseKl is -1/],
      [{ lambda: -1 }, /lambda is -1/],
      [{ editsPerContext: 1 }, /editsPerContext is 1/],
      [{ reward: { beta: 0, retentionTexts: 0 } }, /no retention texts/],
      [
        {
          noiseKl: 0,
          lambda: 0.5,
          reward: { beta: 0, retentionTexts: 0 },
          algorithm: weightGradient(),
        },
        /lambda is 0.5 but there are no retention texts/,
      ],
    ];
    for (const [more, message] of cases) expect((await failureOf(run(head, more))).message).toMatch(message);
    for (const options of [{ epochs: 0 }, { learningRate: -1 }, { klCoefficient: Number.NaN }]) {
      expect((await failureOf(() => weightPpo(options))).code).toBe('OPTION_INVALID');
    }
    for (const options of [{ steps: 0 }, { klCoefficient: -1 }]) {
      expect((await failureOf(() => weightGradient(options))).code).toBe('OPTION_INVALID');
    }
    expect((await failureOf(weightPpo().update(head, [], []))).message).toMatch(/0 edits/);
    expect((await failureOf(weightGradient().update(head, [], []))).message).toMatch(/objective/);
    await head.close();
  });
});

describe('edits in sequence', () => {
  it('are scored after every step, on every context', async () => {
    const head = await EditHead.create(policy, {
      adapt: { rank: 4, alpha: 8, epochs: 4, learningRate: 2e-2 },
    });
    const contexts = task.contexts(0, 3);
    await using parent = policy.fork();
    const depths: number[] = [];
    const { scores, immediate, retained, forgotten } = await measureSequence({
      parent,
      contexts,
      reward: base.reward!,
      edit: async (fork, context) => {
        depths.push(fork.depth);
        return (await head.write([context], { mean: true, parent: fork }))[0]!;
      },
    });
    // Each edit was made from the fork with all earlier ones, and the parent is as it was.
    expect(depths).toEqual([0, 1, 2].map((earlier) => parent.depth + earlier));
    expect(scores.map((row) => row.length)).toEqual([3, 3, 3, 3]);
    // The same by hand, up to the second edit, for the first context.
    const one = await head.write([contexts[0]!], { mean: true, parent });
    await using first = parent.fork().apply(one[0]!.edit);
    const two = await head.write([contexts[1]!], { mean: true, parent: first });
    await using second = first.fork().apply(two[0]!.edit);
    const asked = { ...contexts[0]!, paying: [...contexts[0]!.paying, ...contexts[0]!.report] };
    const [after] = await rewardForks(parent, [{ context: asked }], [{ fork: second }], [], { beta: 0 });
    expect(scores[2]![0]).toBeCloseTo(after!.parts.edited, 5);
    expect(scores[0]![0]).toBeCloseTo(after!.parts.unedited, 5);
    const mean = (of: (index: number) => number) => [0, 1, 2].reduce((sum, index) => sum + of(index) / 3, 0);
    expect(immediate).toBeCloseTo(
      mean((j) => scores[j + 1]![j]! - scores[0]![j]!),
      10,
    );
    expect(retained).toBeCloseTo(
      mean((j) => scores[3]![j]! - scores[0]![j]!),
      10,
    );
    expect(forgotten).toBeCloseTo(immediate - retained, 10);
    expect(Math.abs(immediate)).toBeGreaterThan(1e-3); // a random model: the edits change what it says
    expect((await failureOf(measureSequence({ parent, contexts: [], edit: async () => one[0]! }))).code).toBe(
      'INPUT_INVALID',
    );
    for (const edit of [...one, ...two]) await edit.close();
    await head.close();
  });
});
