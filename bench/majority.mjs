// Is the majority of a model's own samples right? Votes on questions with known answers, with the book closed and open, beside the
// greedy answer and single samples: `node bench/majority.mjs --data passages.json`.
//   --model NAME|FOLDER|FILE   smollm2-135m-instruct by default;  --data FILE  passages with questions
//   --questions 60  --samples 32  --temperature 1  --tokens 32  --seed 0;  --out FILE  the figures as JSON
import { writeFile } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import {
  ask,
  bootstrapMean,
  deriveKey,
  exact,
  LOCAL_RIGHT,
  local,
  Model,
  majority,
  permutation,
  pull,
  readPassages,
  voteFigures,
} from 'selfedit';

const { values } = parseArgs({
  options: {
    model: { type: 'string', default: 'smollm2-135m-instruct' },
    data: { type: 'string' },
    questions: { type: 'string', default: '60' },
    samples: { type: 'string', default: '32' },
    tokens: { type: 'string', default: '32' },
    temperature: { type: 'string', default: '1' },
    seed: { type: 'string', default: '0' },
    out: { type: 'string' },
  },
});
const seed = Number(values.seed);
const { passages } = await readPassages(values.data);
const all = passages.flatMap(({ title, context, questions }, passage) =>
  questions.map((question, index) => ({ title, context, passage, id: `${passage}.${index}`, ...question })),
);
const order = permutation(deriveKey(seed, 'majority bench'), all.length).subarray(
  0,
  Number(values.questions),
);
const asked = Array.from(order, (index) => all[index]);

const path = values.model === 'smollm2-135m-instruct' ? await pull(values.model) : values.model;
const model = await Model.load(path);

/** Share that is right, with its interval over passages; by exact match, and by the local grader of free answers. */
function accuracy(rows) {
  const byPassage = new Map();
  for (const row of rows) {
    const { passage } = row.question;
    byPassage.set(passage, [...(byPassage.get(passage) ?? []), row]);
  }
  const share = (right) => {
    if (rows.length === 0) return null;
    const groups = [...byPassage.values()].map((group) => group.map(right));
    const { mean, low, high } = bootstrapMean(groups, { key: deriveKey(seed, 'interval') });
    return { mean, low, high };
  };
  return {
    n: rows.length,
    exact: share(({ answer, question }) => exact(answer, question.answers)),
    local: share(({ answer, question }) =>
      local(answer, question.answers, question.question) >= LOCAL_RIGHT ? 1 : 0,
    ),
  };
}

const results = {};
for (const book of ['closed', 'open']) {
  const passageOf = (question) => (book === 'open' ? question.context : undefined);
  const start = performance.now();
  const votes = await majority(
    asked.map((question) => ({
      fork: model,
      id: question.id,
      title: question.title,
      question: question.question,
      passage: passageOf(question),
    })),
    {
      samples: Number(values.samples),
      temperature: Number(values.temperature),
      maxTokens: Number(values.tokens),
      seed,
    },
  );
  const seconds = (performance.now() - start) / 1000;
  const greedy = await ask(
    asked.map((question) => {
      const text = book === 'open' ? `${question.context.trim()}\n\n${question.question}` : question.question;
      return {
        fork: model,
        title: question.title,
        question: { id: question.id, question: text, answers: question.answers },
      };
    }),
    { tokenizer: model.tokenizer, measures: ['exact'], stop: ['\n'], maxAnswerTokens: Number(values.tokens) },
  );
  const label = votes.map((vote, index) => ({ ...vote, answer: vote.label ?? '', question: asked[index] }));
  results[book] = {
    seconds,
    ...voteFigures(label.map((vote) => ({ ...vote, question: vote.question.question }))),
    greedy: accuracy(greedy.map(({ answer }, index) => ({ answer, question: asked[index] }))),
    sample: accuracy(label.flatMap(({ texts, question }) => texts.map((answer) => ({ answer, question })))),
    majority: accuracy(label),
    byAgreement: [0, 0.25, 0.5, 0.75].map((least) => ({
      least,
      ...accuracy(
        label.filter(
          ({ agreement }) => agreement >= least && agreement < least + 0.25 + (least === 0.75 ? 1 : 0),
        ),
      ),
    })),
  };
  const percent = (share) =>
    share
      ? `${(100 * share.mean).toFixed(0)} % [${(100 * share.low).toFixed(0)}, ${(100 * share.high).toFixed(0)}]`
      : '–';
  console.log(
    `${book} book: agreement ${results[book].agreement.toFixed(2)}, ${results[book].labels} labels for ${results[book].questions} questions, ${seconds.toFixed(0)} s`,
  );
  for (const name of ['greedy', 'sample', 'majority']) {
    const { n, exact: strict, local: free } = results[book][name];
    console.log(`  ${name.padEnd(9)} n ${n}  exact ${percent(strict)}  local ${percent(free)}`);
  }
  for (const { least, n, exact: strict, local: free } of results[book].byAgreement) {
    console.log(`  agreement from ${least}: n ${n}  exact ${percent(strict)}  local ${percent(free)}`);
  }
}
if (values.out) await writeFile(values.out, `${JSON.stringify({ options: values, results }, null, 1)}\n`);
await model.close();
