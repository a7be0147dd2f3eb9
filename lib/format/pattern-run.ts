/** Programs of compiled patterns, and how they are run: all states at once, a character at a time (K. Thompson, 1968). */

export type Test = (code: number) => boolean;
export type Instruction =
  | { op: 'char'; test: Test }
  | { op: 'split'; to: number[] }
  | { op: 'assert'; holds: (text: string, at: number) => boolean }
  | { op: 'match' };

/** `(?=…)`, or `(?!…)` when negated; what is found in one text is kept, since every path through it asks again. */
export function lookAhead(program: readonly Instruction[], negated: boolean): Instruction {
  const begins = beginnings(program);
  let last: { text: string; found: Uint8Array } | undefined;
  const holds = (text: string, at: number) => {
    if (last?.text !== text) last = { text, found: begins(text) };
    return (last.found[at] === 1) !== negated;
  };
  return { op: 'assert', holds };
}

/** At which places of a text a match of the program begins (1), wherever it ends: from the last place to the first. */
function beginnings(program: readonly Instruction[]): (text: string) => Uint8Array {
  // The states from which a state is reached without taking a character.
  const before: number[][] = program.map(() => []);
  for (const [state, instruction] of program.entries()) {
    if (instruction.op === 'split') for (const step of instruction.to) before[state + step]!.push(state);
    else if (instruction.op === 'assert') before[state + 1]!.push(state);
  }
  const spread = (reaches: Uint8Array, open: number[], text: string, at: number) => {
    for (let state = open.pop(); state !== undefined; state = open.pop()) {
      if (reaches[state]) continue;
      reaches[state] = 1;
      for (const earlier of before[state]!) {
        const instruction = program[earlier]!;
        if (instruction.op !== 'assert' || instruction.holds(text, at)) open.push(earlier);
      }
    }
  };
  return (text) => {
    const found = new Uint8Array(text.length + 1);
    let later = new Uint8Array(program.length);
    for (let at = text.length; at >= 0; at--) {
      const code = text.charCodeAt(at);
      const open = [program.length - 1]; // the match
      for (const [state, instruction] of program.entries()) {
        if (instruction.op === 'char' && later[state + 1] && instruction.test(code)) open.push(state);
      }
      const reaches = new Uint8Array(program.length);
      spread(reaches, open, text, at);
      found[at] = reaches[0]!;
      later = reaches;
    }
    return found;
  };
}

/** Whether the program matches the whole text. */
export function run(program: readonly Instruction[], text: string): boolean {
  /** The place at which a state was reached last. */
  const reached = new Int32Array(program.length).fill(-1);
  const open = [0];
  for (let at = 0; ; at++) {
    let matched = false;
    const waiting: number[] = [];
    for (let state = open.pop(); state !== undefined; state = open.pop()) {
      if (reached[state] === at) continue;
      reached[state] = at;
      const instruction = program[state]!;
      if (instruction.op === 'char') waiting.push(state);
      else if (instruction.op === 'match') matched = true;
      else if (instruction.op === 'split') for (const step of instruction.to) open.push(state + step);
      else if (instruction.holds(text, at)) open.push(state + 1);
    }
    if (at === text.length) return matched;
    const code = text.charCodeAt(at);
    for (const state of waiting) {
      const instruction = program[state]!;
      if (instruction.op === 'char' && instruction.test(code)) open.push(state + 1);
    }
  }
}
