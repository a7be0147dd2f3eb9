// What this project makes of recorded verdicts.
import { chooseEdits, local, meanReward, reliability, shapeReward } from 'selfedit';

const SHAPE = { beta: 0, floor: -1 };

/** Verdicts of one training of an edit: a list a repeat, in the order of `rep`. */
function repeatsOf({ questions }) {
  const repeats = new Map();
  for (const question of questions) {
    repeats.set(question.rep, [...(repeats.get(question.rep) ?? []), question]);
  }
  return [...repeats.keys()].sort((a, b) => a - b).map((rep) => repeats.get(rep));
}

/** The reward of an edit, mean over its trainings. `score(question, side)` is 0 or 1. */
function rewardOf(completion, score, round = (scores) => scores) {
  const trials = repeatsOf(completion).map((questions) =>
    shapeReward(
      {
        edited: round(questions.map((question) => score(question, 'adapter'))),
        unedited: round(questions.map((question) => score(question, 'baseline'))),
        kl: Number.NaN,
      },
      SHAPE,
    ),
  );
  return { ...meanReward(trials), trials };
}

const average = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
/** As the recording keeps a share: one number of four digits. */
const fourDigits = (scores) => [Math.round(average(scores) * 1e4) / 1e4];
const VERDICTS = (question, side) => (question[`${side}_correct`] ? 1 : 0);
const LOCAL = (question, side) =>
  local(question[`${side}_answer`], [question.answer], question.question) >= 2 / 3 ? 1 : 0;

/** Rewards [article][edit], the choice of each article, and the reliability. */
function judged(articles, score, round) {
  const rewards = articles.map(({ completions }) =>
    completions.map((completion) => rewardOf(completion, score, round)),
  );
  const edits = rewards.flatMap((own, group) => own.map(({ reward }, edit) => ({ group, reward, edit })));
  return {
    rewards,
    chosen: chooseEdits(edits).map(({ edit }) => edit),
    ties: rewards.filter((own) => {
      const best = Math.max(...own.map(({ reward }) => reward));
      // Sums of thirds differ in their last bits.
      return own.filter(({ reward }) => reward > best - 1e-9).length > 1;
    }).length,
    reliability: reliability(
      rewards.flatMap((own, context) =>
        own.flatMap(({ trials }, edit) =>
          trials.map(({ reward }) => ({ context: `${context}`, edit: `${edit}`, reward })),
        ),
      ),
      { seeds: [1, 3] },
    ),
  };
}

/** All that is compared: from the verdicts, from shares of four digits, and with the local grader in the judge's place. */
export function replay({ articles }) {
  const verdicts = articles.flatMap(({ completions }) => completions.flatMap((one) => repeatsOf(one)));
  return {
    exact: judged(articles, VERDICTS),
    rounded: judged(articles, VERDICTS, fourDigits),
    local: judged(articles, LOCAL),
    answers: 2 * verdicts.flat().length,
    flips: flipsOf(articles),
    baselines: articles.filter(
      ({ completions }) =>
        new Set(
          completions
            .flatMap(repeatsOf)
            .map((questions) => JSON.stringify(questions.map(({ baseline_correct: right }) => right))),
        ).size === 1,
    ).length,
  };
}

/** Share of edits' questions whose verdict is not the same under all seeds. */
function flipsOf(articles) {
  const questions = articles.flatMap(({ completions }) =>
    completions.flatMap((completion) => {
      const [first, ...others] = repeatsOf(completion);
      return first.map(({ adapter_correct: right }, q) =>
        others.some((repeat) => repeat[q].adapter_correct !== right) ? 1 : 0,
      );
    }),
  );
  return average(questions);
}
