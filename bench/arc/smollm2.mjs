// SmolLM2-135M-Instruct on SEAL's ten evaluation tasks: as it is, and after training on the smaller ones' demonstrations.
import { applyEdits, arc, Model, pull, readArc, wilson } from 'selfedit';

/** Digits without gaps: a token a cell. */
const FORM = {
  instruction:
    'Find the rule that turns each input grid into its output grid, and apply it to the last input.\n\n',
  input: 'Input:\n',
  output: '\nOutput:\n',
  end: '#',
  separator: '\n\n',
  gap: '',
};
/** The published inner loop, but rank 32 and a learning rate for a tenth of the steps. */
const ADAPT = {
  rank: 32,
  alpha: 32,
  targets: ['q_proj', 'v_proj', 'gate_proj', 'up_proj', 'down_proj'],
  batchSize: 2,
  schedule: 'cosine',
  warmupSteps: 2,
};
const EDIT = JSON.stringify({ augmentations: ['basic'], learningRate: 0.001, epochs: 1, loss: 'output' });
const EXAMPLES = { most: 24, leaveOut: [1] };

const average = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

/** `cells`: most cells of all demonstrations of a task that is trained on; time. */
export async function examineSmollm2(
  challenges,
  solutions,
  { cells = 500, views = ['identity', 'transpose', 'flipRows', 'flipColumns'], signal, log },
) {
  const tasks = await readArc(challenges, solutions);
  const few = arc(tasks, { form: FORM, examples: EXAMPLES, symmetries: views });
  const model = await Model.load(await pull('smollm2-135m-instruct'), { dtype: 'bfloat16' });
  const parent = model.fork();
  const rows = [];
  try {
    for (const context of few.contexts(0, tasks.length)) {
      const start = performance.now();
      const task = tasks.find(({ id }) => id === context.id);
      const size = task.demonstrations.flatMap(({ input, output }) => [...input, ...output]).flat().length;
      const [answers] = await few.ask([{ fork: parent, context }], { signal });
      const row = { id: context.id, cells: size, inContext: answers.paying.map(({ scores }) => scores) };
      if (size <= cells) {
        const edit = few.parse(EDIT, context);
        const [copy] = await applyEdits(parent, [edit], { ...ADAPT, signal });
        const [adapted] = await few.ask([{ fork: copy.fork, context }], { signal });
        row.adapted = adapted.paying.map(({ scores }) => scores);
        row.documents = edit.documents.length;
        row.steps = copy.loss.length;
        row.loss = [copy.loss[0], copy.loss.at(-1)];
        await copy.close();
      }
      row.seconds = Math.round((performance.now() - start) / 1000);
      log(`SmolLM2 ${JSON.stringify(row)}`);
      rows.push(row);
    }
  } finally {
    await parent.close();
    await model.close();
  }
  const summary = (some, part) => {
    const solved = some.filter((row) => row[part][0].solved === 1).length;
    const { mean, low, high } = wilson(solved, some.length);
    const of = (measure) => average(some.flatMap((row) => row[part].map((scores) => scores[measure])));
    return { n: some.length, solved: { mean, low, high }, cells: of('cells'), likelihood: of('likelihood') };
  };
  const trained = rows.filter(({ adapted }) => adapted);
  return {
    views,
    edit: JSON.parse(EDIT),
    adapt: ADAPT,
    all: summary(rows, 'inContext'),
    ...(trained.length > 0
      ? { before: summary(trained, 'inContext'), after: summary(trained, 'adapted') }
      : {}),
    rows,
  };
}
