/**
 * SEAL in ten lines: the policy writes edits about what it reads, each edit changes a copy of the model, the copy is
 * asked questions without the text, and PPO teaches the policy to write edits that help. `seal()` does the same with
 * more care (cached baselines, repeats, journals); `selfedit train` runs it from a file. With `--edit weights` the edit is
 * the weight change itself, which an edit head emits (docs/weight-edits.md).
 *
 *   node loop.js [--edit text|weights] [model folder or .gguf] [passages.json]
 */
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import {
  type Applicable,
  applyEdits,
  EditHead,
  type Fork,
  type ForkReward,
  knowledge,
  Model,
  Policy,
  ppo,
  pull,
  type RewardRow,
  readPassages,
  readTexts,
  rewardForks,
  type TaskContext,
  toRollouts,
  type UpdateStatistics,
  weightPpo,
  writeEdits,
} from 'selfedit';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { edit: { type: 'string', default: 'text' } },
});
const [modelPath, passagesPath] = positionals;
const example = (name: string) =>
  fileURLToPath(new URL(`examples/${name}`, import.meta.resolve('selfedit/package.json')));
const model = await Model.load(modelPath ?? (await pull('smollm2-135m-instruct')));
const { passages } = await readPassages(passagesPath ?? example('corpus.json'));
const { texts } = await readTexts(example('retention.json'));
const task = knowledge(passages, { retentionTexts: texts });
const retention = task.retention.slice(0, 1);
const inner = { rank: 8, alpha: 16, epochs: 2 };
const policy = Policy.create(model, { rank: 8 });

async function loop<Edit extends Applicable & RewardRow>(
  write: (parent: Fork, contexts: readonly TaskContext[], round: number) => Promise<Edit[]>,
  learn: (edits: Edit[], rewards: ForkReward[], round: number) => Promise<UpdateStatistics>,
): Promise<void> {
  for (let round = 0; round < 2; round++) {
    await using parent = policy.fork();
    const contexts = task.contexts(round, 2);
    const edits = await write(parent, contexts, round); // generate
    const copies = await applyEdits(parent, edits, inner); // apply to copies
    const rewards = await rewardForks(parent, edits, copies, retention); // evaluate the copies
    const { rewardMean } = await learn(edits, rewards, round); // learn
    for (const copy of copies) await copy.close();
    console.log(`round ${round + 1}: mean reward ${Number(rewardMean).toFixed(3)} of ${edits.length} edits`);
  }
}

if (values.edit === 'weights') {
  await using head = await EditHead.create(policy, { space: 'modulated', adapt: inner });
  const algorithm = weightPpo();
  await loop(
    async (parent, contexts, round) => {
      const readings = await head.read(contexts, { parent, round });
      await head.calibrate(readings, retention, { parent });
      return head.write(readings, { samples: 4, round });
    },
    async (edits, rewards, round) => {
      const statistics = await algorithm.update(head, edits, rewards, { round });
      for (const { reading } of edits) await reading.close(); // shared by a context's edits; closing again does nothing
      return statistics;
    },
  );
} else {
  const algorithm = ppo({ epochs: 1, maxTokens: 64 });
  await loop(
    (parent, contexts, round) => writeEdits(parent, contexts, { samples: 3, maxTokens: 64, round }),
    (edits, rewards, round) => algorithm.update(policy, toRollouts(edits, rewards), { round }),
  );
}
await policy.close();
await model.close();
