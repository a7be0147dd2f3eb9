// One method over text edits, one seed: trains the policy, examines it on unseen contexts along the way.
import { applyEdits, askForks, deriveKey, Policy, seal, uniform, writeEdits } from 'selfedit';
import { EDIT, FAMILIES, factsIn, linesOf, QUESTION } from './world.mjs';

export const ADAPT = {
  rank: 8,
  alpha: 16,
  epochs: 6,
  batchSize: 1,
  learningRate: 1e-2,
  targets: ['all'],
};
export const REWARD = {
  measure: 'likelihood',
  report: [],
  beta: 0.1,
  retentionTexts: 2,
  form: 'base',
  question: QUESTION,
  floor: -3,
};
const POLICY = { rank: 8, alpha: 16 };
const SAMPLES = 4;

/**
 * Returns {curve: [[round, mean score]], trained, untrained: contexts × questions, lines}: scores of the questions about
 * unseen contexts after an edit of the trained and of the untrained policy, drawn and trained under the same keys, on top
 * of the base model: only the edits differ.
 */
export async function trainTextEdits({ model, task, seed, rounds, contexts, examine, signal }, method) {
  const policy = Policy.create(model, { ...POLICY, seed });
  const examination = () => examineEdits(model, policy, task, { seed, signal });
  try {
    const first = await examination();
    const curve = [[0, first.mean]];
    let last = first;
    const algorithm = method.algorithm();
    const loop = seal({
      policy,
      task,
      rounds,
      seed,
      contextsPerRound: contexts,
      editsPerContext: SAMPLES,
      adaptFrom: 'base',
      edit: EDIT,
      adapt: ADAPT,
      reward: REWARD,
      algorithm: method.randomReward ? withRandomReward(algorithm) : algorithm,
      signal,
    });
    for await (const { round } of loop) {
      if ((round + 1) % examine !== 0 && round + 1 !== rounds) continue;
      last = await examination();
      curve.push([round + 1, last.mean]);
    }
    return {
      curve,
      trained: last.scores,
      untrained: first.scores,
      lines: { trained: last.lines, untrained: first.lines },
    };
  } finally {
    await policy.close();
  }
}

/** The mean score of the questions about the unseen contexts, over a few edits each. */
async function examineEdits(model, policy, task, { seed, signal }) {
  const samples = 1;
  const writer = policy.fork();
  const parent = model.fork();
  const contexts = task.evaluation;
  let forks = [];
  try {
    const key = deriveKey(seed, 'examination');
    const written = await writeEdits(writer, contexts, { ...EDIT, samples, seed: key, signal });
    const trials = written.map(({ edit, group }) => ({ edit, seed: deriveKey(key, 'adapt', [group]) }));
    forks = await applyEdits(parent, trials, { ...ADAPT, signal });
    const answers = await askForks(
      forks.map(({ fork }, index) => ({ fork, context: written[index].context })),
      { tokenizer: model.tokenizer, measures: ['likelihood'], form: 'base', template: QUESTION, signal },
    );
    const scores = contexts.map((_, group) => {
      const own = answers.slice(group * samples, (group + 1) * samples);
      return contexts[group].report.map(
        (_, question) =>
          own.reduce((sum, { report }) => sum + report[question].scores.likelihood, 0) / samples,
      );
    });
    const flat = scores.flat();
    const lines = linesOf(
      written.map(({ edit, context }) => ({ text: edit.text, context: context.context })),
    );
    return { scores, lines, mean: flat.reduce((sum, value) => sum + value, 0) / flat.length };
  } finally {
    for (const fork of forks) await fork.close();
    await writer.close();
    await parent.close();
  }
}

/** The control: everything the same, but the reward says nothing about the edit. */
function withRandomReward(algorithm) {
  return {
    ...algorithm,
    update: (policy, rollouts, context) => {
      const key = deriveKey(context.seed, 'random reward', [context.round]);
      const draws = uniform(key, rollouts.length);
      const rewarded = rollouts.map((rollout, index) => ({ ...rollout, reward: draws[index] }));
      return algorithm.update(policy, rewarded, context);
    },
  };
}

/**
 * What the unedited model scores on the unseen contexts, and what it scores after an edit of true lines about every fact, all
 * of one family: which edits teach. {unedited, answer, reverse, claim, topic}.
 */
export async function referenceScores({ model, task, seed, signal }) {
  const contexts = task.evaluation;
  const asking = { tokenizer: model.tokenizer, measures: ['likelihood'], form: 'base', template: QUESTION };
  const meanOf = async (forks) => {
    const rows = forks.map((fork, index) => ({ fork, context: contexts[index] }));
    const answers = await askForks(rows, { ...asking, signal });
    const scores = answers.flatMap(({ report }) => report.map(({ scores }) => scores.likelihood));
    return scores.reduce((sum, value) => sum + value, 0) / scores.length;
  };
  const parent = model.fork();
  try {
    const result = { unedited: await meanOf(contexts.map(() => parent)) };
    for (const { name, line } of FAMILIES) {
      const edits = contexts.map(({ context }, index) => {
        return { documents: factsIn(context).map(line), seed: deriveKey(seed, 'reference', [index]) };
      });
      const edited = await applyEdits(parent, edits, { ...ADAPT, signal });
      result[name] = await meanOf(edited.map(({ fork }) => fork));
      for (const fork of edited) await fork.close();
    }
    return result;
  } finally {
    await parent.close();
  }
}
