/**
 * Runs that are over in a fraction of a second: a tiny random model, two passages a round. Every phase is the real one. `se` is
 * the compiled package, `inner` those of its modules that a fault is put into.
 */
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../..', import.meta.url));
const dist = (name) => import(new URL(`../../dist/${name}.js`, import.meta.url).href);

/** The compiled package and its inside. */
export async function load() {
  const [se, { realDisk }, { native }] = await Promise.all([
    dist('index'),
    dist('run/disk'),
    dist('binding'),
  ]);
  return { se, disk: realDisk, native: native() };
}

export async function openModel(se) {
  se.setThreads(1);
  const tokenizer = await se.Tokenizer.fromFolder(join(root, 'test/fixtures/models/llama-tied'));
  const config = {
    architecture: 'llama',
    vocabSize: 512,
    hiddenSize: 16,
    intermediateSize: 24,
    layers: 1,
    heads: 2,
    kvHeads: 1,
    headDim: 8,
    maxPositions: 1024,
    rmsEps: 1e-5,
    ropeTheta: 10_000,
    ropeScaling: null,
    qkvBias: false,
    outputBias: false,
    mlpBias: false,
    tied: true,
  };
  return se.Model.random(config, { seed: 5, std: 0.1, tokenizer });
}

const PASSAGES = Array.from({ length: 5 }, (_, index) => ({
  title: `Title ${index}`,
  context: `The thing number ${index} is made of wood.`,
  questions: ['Made of what?', 'Which number?'].map((question, q) => ({
    question: `${question} (${index})`,
    answer: ['wood', `${index}`][q],
  })),
}));

const learning = { klTarget: 0.001, klCoefficient: 0.1, learningRate: 1e-2, minibatch: 4 };
const TEXT = {
  ppo: { keepCheckpoints: 1, ppo: learning },
  grpo: { algorithm: 'grpo', adaptFrom: 'base', grpo: learning, guards: { gap: 1e-9, window: 1 } },
  rloo: { algorithm: 'rloo', rloo: learning, reward: { lambda: 0.3, earlierContexts: 1 } },
  restem: { algorithm: 'restem', restem: learning, keepCheckpoints: 2, keepBest: 1, repeats: 2 },
  halted: { guards: { onAlarm: 'rollback', editKl: 1e-12 }, keepCheckpoints: 1, ppo: learning },
  labels: { labels: { samples: 3, maxTokens: 4 }, ppo: { ...learning, baseline: 'group', klIn: 'reward' } },
};
const WEIGHTS = {
  weights: { keepCheckpoints: 1, guards: { onAlarm: 'rollback' } },
  gradient: {
    algorithm: 'gradient',
    weights: { space: [{ space: 'lowRank', targets: ['q_proj'], size: 2 }], basis: 'learnt' },
  },
};
/** Names of the small runs, one of each kind of learning. */
export const KINDS = [...Object.keys(TEXT), ...Object.keys(WEIGHTS)];
/** Besides these there is `brief`: little work around its saves. */
const BRIEF = { ...TEXT.ppo, rounds: 2, contextsPerRound: 1, task: { evaluation: 0 } };

/** The configuration of a kind of small run, its data in `folder`. */
export function configure(se, kind, folder, more = {}) {
  mkdirSync(folder, { recursive: true });
  const data = join(folder, 'data.json');
  if (!existsSync(data)) writeFileSync(data, JSON.stringify(PASSAGES));
  const weights = { edit: { kind: 'weights' }, ...WEIGHTS[kind] };
  const { reward, task, ...rest } = kind === 'brief' ? BRIEF : (TEXT[kind] ?? weights);
  return se.resolveConfig({
    model: 'tiny',
    seed: 4,
    rounds: 3,
    contextsPerRound: 2,
    editsPerContext: 2,
    task: { data, evaluation: 1, retention: 1, ...task },
    edit: { maxTokens: 6 },
    adapt: { rank: 1, alpha: 2, epochs: 1, targets: ['q_proj'], deterministic: true },
    policy: { rank: 1, alpha: 2, targets: ['q_proj', 'v_proj'] },
    reward: { beta: 0.1, retentionTexts: 1, maxAnswerTokens: 3, ...reward },
    ...rest,
    ...more,
  });
}

/** Begins a run, or goes on with one that has a configuration. */
export function play(se, model, kind, run, options = {}) {
  const config = configure(se, kind, join(run, '..'), options.config);
  const resume = existsSync(join(run, 'config.json'));
  return se.train(config, { run, model, resume, onEvent: options.onEvent, signal: options.signal });
}

/** Every file of a run that is done, without what the clock and the place have written; the journal's lines apart. */
export function contentsOf(run) {
  const files = {};
  for (const entry of readdirSync(run, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const path = join(entry.parentPath, entry.name);
    const name = path.slice(run.length + 1);
    if (name === 'journal.jsonl') {
      for (const [index, line] of readFileSync(path, 'utf8').trimEnd().split('\n').entries()) {
        const { timings: _, crc32: __, ...rest } = JSON.parse(line);
        files[`journal line ${index + 1}`] = JSON.stringify(rest);
      }
    } else if (name === 'environment.json') {
      files[name] = JSON.stringify(JSON.parse(readFileSync(path, 'utf8')).inputs);
    } else {
      // The data's folder is part of the configuration; both runs are given the same one by name.
      files[name] = readFileSync(path, name === 'config.json' ? 'utf8' : 'base64').replaceAll(
        join(run, '..'),
        'DATA',
      );
    }
  }
  return files;
}

/** Names of what is in one of two runs only, or not the same in both. */
export function differencesOf(expected, run) {
  const found = contentsOf(run);
  return [...new Set([...Object.keys(expected), ...Object.keys(found)])].filter(
    (name) => expected[name] !== found[name],
  );
}

/** A copy of a run folder in the same parent. */
export function copyRun(from, to) {
  cpSync(from, to, { recursive: true });
  return to;
}
