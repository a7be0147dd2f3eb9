// `adaptFrom`: what edits are stacked on and compared with, on a real (tiny) model whose policy has moved.
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Algorithm } from '../../lib/algorithm/algorithm.js';
import {
  applyEdits,
  divergence,
  type Fork,
  knowledge,
  likelihood,
  Policy,
  renderQuestion,
  seal,
  uniform,
} from '../../lib/index.js';
import type { Model } from '../../lib/model.js';
import { deriveKey } from '../../lib/random.js';
import { tinyModel } from './helpers/tiny-model.js';

const PASSAGES = Array.from({ length: 3 }, (_, index) => ({
  title: `Title ${index}`,
  context: `The thing number ${index} is made of wood.`,
  questions: ['Made of what?', 'Which number?'].map((question, q) => {
    return { question, answers: [['wood', `${index}`][q]!] };
  }),
}));
const ADAPT = { rank: 2, alpha: 4, epochs: 2, learningRate: 1e-2 };
const SEED = 3;
const task = knowledge(PASSAGES, { retention: 1 });
// Nothing learns: only what is measured counts here.
const still: Algorithm = {
  name: 'still',
  update: async () => ({}),
  state: () => ({}),
  restore: () => {},
};

let model: Model;
let policy: Policy;
beforeAll(async () => {
  model = await tinyModel();
  policy = Policy.create(model, { rank: 2 });
  const values = uniform(1n, policy.parameters().length);
  policy.setParameters(Float32Array.from(values, (value) => (value - 0.5) / 2));
});
afterAll(async () => {
  await policy.close();
  await model.close();
});

it.each(['policy', 'base'] as const)(
  '%s: parent of the edits, and what they are compared with',
  async (from) => {
    const options = { policy, task, rounds: 1, seed: SEED, contextsPerRound: 1, editsPerContext: 2 };
    const round = seal({
      ...options,
      adaptFrom: from,
      adapt: ADAPT,
      algorithm: still,
      edit: { maxTokens: 12 },
      reward: { beta: 0.5, retentionTexts: 1, form: 'base' },
    });
    const result = (await round.next()).value!;
    const context = task.contexts(0, 1)[0]!;
    const score = async (fork: Fork) => {
      const rows = context.paying.map(({ question, answers }) => ({
        fork,
        prompt: renderQuestion({ title: context.title, question }, model.tokenizer, 'base'),
        answer: model.tokenizer.encode(answers[0]!, { specialTokens: false }),
      }));
      const scores = await likelihood(rows);
      return scores.reduce((sum, value) => sum + value, 0) / scores.length;
    };

    const forks = { policy: policy.fork(), base: model.fork() };
    const other = from === 'policy' ? 'base' : 'policy';
    const [expected, wrong] = [await score(forks[from]), await score(forks[other])];
    expect(Math.abs(expected - wrong)).toBeGreaterThan(0.1);
    const valid = result.edits.filter(({ invalid }) => !invalid);
    expect(valid.length).toBeGreaterThan(0);
    for (const edit of valid) {
      expect(edit.parts.unedited).toBeCloseTo(expected, 5);
      // The same edit, trained on the parent by hand, gives the same score and the same divergence from the parent.
      const seed = deriveKey(SEED, 'adapt', [0, 0, 0]);
      const [own] = await applyEdits(forks[from], [{ documents: edit.documents, seed }], ADAPT);
      expect(edit.parts.edited).toBeCloseTo(await score(own!.fork), 5);
      const tokens = model.tokenizer.encode(task.retention[0]!);
      const [kl] = await divergence([{ fork: own!.fork, reference: forks[from], tokens }]);
      expect(edit.parts.kl).toBeCloseTo(kl!.reduce((sum, value) => sum + value, 0) / kl!.length, 5);
      await own!.close();
    }
    for (const fork of Object.values(forks)) await fork.close();
  },
);
