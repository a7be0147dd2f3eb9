/** The task of a run, read as its configuration says. */
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { makeError } from '../errors.js';
import { readArc } from '../task/arc/read.js';
import { arc } from '../task/arc/task.js';
import { dialogue, readDialogues } from '../task/dialogue.js';
import { knowledge } from '../task/knowledge.js';
import { readPassages, readTexts } from '../task/passages.js';
import type { Task } from '../task/task.js';
import type { RunConfig } from './config.js';
import type { TaskConfig } from './config-task.js';
import { loadFunction } from './module.js';

/** A task, and the SHA-256 of what it was read from. */
export interface ReadTask {
  readonly task: Task;
  readonly data: string;
}

/** Reads the data of a task. Errors name the file and the place. */
export async function readTask(config: Pick<RunConfig, 'task' | 'seed' | 'labels'>): Promise<ReadTask> {
  const { task, seed } = config;
  const own =
    'retentionData' in task && task.retentionData !== undefined
      ? await readTexts(task.retentionData)
      : undefined;
  const made = await taskOf(task, seed, { texts: own?.texts, unanswered: config.labels !== undefined });
  const data = [...(await Promise.all(filesOf(task).map(sha256))), ...(own ? [own.sha256] : [])];
  return { task: made, data: data.join(' ') };
}

async function taskOf(
  config: TaskConfig,
  seed: number,
  { texts, unanswered }: { texts: readonly string[] | undefined; unanswered: boolean },
): Promise<Task> {
  switch (config.kind) {
    case 'knowledge': {
      const { data, retentionData: _, kind: __, ...options } = config;
      const { passages } = await readPassages(data, { unanswered });
      return knowledge(passages, { ...options, seed, retentionTexts: texts });
    }
    case 'dialogue': {
      const { data, retentionData: _, kind: __, ...options } = config;
      return dialogue(await readDialogues(data), { ...options, seed, retentionTexts: texts ?? [] });
    }
    case 'arc': {
      const { evaluationData, evaluationSolutions, heldOut, copies, description } = config;
      const evaluation =
        evaluationData === undefined ? [] : await readArc(evaluationData, evaluationSolutions);
      const options = { seed, evaluation, heldOut, copies, description, retentionTexts: texts ?? [] };
      return arc(await readArc(config.data, config.solutions), options);
    }
    case 'module':
      return loadTask(config, seed);
  }
}

function filesOf(config: TaskConfig): string[] {
  if (config.kind === 'module') return [config.module];
  if (config.kind !== 'arc') return [config.data];
  const { data, solutions, evaluationData, evaluationSolutions } = config;
  return [data, solutions, evaluationData, evaluationSolutions].filter((file) => file !== undefined);
}

async function sha256(file: string): Promise<string> {
  return createHash('sha256')
    .update(await readFile(file))
    .digest('hex');
}

async function loadTask(
  { module, export: key, options }: Extract<TaskConfig, { kind: 'module' }>,
  seed: number,
): Promise<Task> {
  const make = (await loadFunction('task', module, key)) as (
    options: object,
    call: { seed: number },
  ) => unknown;
  return checkTask(await make(options, { seed }), module);
}

function checkTask(value: unknown, module: string): Task {
  const task = value as Partial<Task> | null | undefined;
  const lacks = [
    ...(typeof task?.name === 'string' ? [] : ['name']),
    ...(typeof task?.contexts === 'function' ? [] : ['contexts(round, count)']),
    ...(Array.isArray(task?.evaluation) ? [] : ['evaluation']),
    ...(Array.isArray(task?.retention) ? [] : ['retention']),
  ];
  if (lacks.length === 0) return task as Task;
  throw makeError(
    'INPUT_INVALID',
    `task ${module} gave an object without ${lacks.join(', ')}; expected a task`,
  );
}
