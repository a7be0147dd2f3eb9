// @ts-check
/**
 * Jinja within limits. JavaScript, because the worker that loads it must find the same file in lib/ and in dist/.
 *
 * It changes the built-in objects of the thread it runs in, so only `template-worker.js` may import it: an allocation
 * that is too large for V8 ends the whole process, whatever limits the worker has, so what makes one text out of many
 * is bounded beforehand.
 */
import { Environment, Interpreter, parse, tokenize } from '@huggingface/jinja';

/** Characters of a text, whether a template's source, what it renders or anything in between. */
export const MOST_CHARACTERS = 2 ** 20;
/** Entries of a list. */
const MOST_ENTRIES = 100_000;

/**
 * What `strftime_now` formats. Llama 3 and others put the date into their system prompt; a run that is resumed on
 * another day must still see the same prompts, so they get the date that Llama's own templates fall back to.
 * @type {Readonly<Record<string, string>>}
 */
const TODAY = {
  '%d': '26',
  '%m': '07',
  '%Y': '2024',
  '%y': '24',
  '%b': 'Jul',
  '%B': 'July',
  '%a': 'Fri',
  '%A': 'Friday',
  '%H': '00',
  '%M': '00',
  '%S': '00',
  '%%': '%',
};

const GLOBALS = {
  true: true,
  false: false,
  none: null,
  True: true,
  False: false,
  None: null,
  range,
  /** @param {unknown} message */
  raise_exception: (message) => {
    throw new Error(String(message));
  },
  /** @param {unknown} format */
  strftime_now: (format) => String(format).replace(/%[a-zA-Z%]/g, (code) => TODAY[code] ?? code),
};

/**
 * As transformers parses it.
 * @param {string} template
 */
export function parseTemplate(template) {
  if (template.length > MOST_CHARACTERS) {
    throw new Error(`it has ${template.length} characters, expected at most ${MOST_CHARACTERS}`);
  }
  return parse(tokenize(template, { lstrip_blocks: true, trim_blocks: true }));
}

/**
 * @param {ReturnType<typeof parse>} program
 * @param {Readonly<Record<string, unknown>>} variables
 */
export function render(program, variables) {
  const environment = new Environment();
  for (const [name, value] of Object.entries({ ...GLOBALS, ...variables })) environment.set(name, value);
  const interpreter = new Interpreter(environment);
  // Every statement and expression passes through here.
  const evaluate = interpreter.evaluate.bind(interpreter);
  interpreter.evaluate = (/** @type {unknown} */ node, /** @type {unknown} */ scope) => {
    const result = evaluate(node, scope);
    const value = result?.value;
    if (typeof value === 'string') checkLength(value.length);
    else if (Array.isArray(value)) checkEntries(value.length);
    return result;
  };
  return String(interpreter.run(program).value);
}

/** @param {number} characters */
function checkLength(characters) {
  if (characters > MOST_CHARACTERS)
    throw new Error(`it makes a text of more than ${MOST_CHARACTERS} characters`);
}

/** @param {number} entries */
function checkEntries(entries) {
  if (entries > MOST_ENTRIES) throw new Error(`it makes a list of more than ${MOST_ENTRIES} entries`);
}

/**
 * Python's range: `range(stop)`, `range(start, stop)`, `range(start, stop, step)`.
 * @param {number} first
 * @param {number} [stop]
 * @param {number} [step]
 */
function range(first, stop, step) {
  const [from, to, by] = stop == null ? [0, first, 1] : [first, stop, step ?? 1];
  const length = by === 0 ? 0 : Math.max(0, Math.ceil((to - from) / by));
  checkEntries(length);
  return Array.from({ length }, (_, i) => from + i * by);
}

const repeat = String.prototype.repeat;
/** @this {string} @param {number} count */
String.prototype.repeat = function (count) {
  checkLength(this.length * count);
  return repeat.call(this, count);
};

const replaceAll = /** @type {(this: string, pattern: any, change: any) => string} */ (
  String.prototype.replaceAll
);
/** @this {string} @param {any} pattern @param {any} change */
String.prototype.replaceAll = function (pattern, change) {
  if (typeof change !== 'function') return replaceAll.call(this, pattern, change);
  let characters = 0;
  return replaceAll.call(this, pattern, (/** @type {unknown[]} */ ...found) => {
    const text = change(...found);
    characters += text.length;
    checkLength(characters);
    return text;
  });
};

/** @this {unknown[]} @param {string} [separator] */
Array.prototype.join = function (separator = ',') {
  let text = '';
  this.forEach((entry, i) => {
    text += `${i > 0 ? separator : ''}${entry ?? ''}`;
    checkLength(text.length);
  });
  return text;
};

/** What Python's `str.strip()` takes off; JavaScript's `trim` differs in a few control characters and in U+FEFF. */
const SPACES = new Set(
  '\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a' +
    '\u2028\u2029\u202f\u205f\u3000',
);

/**
 * @param {string} text
 * @param {unknown} characters those to take off, by default white space
 * @param {{ left?: boolean, right?: boolean }} sides
 */
function strip(text, characters, { left = false, right = false }) {
  const set = typeof characters === 'string' ? new Set(characters) : SPACES;
  let [from, to] = [0, text.length];
  while (left && from < to && set.has(text.charAt(from))) from++;
  while (right && to > from && set.has(text.charAt(to - 1))) to--;
  return text.slice(from, to);
}

// The package's own methods of texts take no argument and strip what JavaScript calls white space.
const ofText = Object.getPrototypeOf(new Environment().set('text', ''));
const builtins = /** @type {PropertyDescriptor} */ (Object.getOwnPropertyDescriptor(ofText, 'builtins')).get;
Object.defineProperty(ofText, 'builtins', {
  get() {
    const known = this._builtins !== undefined;
    const methods = builtins?.call(this);
    if (known) return methods;
    const text = this.value;
    const scope = new Environment();
    for (const [name, sides] of /** @type {const} */ ([
      ['strip', { left: true, right: true }],
      ['lstrip', { left: true }],
      ['rstrip', { right: true }],
    ])) {
      methods.set(
        name,
        scope.set(name, (/** @type {unknown} */ characters) => strip(text, characters, sides)),
      );
    }
    return methods;
  },
});

// The filter `trim` is not one of them, but trims all the same.
/** @this {string} */
String.prototype.trim = function () {
  return strip(String(this), undefined, { left: true, right: true });
};
