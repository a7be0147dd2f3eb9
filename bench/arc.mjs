// Few-shot adaptation on easy grids: `npm run bench:arc`. Pre-trains a small model, adapts copies of it to tasks that it has not
// seen, by fixed edits, by directives chosen from several, and by those that a trained policy writes. docs/arc.md says what all of
// it means. Killed, it goes on where it was with --resume.
//   --out FOLDER    arc.json; docs/arc by default
//   --model FOLDER  a model that an earlier run has pre-trained (kept there when the folder is new)
//   --data FOLDER   SEAL's evaluation tasks for SmolLM2; ../shared/data/arc by default, left out where it is missing
//   --parts a,b     only these of edits, choice, policy, smollm2; --resume; --quick: a look, whose figures mean nothing
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { doctor, Model } from 'selfedit';
import { chooseDirectives, compareEdits } from './arc/arms.mjs';
import { pretrain } from './arc/model.mjs';
import { trainPolicy } from './arc/policy.mjs';
import { textOf } from './arc/report.mjs';
import { examineSmollm2 } from './arc/smollm2.mjs';
import { tasks } from './arc/world.mjs';

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const FULL = {
  pretraining: 2400,
  tasks: 48,
  choice: 24,
  candidates: 6,
  rounds: 8,
  contexts: 4,
  edits: 4,
  unseen: 24,
};
const QUICK = {
  pretraining: 20,
  tasks: 6,
  choice: 2,
  candidates: 2,
  rounds: 1,
  contexts: 2,
  edits: 2,
  unseen: 2,
};

const log = (line) => console.error(line);

async function main() {
  const text = { type: 'string' };
  const flag = { type: 'boolean' };
  const { values } = parseArgs({
    options: { out: text, model: text, data: text, parts: text, resume: flag, quick: flag },
  });
  const size = values.quick ? QUICK : FULL;
  const out = values.out ?? here('../docs/arc');
  const path = join(out, 'arc.json');
  await mkdir(out, { recursive: true });
  const result = values.resume && existsSync(path) ? JSON.parse(await readFile(path, 'utf8')) : {};
  result.size ??= size;

  const folder = values.model ?? mkdtempSync(join(tmpdir(), 'selfedit-arc-'));
  if (!values.model) process.once('exit', () => rmSync(folder, { recursive: true, force: true }));
  const data = values.data ?? here('../../shared/data/arc');
  const file = (kind) => join(data, `arc-agi_evaluation_${kind}_filtered_1B_eval_set.json`);

  let model;
  const opened = async () => {
    if (!existsSync(join(folder, 'model.safetensors'))) await pretrainedInto(folder, size);
    const told = join(folder, 'pretraining.json');
    if (existsSync(told)) result.pretraining = JSON.parse(await readFile(told, 'utf8'));
    model ??= await Model.load(folder);
    return model;
  };
  const parts = {
    edits: async () => ({
      moves: await compareEdits(await opened(), tasks(1, size.tasks), {}),
      composed: await compareEdits(await opened(), tasks(1, size.tasks / 2, { composed: true }), {}),
    }),
    choice: async () =>
      chooseDirectives(await opened(), tasks(2, size.choice), { count: size.candidates, seed: 2 }),
    policy: async () => {
      const { rounds, contexts, edits } = size;
      const trained = tasks(3, rounds * contexts);
      // Other ids: a task has one role.
      const fresh = tasks(4, size.unseen).map((task) => ({ ...task, id: `9${task.id.slice(1)}` }));
      return trainPolicy(await opened(), trained, fresh, { rounds, contexts, edits, log });
    },
    smollm2: async () => {
      if (values.quick || !existsSync(file('challenges'))) return undefined;
      return examineSmollm2(file('challenges'), file('solutions'), { log });
    },
  };
  const wanted = values.parts?.split(',') ?? Object.keys(parts);
  for (const name of wanted) {
    if (!parts[name]) throw new RangeError(`--parts: "${name}" is none of ${Object.keys(parts).join(', ')}`);
    if (result[name]) continue;
    const start = performance.now();
    const part = await parts[name]();
    if (part === undefined) continue;
    const seconds = Math.round((performance.now() - start) / 1000);
    result[name] = { ...part, seconds };
    const report = await doctor();
    result.versions = {
      selfedit: report.version,
      node: process.version,
      libtorch: report.libtorch?.version ?? null,
      machine: `${cpus()[0]?.model ?? 'unknown'}, ${cpus().length} threads`,
    };
    await writeFile(path, `${JSON.stringify(result, null, 1)}\n`);
    log(`${name}: done in ${seconds} s`);
  }
  await model?.close();
  console.log(textOf(result).join('\n'));
}

async function pretrainedInto(folder, size) {
  const start = performance.now();
  const loss = await pretrain(folder, { steps: size.pretraining, log });
  const last = loss.slice(-50);
  const told = {
    steps: loss.length,
    loss: [loss[0], last.reduce((sum, value) => sum + value, 0) / last.length],
    seconds: Math.round((performance.now() - start) / 1000),
  };
  await writeFile(join(folder, 'pretraining.json'), JSON.stringify(told));
}

await main().catch((error) => {
  console.error(`error: ${error.stack}`);
  process.exitCode = 1;
});
process.exit();
