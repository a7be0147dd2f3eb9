// The loop: a policy writes directives, each edit trains a copy, the copy's answers pay.
import { applyEdits, bootstrapDifference, deriveKey, Policy, ppo, seal, writeEdits } from 'selfedit';
import { ADAPT, EDIT, taskOf } from './world.mjs';

const POLICY = { rank: 8, alpha: 16 };
const ALGORITHM = {
  epochs: 2,
  minibatch: 16,
  learningRate: 2e-3,
  klCoefficient: 0.01,
  klStop: 0.2,
  maxTokens: 110,
};
/** The dense measure pays, the published one only reports. */
const REWARD = { measure: 'likelihood', report: ['solved'], beta: 0, floor: -3 };

const average = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

/** Trains a policy on `trained` and examines it, before and after, on `unseen`: one edit a task, the same keys both times. */
export async function trainPolicy(
  model,
  trained,
  unseen,
  { seed = 1, rounds, contexts, edits, signal, log },
) {
  const task = taskOf(trained, { evaluation: unseen, seed });
  const policy = Policy.create(model, { ...POLICY, seed });
  try {
    const before = await examinePolicy(policy, model, task, { seed, signal });
    const curve = [];
    const loop = seal({
      policy,
      task,
      rounds,
      seed,
      contextsPerRound: contexts,
      editsPerContext: edits,
      adaptFrom: 'base',
      edit: EDIT,
      adapt: ADAPT,
      reward: REWARD,
      algorithm: ppo(ALGORITHM),
      signal,
    });
    for await (const { reward, edits: played } of loop) {
      const solved = average(
        played.filter(({ invalid }) => !invalid).map(({ scores }) => scores.paying.solved.edited),
      );
      curve.push({ reward: reward.mean, solved, invalid: reward.invalid });
      log(
        `round ${curve.length}: reward ${reward.mean.toFixed(3)}, solved ${solved.toFixed(2)}, ${reward.invalid} invalid`,
      );
    }
    const after = await examinePolicy(policy, model, task, { seed, signal });
    const changes = Object.fromEntries(
      ['solved', 'cells', 'likelihood'].map((measure) => {
        const of = (rows) => rows.map((row) => [row[measure]]);
        const { mean, low, high } = bootstrapDifference(of(after), of(before), {
          key: deriveKey(0, measure),
        });
        return [
          measure,
          {
            untrained: average(of(before).flat()),
            trained: average(of(after).flat()),
            difference: { mean, low, high },
          },
        ];
      }),
    );
    return {
      tasks: unseen.length,
      rounds,
      contexts,
      edits,
      curve,
      ...changes,
      written: { untrained: sharesOf(before), trained: sharesOf(after) },
    };
  } finally {
    await policy.close();
  }
}

async function examinePolicy(policy, model, task, { seed, signal }) {
  const writer = policy.fork();
  const parent = model.fork();
  try {
    const key = deriveKey(seed, 'examination');
    const written = await writeEdits(writer, task.evaluation, { ...EDIT, task, seed: key, signal });
    const rows = [];
    for (let first = 0; first < written.length; first += 8) {
      const batch = written.slice(first, first + 8);
      const trials = batch.map(({ edit, group }) => ({ edit, seed: deriveKey(key, 'adapt', [group]) }));
      const copies = await applyEdits(parent, trials, { ...ADAPT, signal });
      const asked = copies.map(({ fork }, at) => ({ fork, context: batch[at].context }));
      const answers = await task.ask(asked, { signal });
      for (const copy of copies) await copy.close();
      rows.push(...answers.map(({ report }, at) => ({ ...report[0].scores, edit: batch[at].edit })));
    }
    return rows;
  } finally {
    await writer.close();
    await parent.close();
  }
}

/** What the edits chose: shares of the switches, of loss on outputs alone and of invalid ones, and mean learning rate and epochs. */
function sharesOf(rows) {
  const valid = rows.flatMap(({ edit }) => (edit.invalid ? [] : [edit.directives]));
  const share = (holds) => valid.filter(holds).length / valid.length;
  return {
    invalid: (rows.length - valid.length) / rows.length,
    switches: Object.fromEntries(
      ['basic', 'size', 'chain', 'repeat'].map((name) => [
        name,
        share(({ augmentations }) => augmentations?.includes(name)),
      ]),
    ),
    output: share(({ loss }) => loss === 'output'),
    learningRate: average(valid.map(({ learningRate = Number.NaN }) => learningRate)),
    epochs: average(valid.map(({ epochs = Number.NaN }) => epochs)),
  };
}
