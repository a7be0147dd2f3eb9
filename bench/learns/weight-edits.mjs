// One method over weight edits, one seed: trains an edit head, examines it on unseen contexts along the way.
import { applyEdits, deriveKey, EditHead, Policy, seal } from 'selfedit';
import { examineForks, learn, loopOf } from './examine.mjs';
import { ADAPT } from './text-edits.mjs';
import { EDIT } from './world.mjs';

/** An inner loop that ends too early, for the space that makes the most of it. */
const SHORT = { ...ADAPT, epochs: 4 };
/** Every linear map of the layers; entries a matrix, where the space leaves a choice. */
const SPACES = {
  modulated: { adapt: SHORT },
  gradient: {},
  sparse: { size: 32 },
  spectral: { size: 16 },
};
const NOISE_KL = 0.02;

/**
 * What `learn` returns, for the scores of the questions about unseen contexts after the mean edit of the trained and of the
 * untrained head, made from the same material; and `alike`, the mean score when the trained head emits the same vector whatever the
 * context. Only the head is trained; the model that it reads and edits is the base model.
 */
export async function trainWeightEdits(world, method) {
  const { model, seed } = world;
  const { targets, ...space } = { targets: ADAPT.targets, ...SPACES[method.space] };
  const policy = Policy.create(model, { rank: 1, seed });
  let head;
  try {
    const reading = { prompt: EDIT.prompt, form: EDIT.form, cacheDir: null };
    head = await EditHead.create(policy, { ...reading, ...space, space: method.space, targets, seed });
    const loop = seal({ ...loopOf(world, method), head, noiseKl: NOISE_KL });
    const run = await learn(loop, () => examineHead(head, world), world);
    const { mean } = await examineHead(head, world, averageOf);
    return { ...run, alike: mean };
  } finally {
    await head?.close();
    await policy.close();
  }
}

/** The mean of vectors in the place of each. */
export function averageOf(vectors) {
  const mean = vectors[0].map((_, entry) => {
    return vectors.reduce((sum, vector) => sum + vector[entry], 0) / vectors.length;
  });
  return vectors.map(() => mean);
}

/** The mean edit for every unseen context, or what `change` makes of their vectors. */
async function examineHead(head, { model, task, seed, signal }, change = (vectors) => vectors) {
  const parent = model.fork();
  let readings = [];
  let copies = [];
  try {
    const key = deriveKey(seed, 'examination');
    readings = await head.read(task.evaluation, { parent, seed: key, signal });
    const edits = await head.compose(readings, change(head.means(readings)), { signal });
    const owned = edits.map((edit) => ({ edit, close: () => edit.delta.close() }));
    copies = await applyEdits(parent, owned);
    const forks = copies.map(({ fork }) => fork);
    return await examineForks(forks, parent, task, { signal });
  } finally {
    for (const copy of copies) await copy.close();
    for (const reading of readings) await reading.close();
    await parent.close();
  }
}
