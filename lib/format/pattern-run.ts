/** Programs of compiled patterns, and how they are run: all states at once, a character at a time (K. Thompson, 1968). */

export type Test = (code: number) => boolean;
export type Instruction =
  | { op: 'char'; test: Test }
  | { op: 'split'; to: number[] }
  | { op: 'assert'; holds: (text: string, at: number) => boolean }
  | { op: 'match' };

/** At which places of a text a match of the program begins, wherever it ends: from the last place to the first. */
function beginnings(program: readonly Instruction[], text: string): boolean[] {
  const before: number[][] = program.map(() => []);
  for (const [state, { op, ...rest }] of program.entries()) {
    const steps = 'to' in rest ? rest.to : op === 'assert' ? [1] : [];
    for (const step of steps) before[state + step]!.push(state);
  }
  const found: boolean[] = [];
  let later = new Set<number>();
  for (let at = text.length; at >= 0; at--) {
    const code = text.charCodeAt(at);
    const open = program.flatMap((instruction, state) => {
      if (instruction.op === 'match') return [state];
      return instruction.op === 'char' && later.has(state + 1) && instruction.test(code) ? [state] : [];
    });
    const reaches = new Set(open);
    for (let state = open.pop(); state !== undefined; state = open.pop()) {
      for (const earlier of before[state]!) {
        const instruction = program[earlier]!;
        if (reaches.has(earlier) || (instruction.op === 'assert' && !instruction.holds(text, at))) continue;
        reaches.add(earlier);
        open.push(earlier);
      }
    }
    found[at] = reaches.has(0);
    later = reaches;
  }
  return found;
}

/** `(?=…)`, or `(?!…)` when negated; what is found in one text is kept, since every path through it asks again. */
export function lookAhead(program: readonly Instruction[], negated: boolean): Instruction {
  let last: { text: string; found: boolean[] } | undefined;
  const holds = (text: string, at: number) => {
    if (last?.text !== text) last = { text, found: beginnings(program, text) };
    return last.found[at] !== negated;
  };
  return { op: 'assert', holds };
}

/** Whether the program matches the whole text. */
export function run(program: readonly Instruction[], text: string): boolean {
  let states = closure(program, [0], text, 0);
  for (let at = 0; at < text.length && states.length > 0; at++) {
    const code = text.charCodeAt(at);
    const next = states.flatMap((state) => {
      const instruction = program[state]!;
      return instruction.op === 'char' && instruction.test(code) ? [state + 1] : [];
    });
    states = closure(program, next, text, at + 1);
  }
  return states.some((state) => program[state]!.op === 'match');
}

/** The states that are reached without taking a character. */
function closure(program: readonly Instruction[], from: number[], text: string, at: number): number[] {
  const seen = new Set<number>();
  const open = [...from];
  for (let state = open.pop(); state !== undefined; state = open.pop()) {
    if (seen.has(state)) continue;
    seen.add(state);
    const instruction = program[state]!;
    if (instruction.op === 'split') open.push(...instruction.to.map((step) => state + step));
    else if (instruction.op === 'assert' && instruction.holds(text, at)) open.push(state + 1);
  }
  return [...seen];
}
