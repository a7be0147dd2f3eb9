/**
 * Reads ARC tasks as the ARC Prize publishes them: a file of challenges, `{ id: { train: [{input, output}], test: [{input}] } }`,
 * and a file of solutions, `{ id: [output, …] }`, one a test input. What is malformed is named by file, task and place.
 */
import { asObject, invalid, kindOf, parseJson, readText } from '../json.js';
import { type Grid, toGrid } from './grids.js';

/** An input with its output. */
export interface ArcPair {
  readonly input: Grid;
  readonly output: Grid;
}

/** A test input; its output is there when the solutions were read. */
export interface ArcTest {
  readonly input: Grid;
  readonly output?: Grid;
}

/** One task: a rule, shown by demonstrations. */
export interface ArcTask {
  readonly id: string;
  readonly demonstrations: readonly ArcPair[];
  readonly tests: readonly ArcTest[];
}

/** A text, and what errors call it. */
export interface NamedText {
  readonly text: string;
  readonly name: string;
}

/** Tasks of a file of challenges, in the order of their ids (as in the published files), with their solutions where a file of them is given. */
export async function readArc(challenges: string, solutions?: string): Promise<ArcTask[]> {
  const named = async (path: string): Promise<NamedText> => ({ text: await readText(path), name: path });
  return parseArc(await named(challenges), solutions === undefined ? undefined : await named(solutions));
}

/**
 * Tasks of the texts of the two files. Errors: `INPUT_INVALID` for what is not in the form above, for grids that are none,
 * for solutions of unknown tasks or of another number than the test inputs, and for tasks without any.
 */
export function parseArc(challenges: NamedText, solutions?: NamedText): ArcTask[] {
  const tasks = entriesOf(
    parseJson(challenges.text.replace(/^\ufeff/, ''), challenges.name),
    challenges.name,
  ).map(([id, value]) => taskOf(id, value, `${challenges.name} ${id}`));
  if (tasks.length === 0) throw invalid(challenges.name, 'holds no tasks', 'at least one');
  return solutions === undefined ? tasks : withSolutions(tasks, solutions);
}

function taskOf(id: string, value: unknown, where: string): ArcTask {
  const [train, test] = ['train', 'test'].map((key) => {
    const list = asObject(value, where)[key];
    if (Array.isArray(list) && list.length > 0) return list as unknown[];
    const found = Array.isArray(list) ? 'is empty' : `is ${kindOf(list)}`;
    throw invalid(
      `${where}.${key}`,
      found,
      `at least one ${key === 'train' ? 'demonstration' : 'test input'}`,
    );
  });
  return {
    id,
    demonstrations: train!.map((item, index) => {
      const at = `${where}.train[${index}]`;
      const { input, output } = asObject(item, at);
      return { input: toGrid(input, `${at}.input`), output: toGrid(output, `${at}.output`) };
    }),
    tests: test!.map((item, index) => {
      const at = `${where}.test[${index}]`;
      const { input, output } = asObject(item, at);
      const given = output === undefined ? {} : { output: toGrid(output, `${at}.output`) };
      return { input: toGrid(input, `${at}.input`), ...given };
    }),
  };
}

function withSolutions(tasks: readonly ArcTask[], solutions: NamedText): ArcTask[] {
  const { name } = solutions;
  const byId = new Map(entriesOf(parseJson(solutions.text.replace(/^\ufeff/, ''), solutions.name), name));
  for (const id of byId.keys()) {
    if (tasks.some((task) => task.id === id)) continue;
    throw invalid(`${name} ${id}`, 'is the solution of no task', 'tasks of the challenges only');
  }
  return tasks.map((task) => {
    const where = `${name} ${task.id}`;
    const outputs = byId.get(task.id);
    if (!Array.isArray(outputs)) throw invalid(where, `is ${kindOf(outputs)}`, 'an array of output grids');
    const { length } = task.tests;
    if (outputs.length !== length) {
      throw invalid(where, `has ${outputs.length} outputs`, `one for each of the ${length} test inputs`);
    }
    const tests = task.tests.map(({ input }, index) => ({
      input,
      output: toGrid(outputs[index], `${where}[${index}]`),
    }));
    return { ...task, tests };
  });
}

function entriesOf(value: unknown, where: string): [string, unknown][] {
  // Ids of digits alone would come first: objects have such keys in an order of their own.
  return Object.entries(asObject(value, where)).sort(([left], [right]) => (left < right ? -1 : 1));
}
