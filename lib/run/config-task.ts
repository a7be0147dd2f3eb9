/** The section of a configuration about the task: one schema a kind, and the defaults that a kind has elsewhere. */
import { resolve } from 'node:path';
import { z } from 'zod';
import { DEFAULT_TASK } from '../edit/prompts.js';
import { ARC_ADAPT } from '../task/arc/edit.js';
import { ARC_MEASURES } from '../task/arc/grade.js';
import { ARC_DEFAULTS } from '../task/arc/task.js';
import { DIALOGUE_DEFAULTS } from '../task/dialogue.js';
import { KNOWLEDGE_DEFAULTS } from '../task/knowledge.js';

const count = z.int().min(0);
const atLeast1 = z.int().min(1);
const path = z.string().min(1);
const share = z.number().gt(0).max(1);

/** Retention texts of one's own: a JSON array of strings. */
const retentionData = path.optional();

const knowledge = z.strictObject({
  kind: z.literal('knowledge').default('knowledge'),
  /** Passages: JSON, JSONL or SQuAD v1.1; relative to the configuration's folder. */
  data: path,
  retentionData,
  /** Most training passages; all that are left by default. */
  training: atLeast1.optional(),
  evaluation: count.default(8),
  retention: count.default(KNOWLEDGE_DEFAULTS.retention),
  payingShare: share.default(KNOWLEDGE_DEFAULTS.payingShare),
  description: z.string().default(DEFAULT_TASK),
});

const dialogue = z.strictObject({
  kind: z.literal('dialogue'),
  /** Conversations: JSON or JSONL. */
  data: path,
  retentionData,
  training: atLeast1.optional(),
  evaluation: count.default(DIALOGUE_DEFAULTS.evaluation),
  payingShare: share.default(DIALOGUE_DEFAULTS.payingShare),
  description: z.string().default(DIALOGUE_DEFAULTS.description),
});

const arc = z.strictObject({
  kind: z.literal('arc'),
  /** Challenges and solutions to train on. */
  data: path,
  solutions: path.optional(),
  /** Challenges and solutions of the closing table; none by default. */
  evaluationData: path.optional(),
  evaluationSolutions: path.optional(),
  retentionData,
  heldOut: count.default(ARC_DEFAULTS.heldOut),
  copies: atLeast1.default(ARC_DEFAULTS.copies),
  description: z.string().default(ARC_DEFAULTS.description),
});

const own = z.strictObject({
  kind: z.literal('module'),
  /** A module that exports a function of (options, {seed}) to a task, or a promise of one. */
  module: path,
  export: path.default('default'),
  /** Measures of the task beyond the built-in ones. */
  measures: z.array(z.string().min(1)).default([]),
  options: z.record(z.string(), z.unknown()).default({}),
});

export const TASK_SCHEMAS = { knowledge, dialogue, arc, module: own } as const;
export type TaskKind = keyof typeof TASK_SCHEMAS;
export const TASK_KINDS = Object.keys(TASK_SCHEMAS) as TaskKind[];
export const anyTask = z.union([knowledge, dialogue, arc, own]);
export type TaskConfig = z.output<typeof anyTask>;

/** What a kind has for defaults in other sections. */
export const KIND_DEFAULTS: Readonly<Record<TaskKind, Readonly<Record<string, object>>>> = {
  knowledge: {},
  // Answers are judged; there is no right one whose likelihood could be measured.
  dialogue: { reward: { measure: {}, beta: 0 } },
  // As published; edits are directives, which are alike where they choose the same.
  arc: {
    edit: { directives: { required: true } },
    adapt: ARC_ADAPT,
    reward: { measure: 'solved', beta: 0 },
    guards: { sameContext: false, otherContext: false },
  },
  module: {},
};

/** Measures that the task brings. */
export function ownMeasures(task: TaskConfig): readonly string[] {
  if (task.kind === 'arc') return ARC_MEASURES;
  return task.kind === 'module' ? task.measures : [];
}

/** The paths of a task, made absolute. */
export function withTaskPaths(task: TaskConfig, folder: string): TaskConfig {
  const names = ['data', 'solutions', 'evaluationData', 'evaluationSolutions', 'retentionData', 'module'];
  const entries = Object.entries(task).map(([name, value]: [string, unknown]) => {
    return [name, names.includes(name) && typeof value === 'string' ? resolve(folder, value) : value];
  });
  return Object.fromEntries(entries) as TaskConfig;
}
