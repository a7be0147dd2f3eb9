// What one seed of `npm run bench:forgetting` trains and is examined on, and how copies are examined.
import { applyEdits, askForks, EditHead, knowledge, meanDivergence, Policy, score } from 'selfedit';

const average = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

/** The inner loop of text edits and of what weight edits modulate. */
export const INNER = { rank: 16, alpha: 32, epochs: 5, learningRate: 2e-3 };
export const REWARD = { measure: 'likelihood', floor: -3 };

/**
 * A seed's passages by role, drawn by key: `training`, `unseen` (what copies are made for) and `others` (one question each, about
 * passages that no copy is made for). Texts have their own roles: `seen` by reward and loss, `held` out of both.
 */
export function drawWorld({ model, passages, texts, seed, size, signal }) {
  const task = knowledge(passages, {
    seed,
    training: size.training,
    evaluation: size.unseen + size.others,
    retentionTexts: texts,
  });
  // Half of a passage's questions choose among its text edits, half judge.
  const poor = task.evaluation.slice(0, size.unseen).find(({ report }) => report.length < 2);
  if (poor) throw new RangeError(`seed ${seed}: passage "${poor.title}" has 1 question; expected at least 2`);
  const encode = (text) => model.tokenizer.encode(text).subarray(0, size.textTokens);
  const half = Math.floor(texts.length / 2);
  return {
    model,
    seed,
    size,
    signal,
    parent: model.fork(),
    training: task.contexts(0, size.training).map((context) => ({
      ...context,
      paying: context.paying.slice(0, size.questions),
      report: [],
    })),
    unseen: task.evaluation.slice(0, size.unseen).map(({ report, ...context }) => ({
      ...context,
      paying: [],
      report: report.slice(0, 2 * size.questions),
    })),
    others: task.evaluation
      .slice(size.unseen)
      .map((context) => ({ ...context, report: context.report.slice(0, 1) })),
    seen: texts.slice(0, half).map(encode),
    held: texts.slice(half, half + size.held).map(encode),
  };
}

/** Retention texts of a round's loss or reward: the next ones, in order. */
export const textsOf = ({ seen, size }, round) =>
  Array.from({ length: size.seen }, (_, index) => seen[(round * size.seen + index) % seen.length]);

/** Answers' mean log-likelihoods to `report` of each row, nats a token. */
async function likelihoods(rows, { model, signal }) {
  const answered = await askForks(rows, { tokenizer: model.tokenizer, measures: ['likelihood'], signal });
  return answered.map(({ report }) => report.map(({ scores }) => scores.likelihood));
}

/** Loss of each text, nats a token, for each fork. */
async function textLosses(forks, { held, signal }) {
  const rows = forks.flatMap((fork) => held.map((tokens) => ({ fork, tokens })));
  const scored = await score(rows, { signal });
  const losses = scored.map((row) => -average([...row.subarray(1)]));
  return forks.map((_, index) => losses.slice(index * held.length, (index + 1) * held.length));
}

/** What the unedited model gives: the other side of every difference. */
export async function referenceOf(world) {
  const { parent, unseen, others } = world;
  return {
    unseen: await likelihoods(
      unseen.map((context) => ({ fork: parent, context })),
      world,
    ),
    others: await likelihoods(
      others.map((context) => ({ fork: parent, context })),
      world,
    ),
    texts: (await textLosses([parent], world))[0],
  };
}

/**
 * Examines copies, `forks[i]` made for `contexts[i]`: {gain, kl, text, other} each. `gain` of the answers' log-likelihood over the
 * unedited model; `kl` of KL(edited ‖ unedited) on held-out texts; what was forgotten: the rise of the loss of those
 * texts, `text`, and of the gold answers about other passages, `other`. Nats a token throughout.
 */
export async function examine(forks, contexts, world, reference) {
  const { parent, unseen, others, held, signal } = world;
  const own = await likelihoods(
    forks.map((fork, index) => ({ fork, context: contexts[index] })),
    world,
  );
  const about = await likelihoods(
    forks.flatMap((fork) => others.map((context) => ({ fork, context }))),
    world,
  );
  const losses = await textLosses(forks, world);
  const divergences = await meanDivergence(forks, parent, held, { signal });
  return forks.map((_, index) => {
    const ids = new Set(contexts[index].report.map(({ id }) => id));
    const at = unseen.findIndex(({ id }) => id === contexts[index].id);
    const before = reference.unseen[at].filter((_value, q) => ids.has(unseen[at].report[q].id));
    const elsewhere = about.slice(index * others.length, (index + 1) * others.length).flat();
    return {
      gain: average(own[index]) - average(before),
      kl: divergences[index],
      text: average(losses[index]) - average(reference.texts),
      other: average(reference.others.flat()) - average(elsewhere),
    };
  });
}

/** The contexts as an edit head reads them, and the noise; read once a seed, as neither depends on training. */
export async function readWorld(world) {
  const { model, parent, training, unseen, seed, size, signal } = world;
  const policy = Policy.create(model, { rank: 1 });
  const head = await EditHead.create(policy, { space: 'modulated', adapt: INNER });
  const readings = await head.read([...training, ...unseen], { parent, seed, signal });
  const own = readings.slice(0, training.length);
  await head.calibrate(own, textsOf(world, 0), { parent, kl: 0.02, seed, signal });
  const { noise } = head;
  await head.close();
  return {
    policy,
    noise,
    training: own,
    unseen: readings.slice(training.length),
    /** Readings of round r's contexts. */
    of: (round) =>
      Array.from({ length: size.contexts }, (_, index) => own[(round * size.contexts + index) % own.length]),
    async close() {
      for (const reading of readings) await reading.close();
      await policy.close();
    },
  };
}

/** Runs `work` with copies of `parent` that edits were applied to, and closes them. */
export async function withCopies(parent, edits, options, work) {
  const copies = await applyEdits(parent, edits, options);
  try {
    return await work(copies);
  } finally {
    for (const copy of copies) await copy.close();
  }
}
