import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { applyEdits, type EditedFork } from '../../lib/edit/apply.js';
import { toRollouts, writeEdits } from '../../lib/edit/write.js';
import type { Fork } from '../../lib/fork.js';
import { generate } from '../../lib/generate.js';
import type { Model } from '../../lib/model.js';
import { meanDivergence, rewardForks } from '../../lib/reward/evaluate.js';
import { f1 } from '../../lib/reward/f1.js';
import { ask } from '../../lib/reward/measure.js';
import { renderQuestion } from '../../lib/reward/question.js';
import { recall } from '../../lib/reward/recall.js';
import { score } from '../../lib/score.js';
import type { TaskContext } from '../../lib/task/task.js';
import { deltaOf } from '../support/tiny.js';
import { tinyModel } from './helpers/tiny-model.js';

// Rewards on a tiny random model, each against another way to the same number.
let model: Model;
let parent: Fork;
let edited: EditedFork;
beforeAll(async () => {
  model = await tinyModel();
  parent = model.fork();
  const options = { rank: 4, alpha: 16, epochs: 6, learningRate: 1e-2 };
  [edited] = (await applyEdits(
    parent,
    [{ documents: ['The gate of Otrar is made of silver.'] }],
    options,
  )) as [EditedFork];
});
afterAll(async () => {
  await edited.close();
  await parent.close();
  await model.close();
});

const question = (id: string, text: string, ...answers: string[]) => ({ id, question: text, answers });
const context = (paying: TaskContext['paying'], report: TaskContext['report'] = []): TaskContext => {
  return { id: 'c', title: 'Otrar', context: 'C.', task: 'T.', paying, report };
};

describe('measures', () => {
  it('likelihood is the mean log-prob of the answer tokens, each given the ones before it', async () => {
    const tokens = model.tokenizer.encode('silver gate', { specialTokens: false });
    const prompt = renderQuestion({ title: 'Otrar', question: 'What?' }, model.tokenizer, 'base');
    const rows = [parent, edited.fork].map((fork) => {
      return { fork, title: 'Otrar', question: question('q', 'What?', 'silver gate') };
    });
    const answered = await ask(rows, { tokenizer: model.tokenizer, measures: ['likelihood'], form: 'base' });
    expect(tokens.length).toBeGreaterThan(2);
    for (const [row, { fork }] of rows.entries()) {
      // One row for each token of the answer, which is the row's last one.
      const prefixes = Array.from(tokens, (_, end) =>
        Int32Array.from([...prompt, ...tokens.subarray(0, end + 1)]),
      );
      const scored = await score(prefixes.map((prefix) => ({ fork, tokens: prefix })));
      const expected = scored.reduce((sum, logprobs) => sum + logprobs.at(-1)!, 0) / tokens.length;
      expect(answered[row]!.scores.likelihood).toBeCloseTo(expected, 5);
    }
    expect(answered[0]!.scores.likelihood).not.toBe(answered[1]!.scores.likelihood);
  });

  it('graders see the greedy answer of the very fork, cut at a stop string', async () => {
    const rows = [parent, edited.fork].map((fork) => ({
      fork,
      title: '',
      question: question('q', 'What?', 'silver'),
    }));
    const answered = await ask(rows, {
      tokenizer: model.tokenizer,
      measures: ['f1', 'recall', 'exact'],
      maxAnswerTokens: 6,
      stop: ['e'],
    });
    for (const [row, { fork }] of rows.entries()) {
      const prompt = renderQuestion({ title: '', question: 'What?' }, model.tokenizer);
      const [alone] = await generate([{ fork, prompt }], { maxTokens: 6, temperature: 0, stop: ['e'] });
      expect(answered[row]!.answer).toBe(alone!.text);
      expect(answered[row]!.answer).not.toContain('e');
      expect(answered[row]!.scores.f1).toBe(f1(alone!.text, ['silver']));
      expect(answered[row]!.scores.recall).toBe(recall(alone!.text, ['silver']));
    }
  });

  it('of no questions are nothing', async () => {
    expect(await ask([], { tokenizer: model.tokenizer, measures: ['f1'] })).toEqual([]);
  });
});

