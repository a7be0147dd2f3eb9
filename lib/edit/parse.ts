/**
 * From the text of a self-edit to training documents, by the rules of the published SEAL code (knowledge
 * incorporation). Each rule has a switch. Whatever the text, parsing is linear in its length and never throws.
 */
import type { TextEdit } from './edit.js';

/** The rules, in the order in which they act. */
export interface ParseOptions {
  /** Lines of dashes (`---`) separate documents. */
  splitSegments: boolean;
  /** A text with `Question N:` and `Answer:` splits before each question and not at lines. */
  splitQuestions: boolean;
  /** Each line is a document. */
  splitLines: boolean;
  /** With `splitLines`: a first line that only announces the list ("Sure, here are…") is dropped. */
  dropAnnouncement: boolean;
  /** A piece without a letter or a digit is dropped (the published code keeps it). */
  dropWordless: boolean;
  /** `1.`, `2)`, `-` and `*` before a line are removed (the published code keeps them). */
  stripNumbering: boolean;
  /** Every document starts with the title on a line of its own. */
  titlePrefix: boolean;
  /** The passage itself is the last document. */
  passageLast: boolean;
  /** Most documents taken from the text; the passage does not count. */
  maxDocuments: number;
  /** An edit that holds nothing to train on is `'invalid'`, or trains on the `'passage'` alone. */
  onEmpty: 'invalid' | 'passage';
}

export const PARSE_DEFAULTS: Readonly<ParseOptions> = {
  splitSegments: true,
  splitQuestions: true,
  splitLines: true,
  dropAnnouncement: true,
  dropWordless: true,
  stripNumbering: false,
  titlePrefix: true,
  passageLast: true,
  maxDocuments: 64,
  onEmpty: 'invalid',
};

const LIST_ITEM = /^(?:\d{1,4}[.)]|[-*•])\s/;
const QUESTION = /Question\s+\d+:/;
// Control characters other than tab and newline carry no text and can upset a terminal that shows the journal.
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
const CONTROL = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g;

/**
 * Documents of the edit `text` about a passage. `opening` is what the prompt put into the model's mouth
 * (see `EditTemplate.opening`); it becomes part of the first document.
 */
export function parseEdit(
  text: string,
  passage: { readonly title: string; readonly context: string },
  options: Partial<ParseOptions> = {},
  opening = '',
): TextEdit {
  const rules = { ...PARSE_DEFAULTS, ...options };
  const clean = text.replace(/\r\n?/g, '\n').replace(CONTROL, '').trim();
  const empty = worded([clean], rules).length === 0;
  const pieces = empty ? [] : split(withOpening(clean, opening), rules).slice(0, rules.maxDocuments);
  const invalid = pieces.length === 0 && (rules.onEmpty === 'invalid' || !rules.passageLast);
  if (rules.passageLast) pieces.push(passage.context.trim());
  const title = rules.titlePrefix && passage.title !== '' ? `${passage.title}\n` : '';
  const documents = pieces.map((piece) => title + piece);
  return invalid ? { kind: 'text', text, documents, invalid: 'empty' } : { kind: 'text', text, documents };
}

/** The documents of training on the passage alone: the plainest edit, and the baseline of the closing table. */
export function passageOnly(
  passage: { readonly title: string; readonly context: string },
  options: Partial<ParseOptions> = {},
): TextEdit {
  return parseEdit('', passage, { ...options, passageLast: true, onEmpty: 'passage' });
}

// A model that repeats the opening by itself does not get it twice.
function withOpening(text: string, opening: string): string {
  const head = opening.trim();
  return head === '' || text.startsWith(head) ? text : opening + text;
}

function split(text: string, rules: ParseOptions): string[] {
  if (rules.splitQuestions && QUESTION.test(text) && /Answer\s*:/.test(text)) {
    return worded(text.split(/\n(?=Question\s+\d+:)/), rules);
  }
  let pieces = rules.splitSegments ? worded(text.split('---'), rules) : worded([text], rules);
  if (rules.splitLines) {
    pieces = worded(
      pieces.flatMap((piece) => piece.split('\n')),
      rules,
    );
    if (rules.dropAnnouncement && announces(pieces)) pieces = pieces.slice(1);
  }
  if (rules.stripNumbering)
    pieces = worded(
      pieces.map((piece) => piece.replace(LIST_ITEM, '')),
      rules,
    );
  return pieces;
}

function announces(pieces: readonly string[]): boolean {
  const [first, second] = pieces;
  if (first === undefined || second === undefined || LIST_ITEM.test(first)) return false;
  return first.endsWith(':') || LIST_ITEM.test(second);
}

function worded(pieces: readonly string[], rules: ParseOptions): string[] {
  const needed = rules.dropWordless ? /[\p{L}\p{N}]/u : /\S/;
  return pieces.map((piece) => piece.trim()).filter((piece) => needed.test(piece));
}
