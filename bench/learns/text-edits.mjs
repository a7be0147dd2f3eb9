// One method over text edits, one seed: trains the policy, examines it on unseen contexts along the way.
import { applyEdits, deriveKey, Policy, seal, writeEdits } from 'selfedit';
import { average, examineForks, learn, loopOf } from './examine.mjs';
import { EDIT, FAMILIES, factsIn, linesOf } from './world.mjs';

export const ADAPT = {
  rank: 8,
  alpha: 16,
  epochs: 12,
  batchSize: 1,
  learningRate: 3e-3,
  targets: ['all'],
};
const POLICY = { rank: 8, alpha: 16 };

/**
 * What `learn` returns, for the scores of the questions about unseen contexts after one edit each of the trained and of the
 * untrained policy, drawn and trained under the same keys, on top of the base model: only the edits differ.
 */
export async function trainTextEdits(world, method) {
  const { model, seed } = world;
  const policy = Policy.create(model, { ...POLICY, seed });
  try {
    const loop = seal({ ...loopOf(world, method), policy, edit: EDIT, adapt: ADAPT });
    return await learn(loop, () => examineEdits(policy, world), world);
  } finally {
    await policy.close();
  }
}

/** One edit for every unseen context; with the shares of its lines' families. */
async function examineEdits(policy, { model, task, seed, signal }) {
  const writer = policy.fork();
  const parent = model.fork();
  let edited = [];
  try {
    const key = deriveKey(seed, 'examination');
    const written = await writeEdits(writer, task.evaluation, { ...EDIT, samples: 1, seed: key, signal });
    const trials = written.map(({ edit, group }) => ({ edit, seed: deriveKey(key, 'adapt', [group]) }));
    edited = await applyEdits(parent, trials, { ...ADAPT, signal });
    const forks = edited.map(({ fork }) => fork);
    const lines = linesOf(
      written.map(({ edit, context }) => ({ text: edit.text, context: context.context })),
    );
    return { ...(await examineForks(forks, parent, task, { signal })), lines };
  } finally {
    for (const copy of edited) await copy.close();
    await writer.close();
    await parent.close();
  }
}

/**
 * Which edits teach: {unedited, answer, reverse, claim, topic, passage}, each {score, exact}: means over the questions about
 * the unseen contexts, of the unedited model, after an edit of true lines about every fact, all of one family, and after
 * training on the context itself.
 */
export async function referenceScores({ model, task, seed, signal }) {
  const contexts = task.evaluation;
  const parent = model.fork();
  const meanOf = async (forks) => {
    const { mean, exact } = await examineForks(forks, parent, task, { signal });
    return { score: mean, exact: average(exact.flat()) };
  };
  const written = FAMILIES.map(({ name, line }) => [name, (context) => factsIn(context).map(line)]);
  try {
    const result = { unedited: await meanOf(contexts.map(() => parent)) };
    for (const [name, documentsOf] of [...written, ['passage', (context) => [context]]]) {
      const edits = contexts.map(({ context }, index) => {
        return { documents: documentsOf(context), seed: deriveKey(seed, 'reference', [index]) };
      });
      const edited = await applyEdits(parent, edits, { ...ADAPT, signal });
      result[name] = await meanOf(edited.map(({ fork }) => fork));
      for (const copy of edited) await copy.close();
    }
    return result;
  } finally {
    await parent.close();
  }
}
