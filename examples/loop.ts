/**
 * SEAL in ten lines: the policy writes edits about what it reads, each edit changes a copy of the model, the copy is
 * asked questions without the text, and PPO teaches the policy to write edits that help. `seal()` does the same with
 * more care (cached baselines, repeats, journals); `selfedit train` runs it from a file.
 *
 *   node loop.js [model folder or .gguf] [passages.json]
 */
import { fileURLToPath } from 'node:url';
import {
  applyEdits,
  knowledge,
  Model,
  Policy,
  ppo,
  pull,
  readPassages,
  readTexts,
  rewardForks,
  toRollouts,
  writeEdits,
} from 'selfedit';

const [modelPath, passagesPath] = process.argv.slice(2);
const example = (name: string) =>
  fileURLToPath(new URL(`examples/${name}`, import.meta.resolve('selfedit/package.json')));
const model = await Model.load(modelPath ?? (await pull('smollm2-135m-instruct')));
const { passages } = await readPassages(passagesPath ?? example('corpus.json'));
const { texts } = await readTexts(example('retention.json'));
const task = knowledge(passages, { retentionTexts: texts });

const policy = Policy.create(model, { rank: 8 });
const algorithm = ppo({ epochs: 1, maxTokens: 64 });
for (let round = 0; round < 2; round++) {
  await using parent = policy.fork();
  const contexts = task.contexts(round, 2);
  const edits = await writeEdits(parent, contexts, { samples: 3, maxTokens: 64, round }); // generate
  const copies = await applyEdits(parent, edits, { rank: 8, alpha: 16, epochs: 2 }); // apply to copies
  const rewards = await rewardForks(parent, edits, copies, task.retention.slice(0, 1)); // evaluate the copies
  const { rewardMean } = await algorithm.update(policy, toRollouts(edits, rewards), { round }); // learn
  for (const copy of copies) await copy.close();
  console.log(`round ${round + 1}: mean reward ${Number(rewardMean).toFixed(3)} of ${edits.length} edits`);
}
await policy.close();
await model.close();
