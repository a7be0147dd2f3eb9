/**
 * The demo: a small model learns to write self-edits about passages that nobody has ever read, within a few minutes on
 * two cores, and a table says what that did to questions about passages that training never showed.
 */
import { join } from 'node:path';
import { type Comparison, compareMethods } from './compare.js';
import { comparisonText } from './comparison-text.js';
import type { RoundResult } from './edit-result.js';
import { packageRoot } from './load.js';
import { Model } from './model.js';
import { Policy } from './policy.js';
import { modelPath } from './run/model-path.js';
import { type SealOptions, seal } from './seal.js';
import { knowledge } from './task/knowledge.js';
import { readPassages, readTexts } from './task/passages.js';
import type { Task } from './task/task.js';

export interface DemoOptions {
  /** Passages: JSON, JSONL or SQuAD v1.1. The project's invented ones by default. */
  data?: string;
  /** A model's path, or a name that `pull` knows. */
  model?: string;
  seed?: number;
  /** Most passages taken from `data`, in file order; all by default. */
  passages?: number;
  /** Time for training and table, minutes, once the model is there. Rounds stop early when the rest would not fit. 8. */
  minutes?: number;
  signal?: AbortSignal;
  /** Takes each line of output. */
  write: (line: string) => void;
}

/** Chosen so that all of it fits into 8 minutes on 2 cores; see the printed settings. */
const SETTINGS = {
  rounds: 8,
  contextsPerRound: 4,
  editsPerContext: 6,
  adaptFrom: 'base',
  edit: { prompt: 'rewrite', maxTokens: 96, temperature: 0.8 },
  adapt: { rank: 8, alpha: 16, epochs: 3, learningRate: 3e-3, targets: ['q_proj', 'v_proj'] },
  reward: {
    measure: 'likelihood',
    report: [],
    beta: 0.1,
    retentionTexts: 1,
    retentionTokens: 96,
    form: 'base',
  },
  algorithm: { epochs: 2, minibatch: 8, learningRate: 3e-4, klCoefficient: 0.01 },
} as const satisfies Omit<SealOptions, 'policy' | 'task'>;
const CLOSING = { report: ['recall'], maxAnswerTokens: 12, stop: ['\n'] } as const;
const EVALUATION = 8;
const POLICY = { rank: 8, alpha: 16 };

/** Trains, prints as it goes, and returns the closing comparison. Errors as those of `seal` and `Model.load`. */
export async function runDemo(options: DemoOptions): Promise<Comparison> {
  const { write, signal, seed = 0, minutes = 8 } = options;
  const task = await readTask(options, seed);
  const path = await modelPath(options.model ?? 'smollm2-135m-instruct');
  const loadStart = performance.now();
  const model = await Model.load(path, { signal });
  write(
    `model: ${path}, ${(model.parameters / 1e6).toFixed(0)} M parameters, loaded in ${since(loadStart)} s`,
  );
  for (const line of settingsText(task, minutes, seed)) write(line);
  const start = performance.now();
  const policy = Policy.create(model, { ...POLICY, seed });
  const shared = { ...SETTINGS, policy, seed, signal };
  try {
    let spent = 0;
    for await (const result of seal({ ...shared, task })) {
      write(roundText(result, start));
      if (result.round === 0) write(`  an edit: ${excerpt(result)}`);
      // One more round and the table, which takes about as long as one, with something to spare.
      const round = Math.max(spent, (performance.now() - start) / (result.round + 1));
      spent = round;
      const left = minutes * 60_000 - (performance.now() - start);
      if (result.round + 1 < SETTINGS.rounds && left < 2.3 * round) {
        write(
          `  ${result.round + 1} of ${SETTINGS.rounds} rounds fit into ${minutes} minutes on this machine`,
        );
        break;
      }
    }
    write('closing table…');
    const comparison = await compareMethods({
      ...shared,
      contexts: task.evaluation,
      reward: { ...SETTINGS.reward, ...CLOSING },
    });
    for (const line of ['', ...comparisonText(comparison), '', ...caveats(), `total: ${since(start)} s`])
      write(line);
    return comparison;
  } finally {
    await policy.close();
    await model.close();
  }
}

async function readTask({ data, passages: most }: DemoOptions, seed: number): Promise<Task> {
  const examples = (name: string) => join(packageRoot, 'examples', name);
  const { passages } = await readPassages(data ?? examples('corpus.json'));
  const { texts } = await readTexts(examples('retention.json'));
  const taken = passages.slice(0, most);
  // A small set is shared out in halves at worst.
  const evaluation = Math.min(EVALUATION, Math.floor(taken.length / 2));
  return knowledge(taken, { seed, evaluation, payingShare: 0.5, retentionTexts: texts });
}

function settingsText(task: Task, minutes: number, seed: number): string[] {
  const { rounds, contextsPerRound, editsPerContext, edit, adapt, reward, algorithm, adaptFrom } = SETTINGS;
  return [
    `task: ${task.contexts(0, Number.MAX_SAFE_INTEGER).length} passages to train on, ${task.evaluation.length} unseen ones for the table, ` +
      `${task.retention.length} retention texts; seed ${seed}`,
    `rounds: at most ${rounds}, of ${contextsPerRound} passages × ${editsPerContext} edits, within ${minutes} minutes`,
    `edits: prompt "${edit.prompt}", at most ${edit.maxTokens} tokens, temperature ${edit.temperature}; applied to the ${adaptFrom} model`,
    `inner loop: LoRA rank ${adapt.rank} on ${adapt.targets.join(', ')}, ${adapt.epochs} epochs, learning rate ${adapt.learningRate} ` +
      '(the paper: rank 32, 10 epochs, 0.001)',
    `reward: gain in ${reward.measure} of the gold answers (nats a token) − ${reward.beta} · KL(edited ‖ unedited)`,
    `PPO: ${algorithm.epochs} epochs, minibatches of ${algorithm.minibatch}, learning rate ${algorithm.learningRate}, KL coefficient ` +
      `${algorithm.klCoefficient}; policy LoRA rank ${POLICY.rank} on all projections`,
    '',
  ];
}

function roundText({ round, edits, reward, update }: RoundResult, start: number): string {
  const valid = edits.filter(({ invalid }) => !invalid);
  const mean = (of: (edit: (typeof edits)[number]) => number) =>
    valid.reduce((sum, edit) => sum + of(edit), 0) / valid.length;
  const tokens = edits.reduce((sum, edit) => sum + edit.tokens, 0) / edits.length;
  return (
    `round ${round + 1}: reward ${reward.mean.toFixed(3)} (gain ${mean(({ parts }) => parts.gain).toFixed(3)}, ` +
    `KL ${mean(({ parts }) => parts.kl).toFixed(3)}), best ${reward.best.toFixed(3)}, ${reward.invalid} of ${edits.length} invalid, ` +
    `${tokens.toFixed(0)} tokens an edit; policy KL ${Number(update.klReference).toFixed(4)}; ${since(start)} s`
  );
}

function excerpt({ edits }: RoundResult): string {
  const best = edits.reduce((left, right) => (right.reward > left.reward ? right : left));
  return JSON.stringify(best.text.slice(0, 160));
}

function caveats(): string[] {
  return [
    'What this can and cannot show: a run this short, of one seed, on a model this small, can show that every part works',
    'and that edits teach the edited model something; whether the policy learns to write better ones shows only where the',
    'interval above excludes zero, and says nothing about larger models or other data.',
  ];
}

function since(start: number): string {
  return ((performance.now() - start) / 1000).toFixed(0);
}
