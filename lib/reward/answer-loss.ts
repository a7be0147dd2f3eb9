/** The loss that flows back through an applied weight edit: answers become likely, everything else stays. */
import type { WeightLoss, WeightObjective } from '../algorithm/weight-algorithm.js';
import type { Delta } from '../delta.js';
import type { PromptForm } from '../edit/prompts.js';
import type { WrittenWeightEdit } from '../edit/weight.js';
import type { EditHead } from '../edit-head.js';
import { makeError } from '../errors.js';
import type { Fork } from '../fork.js';
import { type GradientRow, gradient } from '../gradient.js';
import type { CallOptions } from '../native-job.js';
import { type TokenInput, toTokens } from '../rows.js';
import type { TaskContext } from '../task/task.js';
import { QUESTION_TEMPLATE, type QuestionTemplate, renderQuestion } from './question.js';

export interface AnswerLossOptions extends Pick<CallOptions, 'signal'> {
  /** What the edits are applied to, and compared with. */
  parent: Fork;
  /** Texts that no edit has seen. */
  retention?: readonly TokenInput[];
  /** λ: weight of KL(edited ‖ unedited) on them, nats a token. 0.1; 0 without texts. */
  lambda?: number;
  form?: PromptForm;
  question?: QuestionTemplate;
  /** Edits whose gradients are held at once: bounds memory where a space is dense. 8. */
  atOnce?: number;
}

/**
 * L = −mean over the paying questions of the gold answer's mean log-likelihood (nats a token) + λ · mean KL(edited ‖
 * unedited), over the full vocabulary at every position of the retention texts; and its gradient, back through the model and
 * the edit into the vector. The contexts' questions are asked as `ask` does. Errors: `OPTION_INVALID` for a negative λ, or
 * one without texts; `INPUT_INVALID` for a context without a question that pays.
 */
export function answerLoss(head: EditHead, options: AnswerLossOptions): WeightObjective {
  const {
    parent,
    retention = [],
    lambda = retention.length > 0 ? 0.1 : 0,
    form = 'auto',
    atOnce = 8,
  } = options;
  if (!(lambda >= 0 && Number.isFinite(lambda))) {
    throw makeError('OPTION_INVALID', `lambda is ${lambda}; expected a number of at least 0`);
  }
  if (lambda > 0 && retention.length === 0) {
    throw makeError(
      'OPTION_INVALID',
      `lambda is ${lambda} but there are no retention texts; expected at least 1`,
    );
  }
  if (!Number.isInteger(atOnce) || atOnce < 1) {
    throw makeError('OPTION_INVALID', `atOnce is ${atOnce}; expected a whole number of at least 1`);
  }
  const { tokenizer } = parent.model;
  const texts = (lambda > 0 ? retention : []).map((text, index) =>
    toTokens(parent.model, text, `retention text ${index}`),
  );
  const positions = texts.reduce((sum, text) => sum + text.length, 0);

  /** Rows of one edit: its questions with their answers, then the texts. */
  const rowsOf = (fork: Fork, context: TaskContext): GradientRow[] => {
    const { title, paying } = context;
    if (paying.length === 0) {
      throw makeError('INPUT_INVALID', `context "${title}" has no question that pays; expected at least one`);
    }
    const asked = paying.map(({ question, answers }) => {
      const prompt = renderQuestion(
        { title, question },
        tokenizer,
        form,
        options.question ?? QUESTION_TEMPLATE,
      );
      const answer = tokenizer.encode(answers[0]!, { specialTokens: false });
      const tokens = Int32Array.of(...prompt, ...answer);
      const weights = new Float32Array(tokens.length);
      weights.fill(-1 / (paying.length * answer.length), prompt.length);
      return { fork, tokens, weights };
    });
    const compared = texts.map((tokens) => {
      const klWeights = new Float32Array(tokens.length).fill(lambda / positions);
      return { fork, tokens, reference: parent, klWeights };
    });
    return [...asked, ...compared];
  };

  return async (edits) => {
    const parts: (WeightLoss & { likelihood: number; kl: number })[] = [];
    for (let begin = 0; begin < edits.length; begin += atOnce) {
      parts.push(await lossOf(edits.slice(begin, begin + atOnce) as WrittenWeightEdit<TaskContext>[]));
    }
    const basis = parts[0]?.basis?.slice();
    for (const part of parts.slice(1)) {
      part.basis!.forEach((value, index) => {
        basis![index]! += value;
      });
    }
    const sum = (of: 'likelihood' | 'kl') =>
      parts.reduce((total, part) => total + part[of], 0) / edits.length;
    return {
      losses: parts.flatMap(({ losses }) => losses),
      gradients: parts.flatMap(({ gradients }) => gradients),
      ...(basis ? { basis } : {}),
      figures: { likelihood: sum('likelihood'), kl: texts.length > 0 ? sum('kl') : Number.NaN },
    };
  };

  async function lossOf(edits: readonly WrittenWeightEdit<TaskContext>[]) {
    const forks: Fork[] = [];
    const deltas: Delta[] = [];
    try {
      for (const { edit } of edits) {
        const fork = parent.fork();
        forks.push(fork);
        fork.apply(edit);
      }
      const rows = edits.map(({ context }, index) => rowsOf(forks[index]!, context));
      const found = await gradient(rows.flat(), { signal: options.signal });
      deltas.push(...found.gradients.map(({ gradient: delta }) => delta));
      const { vectors, basis } = await head.pullBack(edits, deltas, { signal: options.signal });
      let next = 0;
      const terms = rows.map((own) => {
        let likelihood = 0;
        let kl = 0;
        for (const { weights, klWeights } of own) {
          likelihood -= dot(weights, found.logprobs[next]!);
          kl += dot(klWeights, found.divergences[next]!);
          next++;
        }
        return { likelihood, kl: lambda > 0 ? kl / lambda : 0, loss: kl - likelihood };
      });
      return {
        losses: terms.map(({ loss }) => loss),
        gradients: vectors,
        basis,
        likelihood: terms.reduce((sum, term) => sum + term.likelihood, 0),
        kl: terms.reduce((sum, term) => sum + term.kl, 0),
      };
    } finally {
      for (const resource of [...forks, ...deltas]) await resource.close();
    }
  }
}

function dot(weights: Float32Array | undefined, values: Float32Array): number {
  if (!weights) return 0;
  return weights.reduce((sum, weight, index) => (weight === 0 ? sum : sum + weight * values[index]!), 0);
}
