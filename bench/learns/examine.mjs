// What all methods are trained and examined by: the reward, the control's reward, and the questions about unseen contexts.
import { askForks, deriveKey, divergence, uniform } from 'selfedit';
import { QUESTION } from './world.mjs';

const REWARD = {
  measure: 'likelihood',
  report: [],
  beta: 0.1,
  retentionTexts: 2,
  form: 'base',
  question: QUESTION,
  floor: -3,
};

export const average = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

/**
 * Examines copies of `parent`, one for each unseen context: {scores, exact: contexts × questions, mean, kl}. `scores` are the
 * answers' log-likelihoods in nats (an answer is one token), `mean` is their mean; `exact` is 1 where the likeliest token is the answer;
 * `kl` is KL(copy ‖ parent) on texts that no reward is taken from, nats a token.
 */
export async function examineForks(forks, parent, { evaluation, unseenTexts }, { signal } = {}) {
  const rows = forks.map((fork, index) => ({ fork, context: evaluation[index] }));
  const answers = await askForks(rows, {
    tokenizer: parent.model.tokenizer,
    measures: ['likelihood', 'exact'],
    form: 'base',
    template: QUESTION,
    maxAnswerTokens: 1,
    signal,
  });
  const by = (measure) => answers.map(({ report }) => report.map(({ scores }) => scores[measure]));
  const texts = forks.flatMap((fork) => unseenTexts.map((tokens) => ({ fork, reference: parent, tokens })));
  const kl = (await divergence(texts, { signal })).flatMap((row) => Array.from(row));
  const scores = by('likelihood');
  return { scores, exact: by('exact'), mean: average(scores.flat()), kl: average(kl) };
}

/** What `seal` is given for either kind of edit. */
export function loopOf({ task, seed, rounds, contexts, signal }, method) {
  const algorithm = method.algorithm();
  return {
    task,
    rounds,
    seed,
    contextsPerRound: contexts,
    editsPerContext: 4,
    adaptFrom: 'base',
    reward: REWARD,
    algorithm: method.randomReward ? withRandomReward(algorithm) : algorithm,
    signal,
  };
}

/**
 * Runs `loop` to its end and examines before it, every `examine` rounds and after it. Returns {curve: [[round, mean score,
 * share of exact answers]], trained, untrained: scores, exact, kl: {trained, untrained}}, and `lines` where there are any.
 */
export async function learn(loop, examination, { rounds, examine }) {
  const pointOf = (round, { mean, exact }) => [round, mean, average(exact.flat())];
  const first = await examination();
  const curve = [pointOf(0, first)];
  let last = first;
  for await (const { round } of loop) {
    if ((round + 1) % examine !== 0 && round + 1 !== rounds) continue;
    last = await examination();
    curve.push(pointOf(round + 1, last));
  }
  const both = (of) => ({ untrained: of(first), trained: of(last) });
  return {
    curve,
    ...both(({ scores }) => scores),
    exact: both(({ exact }) => exact),
    kl: both(({ kl }) => kl),
    ...(first.lines ? { lines: both(({ lines }) => lines) } : {}),
  };
}

/** The control: everything the same, but the rewards say nothing about the edits. For algorithms of either kind. */
function withRandomReward(algorithm) {
  return {
    ...algorithm,
    update: (learner, edits, ...rest) => {
      // Text edits carry their rewards, weight edits have them beside.
      const context = rest.at(-1);
      const draws = uniform(deriveKey(context.seed, 'random reward', [context.round]), edits.length);
      const random = Array.from(draws, (reward) => ({ reward }));
      return rest.length > 1
        ? algorithm.update(learner, edits, random, context)
        : algorithm.update(
            learner,
            edits.map((rollout, index) => ({ ...rollout, ...random[index] })),
            context,
          );
    },
  };
}