describe('the divergence on retention texts', () => {
  it('is the KL over the whole vocabulary, mean over all positions of all texts', async () => {
    const texts = [Int32Array.of(7, 9, 11), Int32Array.of(40, 3)];
    const [measured] = await meanDivergence([edited.fork], parent, texts);
    // By hand: the distribution after each prefix, one scored row for each continuation.
    let sum = 0;
    let positions = 0;
    for (const text of texts) {
      for (let end = 1; end <= text.length; end++) {
        const rows = Array.from({ length: model.config.vocabSize }, (_, token) =>
          Int32Array.from([...text.subarray(0, end), token]),
        );
        const [p, q] = await Promise.all(
          [edited.fork, parent].map(async (fork) =>
            (await score(rows.map((tokens) => ({ fork, tokens })))).map((logprobs) => logprobs[end]!),
          ),
        );
        sum += p!.reduce((total, logprob, token) => total + Math.exp(logprob) * (logprob - q![token]!), 0);
        positions += 1;
      }
    }
    expect(measured! / (sum / positions)).toBeCloseTo(1, 3);
    expect(measured).toBeGreaterThan(1e-4);
  });

  it('is 0 for an unedited fork and NaN without texts', async () => {
    await using copy = parent.fork();
    const [same] = await meanDivergence([copy], parent, [Int32Array.of(7, 9, 11)]);
    expect(Math.abs(same!)).toBeLessThan(1e-6);
    expect(await meanDivergence([copy], parent, [])).toEqual([Number.NaN]);
  });
});

describe('rewards of forks', () => {
  it('rise with what the edit taught, and pay for what it changed elsewhere', async () => {
    const taught = context([question('q', 'What is the gate made of?', 'silver.')]);
    const rows = [{ context: taught }];
    const options = { form: 'base' as const, beta: 2, floor: -9 };
    const [{ reward, parts }] = (await rewardForks(
      parent,
      rows,
      [edited],
      ['Bread rises because of yeast.'],
      options,
    )) as [Awaited<ReturnType<typeof rewardForks>>[0]];
    expect(parts.gain).toBeCloseTo(parts.edited - parts.unedited, 10);
    expect(parts.gain).toBeGreaterThan(0.02);
    expect(parts.kl).toBeGreaterThan(0);
    expect(parts.klPenalty).toBeCloseTo(2 * parts.kl, 10);
    expect(reward).toBeCloseTo(parts.gain - parts.klPenalty, 10);
  });

  it('do not count report-only questions', async () => {
    const paying = [question('p', 'What is the gate made of?', 'silver.')];
    const rows = [
      { context: context(paying) },
      { context: { ...context(paying, [question('r', 'Who?', 'Jebe')]), id: 'd' } },
    ];
    const [without, with_] = await rewardForks(parent, rows, [edited, edited], [], { beta: 0 });
    expect(with_!.reward).toBeCloseTo(without!.reward, 6);
    expect(with_!.answers.report).toHaveLength(1);
  });

  it('take a baseline that is known as it is', async () => {
    const asked = context([question('q', 'What?', 'silver')]);
    const known = { paying: [{ scores: { likelihood: -100 } }], report: [] };
    const options = { beta: 0, baselines: [known] };
    const [rewarded] = await rewardForks(parent, [{ context: asked }], [edited], [], options);
    expect(rewarded!.parts.unedited).toBe(-100);
  });

  it('are the floor for an edit that was invalid or whose training diverged', async () => {
    const asked = context([question('q', 'What?', 'silver')]);
    const rows = [
      { context: asked, edit: { invalid: 'empty' } },
      { context: asked },
      { context: asked, edit: {} },
    ];
    const copies = [edited, { fork: edited.fork, diverged: true }, edited];
    const rewards = await rewardForks(parent, rows, copies, [], { beta: 0, floor: -7 });
    expect(rewards.map(({ reward }) => reward === -7)).toEqual([true, true, false]);
    await expect(rewardForks(parent, rows, [edited], [], { beta: 0 })).rejects.toMatchObject({
      code: 'INPUT_INVALID',
    });
  });

  it('are the floor for a copy that overflows, and harm no other', async () => {
    const asked = context([question('q', 'What?', 'silver')], [question('r', 'Who?', 'Jebe')]);
    const huge = deltaOf(model, { size: 1e30 });
    const broken = parent.fork().apply(huge);
    const texts = ['Bread rises because of yeast.'];
    for (const options of [
      { beta: 0, measure: 'likelihood' as const },
      { beta: 0, measure: 'f1' as const, maxAnswerTokens: 2 },
      { beta: 1, measure: 'likelihood' as const, report: ['exact' as const], maxAnswerTokens: 2 },
    ]) {
      const given = { ...options, form: 'base' as const, floor: -7 };
      const rows = [{ context: asked }, { context: asked }];
      const retention = options.beta > 0 ? texts : [];
      const [bad, good] = await rewardForks(parent, rows, [{ fork: broken }, edited], retention, given);
      expect(bad).toMatchObject({ reward: -7, diverged: true });
      expect(bad!.parts.gain).toBeNaN();
      expect(bad!.answers.report).toHaveLength(1);
      expect(bad!.answers.paying[0]!.scores[options.measure]).toBeNaN();
      const [alone] = await rewardForks(parent, [{ context: asked }], [edited], retention, given);
      expect(good).toEqual(alone);
      expect(good!.diverged).toBe(false);
    }
    await broken.close();
    await huge.close();
  });
});

