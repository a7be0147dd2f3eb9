// The three ways in which KL(edited ‖ unedited) takes part in learning: in the loss of the gradient path, in the reward of PPO,
// and in the choice of the best of n text edits.
import {
  answerLoss,
  deriveKey,
  EditHead,
  rewardForks,
  weightGradient,
  weightPpo,
  writeEdits,
} from 'selfedit';
import { examine, INNER, REWARD, textsOf, withCopies } from './world.mjs';

const LEARNING_RATE = 0.3;

/** Trains a head and examines its mean edits of the unseen passages. `update(head, round)` is one round. */
async function trainHead(world, read, reference, update) {
  const { parent, size, seed, signal } = world;
  const head = await EditHead.create(read.policy, { space: 'modulated', adapt: INNER });
  try {
    head.setNoise(read.noise);
    for (let round = 0; update && round < size.rounds; round++) await update(head, round);
    const edits = await head.write(read.unseen, { mean: true, seed, signal });
    const values = await withCopies(parent, edits, { signal }, (copies) =>
      examine(
        copies.map(({ fork }) => fork),
        world.unseen,
        world,
        reference,
      ),
    );
    // Gains of the inner loop's delta, mean over matrices and passages: 1 + z.
    const entries = edits.flatMap(({ edit }) => [...edit.vector]);
    return { values, scale: 1 + entries.reduce((sum, value) => sum + value, 0) / entries.length };
  } finally {
    await head.close();
  }
}

/** The untrained head: what the inner loop gives, whatever β. */
export const untrained = (world, read, reference) => trainHead(world, read, reference);

/** The gradient path: λ = β. */
export function byGradient(world, read, reference, beta) {
  const { parent, seed, size, signal } = world;
  const algorithm = weightGradient({ learningRate: LEARNING_RATE });
  return trainHead(world, read, reference, async (head, round) => {
    const edits = await head.write(read.of(round), { samples: size.samples.gradient, seed, round, signal });
    const objective = answerLoss(head, { parent, retention: textsOf(world, round), lambda: beta, signal });
    await algorithm.update(head, edits, [], { seed, round, objective, signal });
    for (const edit of edits) await edit.close();
  });
}

/** PPO over the same vectors, rewarded by gain − β · KL. */
export function byPpo(world, read, reference, beta) {
  const { parent, seed, size, signal } = world;
  const algorithm = weightPpo({ learningRate: LEARNING_RATE, epochs: 1 });
  return trainHead(world, read, reference, async (head, round) => {
    const edits = await head.write(read.of(round), { samples: size.samples.ppo, seed, round, signal });
    await withCopies(parent, edits, { signal }, async (copies) => {
      const texts = textsOf(world, round);
      const rewards = await rewardForks(parent, edits, copies, texts, { ...REWARD, beta, signal });
      await algorithm.update(head, edits, rewards, { seed, round, signal });
    });
  });
}

/**
 * The best of n text edits of the unmodified model by gain − β · KL, for every β from the same edits: {β: values}, and the first
 * edit as `any`; an invalid edit is taken only where all are. Every other question chooses, the rest and all else of `examine` judge.
 */
export async function bestOfText(world, reference, betas) {
  const { parent, unseen, seed, size, signal } = world;
  const judged = (context) => ({ ...context, report: context.report.filter((_, q) => q % 2 === 1) });
  const asked = unseen.map((context) => ({
    ...context,
    paying: context.report.filter((_, q) => q % 2 === 0),
    report: [],
  }));
  const key = deriveKey(seed, 'forgetting');
  const samples = size.samples.text;
  const write = { prompt: 'implications', maxTokens: size.editTokens, samples, seed: key, signal };
  const written = await writeEdits(parent, asked, write);
  const trials = written.map(({ edit, group, sample }) => {
    return { edit, seed: deriveKey(key, 'adapt', [group, sample]) };
  });
  return withCopies(parent, trials, { ...INNER, signal }, async (copies) => {
    const texts = textsOf(world, 0);
    const rewards = await rewardForks(parent, written, copies, texts, { ...REWARD, beta: 0, signal });
    const chosen = Object.fromEntries(
      betas.map((beta) => [beta, asked.map((_, group) => bestOf(written, rewards, group, beta))]),
    );
    const first = asked.map((_, group) => group * samples);
    const all = [...new Set([...first, ...Object.values(chosen).flat()])];
    const values = await examine(
      all.map((index) => copies[index].fork),
      all.map((index) => judged(unseen[written[index].group])),
      world,
      reference,
    );
    const valuesOf = (indices) => indices.map((index) => values[all.indexOf(index)]);
    return {
      any: valuesOf(first),
      chosen: Object.fromEntries(betas.map((beta) => [beta, valuesOf(chosen[beta])])),
    };
  });
}

function bestOf(written, rewards, group, beta) {
  const worth = ({ parts }, edit) =>
    edit.invalid || !Number.isFinite(parts.gain) ? Number.NEGATIVE_INFINITY : parts.gain - beta * parts.kl;
  const own = [...written.keys()].filter((index) => written[index].group === group);
  return own.reduce((best, index) =>
    worth(rewards[index], written[index].edit) > worth(rewards[best], written[best].edit) ? index : best,
  );
}
