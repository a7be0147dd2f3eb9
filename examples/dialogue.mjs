// A model that learns to remember conversations: it writes notes about one, a copy is trained on the notes, and the copy answers
// messages without the conversation. A judge marks the answers from 0 to 10; without one the local grader compares them with the
// answers that stand beside the messages.
//
//   node examples/dialogue.mjs [--judge http://127.0.0.1:8080/v1 --judge-model NAME] [--model FOLDER|FILE|NAME] [--data FILE]
//                              [--rounds 2] [--edits 4]
//
// The key of the judge is read from the environment variable JUDGE_KEY where it needs one.
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { dialogue, judge, Model, Policy, pull, readDialogues, readTexts, seal } from 'selfedit';

const example = (name) => fileURLToPath(new URL(name, import.meta.url));
const text = { type: 'string' };
const { values: given } = parseArgs({
  options: { judge: text, 'judge-model': text, model: text, data: text, rounds: text, edits: text },
});

const name = given.model ?? 'smollm2-135m-instruct';
const model = await Model.load(existsSync(name) ? name : await pull(name));
const { texts } = await readTexts(example('retention.json'));
const task = dialogue(await readDialogues(given.data ?? example('dialogues.json')), {
  retentionTexts: texts,
});

const grader =
  given.judge === undefined
    ? undefined
    : judge({
        endpoint: given.judge,
        model: given['judge-model'] ?? 'default',
        form: 'rubric',
        ...(process.env.JUDGE_KEY ? { apiKeyVariable: 'JUDGE_KEY' } : {}),
      });
const reward = grader ? { measure: 'judge', graders: [grader] } : { measure: 'local' };
const policy = Policy.create(model, { rank: 8 });
for await (const { round, edits, reward: earned, guards } of seal({
  policy,
  task,
  rounds: Number(given.rounds ?? 2),
  contextsPerRound: 2,
  editsPerContext: Number(given.edits ?? 4),
  edit: { maxTokens: 96 },
  adapt: { rank: 8, alpha: 16, epochs: 4 },
  reward: { ...reward, maxAnswerTokens: 32 },
})) {
  console.log(
    `round ${round + 1}: mean reward ${earned.mean.toFixed(3)}, best ${earned.best.toFixed(3)} of ${edits.length} edits`,
  );
  for (const { message } of guards.alarms) console.log(`  guard: ${message}`);
}
if (grader) console.log(`judge: ${JSON.stringify(grader.statistics())}`);
await policy.close();
await model.close();
