/** `selfedit eval --task arc`: tasks of the Abstraction and Reasoning Corpus, solved from their demonstrations. */
import { average } from '../average.js';
import type { Fork } from '../fork.js';
import type { Model } from '../model.js';
import type { Answered } from '../reward/measure.js';
import { wilson } from '../reward/statistics.js';
import { ARC_MEASURES } from '../task/arc/grade.js';
import { type ArcTask, readArc } from '../task/arc/read.js';
import { arc } from '../task/arc/task.js';
import type { Session } from './session.js';

/** Tasks of one native call. */
const BATCH = 4;

/** Tasks with the solutions of their tests. Throws as `readArc` and `arc`. */
export async function readSolved(data: string, solutions: string | undefined): Promise<ArcTask[]> {
  const tasks = await readArc(data, solutions);
  arc(tasks);
  return tasks;
}

/** The report: the share of tasks of which every test input is solved within two attempts, and Wilson's interval for it. */
export async function evaluateArc(
  tasks: readonly ArcTask[],
  fork: Fork | Model,
  session: Session,
): Promise<object> {
  const few = arc(tasks);
  const contexts = few.contexts(0, tasks.length);
  const answers: (readonly Answered[])[] = [];
  const meter = session.meter({ label: 'eval', unit: 'tasks' });
  for (let first = 0; first < contexts.length; first += BATCH) {
    const rows = contexts.slice(first, first + BATCH).map((context) => ({ fork, context }));
    const asked = await few.ask(rows, { signal: session.signal });
    answers.push(...asked.map(({ paying }) => paying));
    meter.update(answers.length, tasks.length);
  }
  const parts = Object.fromEntries(
    ARC_MEASURES.map((measure) => [
      measure,
      average(answers.map((own) => average(own.map(({ scores }) => scores[measure]!)))),
    ]),
  );
  const solved = answers.filter(([first]) => first?.scores.solved === 1).length;
  const { mean: score, low, high } = wilson(solved, tasks.length);
  return { task: 'arc', n: tasks.length, score, interval: [low, high], parts };
}
