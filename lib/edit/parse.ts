/**
 * From the text of a self-edit to training documents, by the rules of the published SEAL code (knowledge
 * incorporation). Each rule has a switch. Whatever the text, parsing is linear in its length and never throws.
 */
import type { Augmentation } from '../task/augmentations.js';
import { DIRECTIVE_DEFAULTS, type DirectiveBounds } from './directives.js';
import type { Span, TrainingDocument } from './documents.js';
import type { TextEdit } from './edit.js';
import { type DirectiveReading, readDirectives } from './read-directives.js';

/** The rules, in the order in which they act. */
export interface ParseOptions {
  /** Control characters other than tab and line ends are removed (the published code keeps them). */
  dropControls: boolean;
  /** Lines of dashes (`---`) separate documents. */
  splitSegments: boolean;
  /**
   * A text with `Question N:` and `Answer:` or `Answer N:` splits before each question and not at lines. `'published'`:
   * numbered answers do not count, so that such a text falls to the lines, and then without the prompt's opening.
   */
  splitQuestions: boolean | 'published';
  /** Each line is a document. */
  splitLines: boolean;
  /**
   * With `splitLines` or `splitQuestions`: a first line that only announces the list ("Sure, here are…") is dropped.
   * `'published'`: whatever stands before a line that begins with `1.`, and nothing else.
   */
  dropAnnouncement: boolean | 'published';
  /** A piece without a letter or a digit is dropped (the published code keeps it). */
  dropWordless: boolean;
  /** `1.`, `2)`, `-` and `*` before a line are removed (the published code keeps them). */
  stripNumbering: boolean;
  /** Every document starts with the title on a line of its own. */
  titlePrefix: boolean;
  /** The passage itself is the last document. */
  passageLast: boolean;
  /** Most documents taken from the text; the passage and augmentations do not count. */
  maxDocuments: number;
  /** An edit that holds nothing to train on is `'invalid'`, or trains on the `'passage'` alone. */
  onEmpty: 'invalid' | 'passage';
  /**
   * What bears loss: `'all'` tokens; the `'output'`: of questions and answers the answers, of other documents all behind
   * the title; or what comes `after` the first occurrence of a string (all of a document without it).
   */
  loss: LossRule;
}

export type LossRule = 'all' | 'output' | { readonly after: string };

export const PARSE_DEFAULTS: Readonly<ParseOptions> = {
  dropControls: true,
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
  loss: 'all',
};

/** The rules of the published code, with its omissions. */
export const PARSE_PUBLISHED: Readonly<ParseOptions> = {
  ...PARSE_DEFAULTS,
  dropControls: false,
  splitQuestions: 'published',
  dropAnnouncement: 'published',
  dropWordless: false,
  maxDocuments: Number.MAX_SAFE_INTEGER,
  onEmpty: 'passage',
};

/** Beyond the rules: whether an edit may hold directives, and what they may name. */
export interface ReadOptions extends Partial<ParseOptions> {
  /** Bounds of training directives; without them the text is not looked through for any. */
  directives?: Partial<DirectiveBounds> | undefined;
  /** Layers of the model, as bounds of `directives.layers`. */
  layers?: number;
  /** What the task offers for `directives.augmentations`. */
  augmentations?: Readonly<Record<string, Augmentation>> | undefined;
}

const LIST_ITEM = /^(?:\d{1,4}[.)]|[-*•])\s/;
const QUESTION = /Question\s+\d+:/;
const NEXT_QUESTION = /\n(?=Question\s+\d+:)/;
const ANSWER = /Answer(?:\s+\d+)?\s*:/;
const PUBLISHED_ANSWER = /Answer\s*:/;
/** Line ends as Python's `splitlines` has them, which the published code uses. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
const LINE_END = /\r\n|[\r\v\f\u001c-\u001e\u0085\u2028\u2029]/g;
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
const CONTROL = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g;

/**
 * Documents of the edit `text` about a passage. `opening` is what the prompt put into the model's mouth
 * (see `EditTemplate.opening`); it becomes part of the text.
 */
