/** The loss that flows back through an applied weight edit: answers become likely, everything else stays. */

import type { WeightObjective } from '../algorithm/weight-algorithm.js';
import { average } from '../average.js';
import type { Delta } from '../delta.js';
import type { PromptForm } from '../edit/prompts.js';
import type { WrittenWeightEdit } from '../edit/weight.js';
import type { EditHead } from '../edit-head.js';
import { isOverflow, makeError } from '../errors.js';
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

/** Of edits whose gradients were taken together: the terms of each, undefined where it overflows. */
interface Part {
  readonly terms: readonly (
    | {
        readonly loss: number;
        readonly gradient: Float32Array;
        readonly likelihood: number;
        readonly kl: number;
      }
    | undefined
  )[];
  /** dLoss/dbasis, summed. */
  readonly basis?: Float32Array;
}

/**
 * L = −mean over the paying questions of the gold answer's mean log-likelihood (nats a token) + λ · mean KL(edited ‖
 * unedited), over the full vocabulary at every position of the retention texts; and its gradient, back through the model and
 * the edit into the vector. The contexts' questions are asked as `ask` does. An edit whose loss, or the square of whose gradient, is no finite
 * float32 has none (`WeightLoss`); the others do not notice. Errors: `OPTION_INVALID` for a negative λ, or one without texts;
 * `INPUT_INVALID` for a context without a question that pays.
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
    const parts: Part[] = [];
    for (let begin = 0; begin < edits.length; begin += atOnce) {
      parts.push(...(await partsOf(edits.slice(begin, begin + atOnce) as WrittenWeightEdit<TaskContext>[])));
    }
    const terms = parts.flatMap((part) => part.terms);
    const kept = terms.filter((term) => term !== undefined);
    const [first, ...rest] = parts.flatMap(({ basis }) => (basis ? [basis] : []));
    const basis = first?.slice();
    for (const part of rest) {
      part.forEach((value, index) => {
        basis![index]! += value;
      });
    }
    const mean = (of: 'likelihood' | 'kl') => average(kept.map((term) => term[of]));
    return {
      losses: terms.map((term) => term?.loss ?? Number.NaN),
      gradients: terms.map((term) => term?.gradient),
      ...(basis ? { basis } : {}),
      figures: { likelihood: mean('likelihood'), kl: texts.length > 0 ? mean('kl') : Number.NaN },
    };
  };

  // One edit that overflows fails the whole call. The others do not depend on it, so each alone gives what all together
  // would have given, and shows which one it was.
  async function partsOf(edits: readonly WrittenWeightEdit<TaskContext>[]): Promise<Part[]> {
    try {
      const part = await partOf(edits);
      if (part.terms.every((term) => learnable(term!))) return [part];
    } catch (error) {
      if (!isOverflow(error)) throw error;
    }
    if (edits.length === 1) return [{ terms: [undefined] }];
    const parts: Part[] = [];
    for (const edit of edits) parts.push(...(await partsOf([edit])));
    return parts;
  }

  async function partOf(edits: readonly WrittenWeightEdit<TaskContext>[]): Promise<Part> {
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
      const terms = rows.map((own, index) => {
        let likelihood = 0;
        let kl = 0;
        for (const { weights, klWeights } of own) {
          likelihood -= dot(weights, found.logprobs[next]!);
          kl += dot(klWeights, found.divergences[next]!);
          next++;
        }
        const loss = kl - likelihood;
        return { loss, gradient: vectors[index]!, likelihood, kl: lambda > 0 ? kl / lambda : 0 };
      });
      return { terms, basis };
    } finally {
      for (const resource of [...forks, ...deltas]) await resource.close();
    }
  }
}

/** Whether the optimizer can take it: the square of a gradient, which it averages, must be a float32. */
function learnable({ loss, gradient }: { loss: number; gradient: Float32Array }): boolean {
  return Number.isFinite(loss) && Number.isFinite(Math.fround(gradient.reduce((sum, x) => sum + x * x, 0)));
}

function dot(weights: Float32Array | undefined, values: Float32Array): number {
  if (!weights) return 0;
  return weights.reduce((sum, weight, index) => (weight === 0 ? sum : sum + weight * values[index]!), 0);
}
