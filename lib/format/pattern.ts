/**
 * Regular expressions out of files nobody vouches for, as PEFT's configurations hold them: Python's syntax (the part that
 * names of modules need), matched in time linear in pattern and text, so that no pattern can hang the process
 * (K. Thompson, 1968). Lazy and greedy quantifiers say the same where only "matches or not" is asked.
 */
import { makeError } from '../errors.js';
import { type Instruction, lookAhead, run, type Test } from './pattern-run.js';

/** Most states of one compiled pattern, and of all that a file gives for one purpose; bounds the time of a match. */
const MOST_STATES = 4096;
const MOST_TOGETHER = 4 * MOST_STATES;
const MOST_DEPTH = 64;

type Matcher = (text: string) => boolean;

/**
 * For each pattern, whether the whole text matches, as Python's `re.fullmatch` says. Errors: `FILE_FORMAT`, naming the
 * pattern and `source`, also when the patterns are together too many or too large.
 */
export function fullMatchers(patterns: readonly string[], source: string): Matcher[] {
  const use = allowance(patterns.length, source);
  return patterns.map((pattern) => compiled([new Compiler(pattern, source)], use));
}

/** For each pattern, whether the whole text, or all that follows one of its dots, matches. Errors: as above. */
export function endMatchers(patterns: readonly string[], source: string): Matcher[] {
  const use = allowance(patterns.length, source);
  return patterns.map((pattern) => {
    const plain = plainMatcher(pattern);
    if (!plain) return compiled([new Compiler('(?:.*\\.)?', source), new Compiler(pattern, source)], use);
    use(1);
    return plain;
  });
}

function compiled(pieces: readonly Compiler[], use: (states: number) => void): Matcher {
  const program: Instruction[] = [...pieces.flatMap((piece) => piece.compile()), { op: 'match' }];
  use(pieces.reduce((sum, { ahead }) => sum + ahead, program.length));
  return (text) => run(program, text);
}

/** To be told of the states of `count` patterns, one after the other; throws when they get too many. */
function allowance(count: number, source: string): (states: number) => void {
  let states = 0;
  return (more) => {
    states += more;
    if (states <= MOST_TOGETHER) return;
    throw makeError(
      'FILE_FORMAT',
      `${source}: its ${count} patterns are together more than can be matched in reasonable time; expected at most ${MOST_TOGETHER} names, or fewer regular expressions`,
    );
  };
}

/** A name, perhaps anchored, whose dots are dots or any character: what nearly all files have, one a module. */
const PLAIN = /^(\^?)((?:[\w.-]|\\\.)+)\$?$/;

function plainMatcher(pattern: string): Matcher | undefined {
  const [, anchor, name] = PLAIN.exec(pattern) ?? [];
  if (name === undefined) return undefined;
  const wanted = name.match(/\\?./g)!;
  return (text) => {
    const at = text.length - wanted.length;
    if (at < 0 || (at > 0 && (anchor !== '' || text[at - 1] !== '.'))) return false;
    return wanted.every((letter, i) => letter === '.' || letter.at(-1) === text[at + i]);
  };
}

const isDigit: Test = (code) => code >= 48 && code <= 57;
const isWord: Test = (code) =>
  isDigit(code) || (code >= 65 && code <= 90) || (code >= 97 && code <= 122) || code === 95;
const isSpace: Test = (code) => code === 32 || (code >= 9 && code <= 13);
const CLASSES: Record<string, Test> = { d: isDigit, w: isWord, s: isSpace };

function wordEdge(text: string, at: number): boolean {
  const word = (index: number) => index >= 0 && index < text.length && isWord(text.charCodeAt(index));
  return word(at - 1) !== word(at);
}

/** Jumps are relative, so that compiled pieces can be put together and repeated as they are. */
class Compiler {
  readonly #pattern: string;
  readonly #source: string;
  #at = 0;
  #depth = 0;
  /** States of all that is looked ahead for, beside those of the pattern itself. */
  ahead = 0;

  constructor(pattern: string, source: string) {
    this.#pattern = pattern;
    this.#source = source;
  }

  compile(): Instruction[] {
    const code = this.#alternatives();
    if (this.#at < this.#pattern.length) this.#fail('a closing parenthesis without an opening one');
    return code;
  }

  #fail(found: string): never {
    const shown = JSON.stringify(
      this.#pattern.length > 80 ? `${this.#pattern.slice(0, 79)}…` : this.#pattern,
    );
    throw makeError(
      'FILE_FORMAT',
      `${this.#source}: the pattern ${shown} has ${found}; expected a regular expression of module names`,
    );
  }

  #take(text: string): boolean {
    if (!this.#pattern.startsWith(text, this.#at)) return false;
    this.#at += text.length;
    return true;
  }