describe('applying edits', () => {
  it('leaves an invalid edit, or one without trainable documents, unedited', async () => {
    const forks = await applyEdits(
      parent,
      [
        { documents: ['It fell.'], invalid: 'empty' },
        { documents: [''] },
        { documents: ['It fell.'], seed: 3 },
      ],
      { rank: 1, epochs: 1 },
    );
    expect(forks.map(({ fork }) => fork.depth)).toEqual([0, 0, 1]);
    expect(forks.map(({ loss }) => loss.length)).toEqual([0, 0, 1]);
    for (const fork of forks) await fork.close();
  });

  it("cuts a document at the model's context instead of failing", async () => {
    const [long] = await applyEdits(parent, [{ documents: ['The gate is wide. '.repeat(600)] }], {
      rank: 1,
      epochs: 1,
    });
    expect(long!.fork.depth).toBe(1);
    await long!.close();
  });
});

describe('writing edits', () => {
  const contexts = ['One.', 'Two.'].map((text, index) => ({ ...context([]), id: `${index}`, context: text }));

  it('draws an edit from its own key, whatever else is written', async () => {
    const options = { maxTokens: 8, seed: 5, round: 2 };
    const both = await writeEdits(parent, contexts, { ...options, samples: 3 });
    const again = await writeEdits(parent, contexts.slice(0, 1), { ...options, samples: 3 });
    expect(both).toHaveLength(6);
    expect(again.map(({ tokens }) => tokens)).toEqual(both.slice(0, 3).map(({ tokens }) => tokens));
    const other = await writeEdits(parent, contexts, { ...options, round: 3, samples: 3 });
    expect(other.map(({ edit }) => edit.text)).not.toEqual(both.map(({ edit }) => edit.text));
    expect(new Set(both.map(({ edit }) => edit.text)).size).toBeGreaterThan(3);
  });

  it("keeps the sampler's log-probs, which are those of scoring the same tokens", async () => {
    const [written] = await writeEdits(parent, contexts, { maxTokens: 8, temperature: 0.7 });
    const [scored] = await score([{ fork: parent, tokens: written!.tokens }], { temperature: 0.7 });
    expect(written!.samplerLogprobs).toHaveLength(written!.tokens.length - written!.promptLength);
    for (const [a, logprob] of written!.samplerLogprobs.entries()) {
      expect(Math.abs(scored![written!.promptLength + a]! - logprob)).toBeLessThan(1e-4);
    }
    const [rollout] = toRollouts([written!], [{ reward: 0.5 }]);
    expect(rollout).toMatchObject({ group: 0, reward: 0.5, promptLength: written!.promptLength });
  });
});