export function parseEdit(
  text: string,
  passage: { readonly title: string; readonly context: string },
  options: ReadOptions = {},
  opening = '',
): TextEdit {
  const rules = { ...PARSE_DEFAULTS, ...options };
  const lines = text.replace(LINE_END, '\n');
  const clean = (rules.dropControls ? lines.replace(CONTROL, '') : lines).trim();
  const empty = worded([clean], rules).length === 0;
  const bare = rules.splitQuestions === 'published' && options.directives === undefined;
  const whole = bare ? clean : withOpening(clean, opening);
  const found = empty ? { text: '' } : withDirectives(whole, options);
  if ('invalid' in found) {
    return { kind: 'text', text, documents: [], invalid: found.invalid, detail: found.detail };
  }
  const { directives } = found;
  const pieces = split(found.text, rules).slice(0, rules.maxDocuments);
  // Directives alone say how to train on the passage.
  const passageWillDo = rules.passageLast && (rules.onEmpty === 'passage' || directives !== undefined);
  const invalid = pieces.length === 0 && !passageWillDo;
  const last = rules.passageLast ? [passage.context.trim()] : [];
  const more = (directives?.augmentations ?? []).flatMap(
    (name) => options.augmentations?.[name]?.([...pieces, ...last], passage) ?? [],
  );
  const title = rules.titlePrefix && passage.title !== '' ? `${passage.title}\n` : '';
  const loss = directives?.loss ?? rules.loss;
  const documents = [...pieces, ...more, ...last].map((piece) => toDocument(title, piece, loss));
  return {
    kind: 'text',
    text,
    documents,
    ...(directives ? { directives } : {}),
    ...(invalid ? { invalid: 'empty' } : {}),
  };
}

/** The documents of training on the passage alone: the plainest edit, and the baseline of the closing table. */
export function passageOnly(
  passage: { readonly title: string; readonly context: string },
  options: Partial<ParseOptions> = {},
): TextEdit {
  return parseEdit('', passage, { ...options, passageLast: true, onEmpty: 'passage' });
}

function withDirectives(text: string, { directives, layers, augmentations }: ReadOptions): DirectiveReading {
  if (directives === undefined) return { text };
  const bounds = { ...DIRECTIVE_DEFAULTS, ...directives };
  const offered = Object.keys(augmentations ?? {});
  return readDirectives(text, bounds, { ...(layers ? { layers } : {}), augmentations: offered });
}

// A model that repeats the opening by itself does not get it twice.
function withOpening(text: string, opening: string): string {
  const head = opening.trim();
  return head === '' || text.startsWith(head) ? text : opening + text;
}

// The published code adds the opening here and nowhere else, and trims no other piece.
function publishedQuestions(text: string): string[] | undefined {
  if (!QUESTION.test(text) || !PUBLISHED_ANSWER.test(text)) return undefined;
  const [first, ...others] = text.split(NEXT_QUESTION);
  return [first!.startsWith('Question') ? first! : `Question 1: ${first!.trim()}`, ...others];
}

function split(text: string, rules: ParseOptions): string[] {
  const published = rules.splitQuestions === 'published' ? publishedQuestions(text) : undefined;
  if (published) return published;
  if (rules.splitQuestions === true && QUESTION.test(text) && ANSWER.test(text)) {
    const pairs = worded(text.split(NEXT_QUESTION), rules);
    const [first] = pairs;
    const announced = rules.dropAnnouncement === true && first?.endsWith(':') && !QUESTION.test(first);
    return announced ? pairs.slice(1) : pairs;
  }
  let pieces = rules.splitSegments ? worded(text.split('---'), rules) : worded([text], rules);
  if (rules.splitLines) {
    pieces = worded(
      pieces.flatMap((piece) => piece.split('\n')),
      rules,
    );
    if (announces(pieces, rules)) pieces = pieces.slice(1);
  }
  if (rules.stripNumbering)
    pieces = worded(
      pieces.map((piece) => piece.replace(LIST_ITEM, '')),
      rules,
    );
  return pieces;
}

function announces([first, second]: readonly string[], { dropAnnouncement }: ParseOptions): boolean {
  if (!dropAnnouncement || first === undefined || second === undefined) return false;
  if (dropAnnouncement === 'published') return second.startsWith('1.');
  if (LIST_ITEM.test(first)) return false;
  return first.endsWith(':') || LIST_ITEM.test(second);
}

function worded(pieces: readonly string[], rules: ParseOptions): string[] {
  const needed = rules.dropWordless ? /[\p{L}\p{N}]/u : /\S/;
  return pieces.map((piece) => piece.trim()).filter((piece) => needed.test(piece));
}

function toDocument(title: string, piece: string, loss: LossRule): TrainingDocument {
  const text = title + piece;
  if (loss === 'all') return text;
  if (loss === 'output') return { text, spans: outputOf(text, title.length) };
  const found = text.indexOf(loss.after);
  return found < 0 ? text : { text, spans: [[found + loss.after.length, text.length]] };
}

// The answers; in a text without questions all behind the title.
function outputOf(text: string, behindTitle: number): Span[] {
  const marks = [...text.matchAll(/(Question\s+\d+:)|Answer(?:\s+\d+)?\s*:/g)];
  if (marks.length === 0) return [[behindTitle, text.length]];
  return marks.flatMap(({ 0: mark, 1: question, index }, at): Span[] => {
    const answer = text.slice(index + mark.length, marks[at + 1]?.index);
    const start = index + mark.length + answer.length - answer.trimStart().length;
    const { length } = answer.trim();
    return question || length === 0 ? [] : [[start, start + length]];
  });
}