  #alternatives(): Instruction[] {
    if (++this.#depth > MOST_DEPTH) this.#fail('groups nested too deeply');
    const branches = [this.#sequence()];
    while (this.#take('|')) branches.push(this.#sequence());
    this.#depth--;
    return this.#checked(branches.reduceRight((rest, branch) => either(branch, rest)));
  }

  #sequence(): Instruction[] {
    const code: Instruction[] = [];
    while (this.#at < this.#pattern.length && !'|)'.includes(this.#pattern[this.#at]!)) {
      code.push(...this.#repeated(this.#atom()));
      this.#checked(code);
    }
    return code;
  }

  #checked(code: Instruction[]): Instruction[] {
    if (code.length > MOST_STATES) this.#fail('more than can be matched in reasonable time');
    return code;
  }

  #repeated(atom: Instruction[]): Instruction[] {
    const range = this.#range();
    if (!range) return atom;
    if (this.#take('+')) this.#fail('a possessive quantifier, which is not supported');
    this.#take('?');
    if (this.#range()) this.#fail('a quantifier of a quantifier');
    const [least, most] = range;
    if (atom.length * Math.max(least, most === Number.POSITIVE_INFINITY ? 1 : most) > MOST_STATES) {
      this.#fail('more repetitions than can be matched in reasonable time');
    }
    const code = Array.from({ length: least }, () => atom).flat();
    if (most === Number.POSITIVE_INFINITY) {
      const skip: Instruction = { op: 'split', to: [1, atom.length + 2] };
      return [...code, skip, ...atom, { op: 'split', to: [-atom.length - 1] }];
    }
    let optional: Instruction[] = [];
    for (let n = least; n < most; n++) {
      optional = [{ op: 'split', to: [1, atom.length + optional.length + 1] }, ...atom, ...optional];
    }
    return [...code, ...optional];
  }

  #range(): [number, number] | undefined {
    if (this.#take('*')) return [0, Number.POSITIVE_INFINITY];
    if (this.#take('+')) return [1, Number.POSITIVE_INFINITY];
    if (this.#take('?')) return [0, 1];
    const [text, low, comma, high] =
      /^\{(\d{0,5})(?:(,)(\d{0,5}))?\}/.exec(this.#pattern.slice(this.#at, this.#at + 16)) ?? [];
    // As in Python, braces that are no quantifier stand for themselves.
    if (text === undefined || (!comma && low === '')) return undefined;
    this.#at += text.length;
    const least = Number(low || 0);
    const most = comma ? (high ? Number(high) : Number.POSITIVE_INFINITY) : least;
    if (most < least) this.#fail('a quantifier whose bounds fall');
    return [least, most];
  }

  #atom(): Instruction[] {
    if (this.#take('(')) return this.#group();
    if (this.#take('[')) return [{ op: 'char', test: this.#set() }];
    if (this.#take('.')) return [{ op: 'char', test: (code) => code !== 10 }];
    if (this.#take('^')) return [{ op: 'assert', holds: (_, at) => at === 0 }];
    if (this.#take('$')) return [{ op: 'assert', holds: (text, at) => at === text.length }];
    if (this.#take('\\b')) return [{ op: 'assert', holds: wordEdge }];
    if (this.#take('\\B')) return [{ op: 'assert', holds: (text, at) => !wordEdge(text, at) }];
    if (this.#take('\\A')) return [{ op: 'assert', holds: (_, at) => at === 0 }];
    if (this.#take('\\Z')) return [{ op: 'assert', holds: (text, at) => at === text.length }];
    if (this.#take('\\')) return [{ op: 'char', test: this.#escape() }];
    if ('*+?'.includes(this.#pattern[this.#at]!)) this.#fail('a quantifier of nothing');
    return [{ op: 'char', test: equal(this.#pattern.charCodeAt(this.#at++)) }];
  }

  #group(): Instruction[] {
    const ahead = this.#take('?=') ? '=' : this.#take('?!') ? '!' : undefined;
    const named = ahead ? null : /^\?P<[A-Za-z_]\w*>/.exec(this.#pattern.slice(this.#at, this.#at + 100));
    if (named) this.#at += named[0].length;
    else if (!ahead && !this.#take('?:') && this.#pattern[this.#at] === '?') {
      this.#fail('a group of a kind that is not supported');
    }
    const code = this.#alternatives();
    if (!this.#take(')')) this.#fail('a group that is not closed');
    if (!ahead) return code;
    this.ahead += code.length + 1;
    if (this.ahead > MOST_STATES) this.#fail('more than can be matched in reasonable time');
    return [lookAhead([...code, { op: 'match' }], ahead === '!')];
  }

  /** What follows a backslash, when it stands for one character. */
  #escape(): Test {
    const letter = this.#pattern[this.#at++] ?? '';
    const lower = letter.toLowerCase();
    const test = CLASSES[lower];
    if (test) return letter === lower ? test : (code) => !test(code);
    const control = { n: 10, r: 13, t: 9, f: 12, v: 11 }[letter];
    if (control !== undefined) return equal(control);
    if (letter === '' || /[A-Za-z0-9]/.test(letter)) this.#fail(`the escape "\\${letter}"`);
    return equal(letter.charCodeAt(0));
  }

  #set(): Test {
    const negated = this.#take('^');
    const tests: Test[] = [];
    do {
      const first = this.#pattern[this.#at];
      if (first === undefined) this.#fail('a set that is not closed');
      const low = this.#member();
      const ranged = this.#pattern[this.#at] === '-' && !']'.includes(this.#pattern[this.#at + 1] ?? ']');
      if (!ranged) {
        tests.push(low.test);
        continue;
      }
      this.#at++;
      const high = this.#member();
      if (low.code === undefined || high.code === undefined || high.code < low.code) {
        this.#fail('a range that falls');
      }
      const [from, to] = [low.code, high.code];
      tests.push((code) => code >= from && code <= to);
    } while (!this.#take(']'));
    return (code) => tests.some((test) => test(code)) !== negated;
  }

  #member(): { test: Test; code?: number } {
    if (this.#take('\\')) {
      const letter = this.#pattern[this.#at] ?? '';
      if (letter === 'b') this.#fail('the escape "\\b" in a set');
      const test = this.#escape();
      return /[A-Za-z]/.test(letter) ? { test } : { test, code: letter.charCodeAt(0) };
    }
    const code = this.#pattern.charCodeAt(this.#at++);
    return { test: equal(code), code };
  }
}

function equal(expected: number): Test {
  return (code) => code === expected;
}

function either(left: Instruction[], right: Instruction[]): Instruction[] {
  return [
    { op: 'split', to: [1, left.length + 2] },
    ...left,
    { op: 'split', to: [right.length + 1] },
    ...right,
  ];
}
