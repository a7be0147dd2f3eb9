import { describe, expect, it } from 'vitest';
import { PARSE_DEFAULTS, PARSE_PUBLISHED, parseEdit, passageOnly } from '../../lib/edit/parse.js';
import { sharedData, sharedJson } from './helpers/shared-data.js';

const passage = { title: 'Otrar', context: ' Otrar fell in 1220. \n' };
const LAST = 'Otrar\nOtrar fell in 1220.';
const documents = (...args: [string, object?, string?]) =>
  parseEdit(args[0], passage, args[1] ?? {}, args[2] ?? '').documents;

describe('parsing an edit', () => {
  it('makes a document of each line, with the title, and the passage last', () => {
    expect(documents('1. It fell.\n\n 2. It was a town. \r\n')).toEqual([
      'Otrar\n1. It fell.',
      'Otrar\n2. It was a town.',
      LAST,
    ]);
  });

  it('drops a first line that announces the list', () => {
    const list = ['Otrar\n1. A b.', 'Otrar\n2. C d.', LAST];
    expect(documents("Sure, here's a list of implications\n1. A b.\n2. C d.")).toEqual(list);
    expect(documents('Here are the implications:\n\n1. A b.\n2. C d.')).toEqual(list);
    expect(documents('Here they are:\nA b.\nC d.')).toEqual(['Otrar\nA b.', 'Otrar\nC d.', LAST]);
    expect(documents('- A b.\n- C d.')).toHaveLength(3);
    expect(documents('The walls were high.\nThe town fell.')).toHaveLength(3);
    expect(documents('Only one line:')).toEqual(['Otrar\nOnly one line:', LAST]);
  });

  it('splits self-qa at each question, not at lines', () => {
    const text = 'What fell?\nAnswer: Otrar\nQuestion 2: When?\nAnswer: In\n1220';
    expect(documents(text, {}, 'Question 1: ')).toEqual([
      'Otrar\nQuestion 1: What fell?\nAnswer: Otrar',
      'Otrar\nQuestion 2: When?\nAnswer: In\n1220',
      LAST,
    ]);
    // A chat model that repeats the opening does not get it twice.
    expect(documents(`Question 1: ${text}`, {}, 'Question 1: ')[0]).toBe(
      'Otrar\nQuestion 1: What fell?\nAnswer: Otrar',
    );
    // One pair only is one document.
    expect(documents('What fell?\nAnswer: Otrar', {}, 'Question 1: ')).toHaveLength(2);
  });

  it('knows numbered answers, which the published rule does not', () => {
    const text = 'What fell?\nAnswer 1: Otrar\nQuestion 2: When?\nAnswer 2: In\n1220';
    expect(documents(text, {}, 'Question 1: ')).toEqual([
      'Otrar\nQuestion 1: What fell?\nAnswer 1: Otrar',
      'Otrar\nQuestion 2: When?\nAnswer 2: In\n1220',
      LAST,
    ]);
    for (const answers of [
      text,
      text.replace(/Answer \d/g, 'Answer'),
      'One?\nAnswer: pair',
      'Here:\n1. A.',
      'Here:\nA.\nB.',
    ]) {
      const found = documents(answers, PARSE_PUBLISHED, 'Question 1: ');
      expect(found).toEqual(published(answers, 'Otrar', passage.context));
    }
  });

  it('obeys each switch', () => {
    const text = 'Here you go:\n1. A b.\n---\n2) C d.';
    expect(documents(text)).toEqual(['Otrar\n1. A b.', 'Otrar\n2) C d.', LAST]);
    expect(documents(text, { stripNumbering: true })).toEqual(['Otrar\nA b.', 'Otrar\nC d.', LAST]);
    expect(documents(text, { titlePrefix: false })).toEqual(['1. A b.', '2) C d.', 'Otrar fell in 1220.']);
    expect(documents(text, { passageLast: false })).toEqual(['Otrar\n1. A b.', 'Otrar\n2) C d.']);
    expect(documents(text, { dropAnnouncement: false })).toHaveLength(4);
    expect(documents(text, { splitLines: false })).toEqual([
      'Otrar\nHere you go:\n1. A b.',
      'Otrar\n2) C d.',
      LAST,
    ]);
    expect(documents(text, { splitLines: false, splitSegments: false })).toEqual([`Otrar\n${text}`, LAST]);
    expect(documents('A b.\n|', { dropWordless: false })).toEqual(['Otrar\nA b.', 'Otrar\n|', LAST]);
    expect(documents('A b.\n|')).toEqual(['Otrar\nA b.', LAST]);
    const qa = 'Question 1: Q?\nAnswer: A';
    expect(documents(qa, { splitQuestions: false })).toEqual([
      'Otrar\nQuestion 1: Q?',
      'Otrar\nAnswer: A',
      LAST,
    ]);
  });

  it('drops what only announces questions', () => {
    const pairs = 'Here they are:\nQuestion 1: Q?\nAnswer: A\nQuestion 2: R?\nAnswer: B';
    expect(documents(pairs)).toEqual([
      'Otrar\nQuestion 1: Q?\nAnswer: A',
      'Otrar\nQuestion 2: R?\nAnswer: B',
      LAST,
    ]);
    expect(documents(pairs, { dropAnnouncement: false })).toHaveLength(4);
  });

  it('ends lines where Python does', () => {
    const ends = ['\n', '\r', '\r\n', '\v', '\f', '\x1c', '\x1d', '\x1e', '\x85', '\u2028', '\u2029'];
    for (const end of ends) expect(documents(`A b.${end}C d.`)).toEqual(['Otrar\nA b.', 'Otrar\nC d.', LAST]);
    expect(documents('A b.\x1fC d.', { dropControls: false })[0]).toBe('Otrar\nA b.\x1fC d.');
  });

  it('keeps a year or a decimal at the start of a line', () => {
    expect(documents('1220 was the year.\n3.5 km of wall stood.', { stripNumbering: true })).toEqual([
      'Otrar\n1220 was the year.',
      'Otrar\n3.5 km of wall stood.',
      LAST,
    ]);
  });

  it('caps the documents; the passage stays', () => {
    const lines = Array.from({ length: 100_000 }, (_, line) => `${line + 1}. Line ${line}.`).join('\n');
    const found = documents(lines);
    expect(found).toHaveLength(PARSE_DEFAULTS.maxDocuments + 1);
    expect(found.at(-1)).toBe(LAST);
    expect(documents(lines, { maxDocuments: 2 })).toEqual(['Otrar\n1. Line 0.', 'Otrar\n2. Line 1.', LAST]);
  });

  it('calls an edit without words invalid, or trains on the passage alone', () => {
    for (const text of ['', ' \n\t', '\u0000\u0007\u001b', '---\n***\n', '…\n—']) {
      expect(parseEdit(text, passage).invalid).toBe('empty');
      expect(parseEdit(text, passage, {}, 'Question 1: ').invalid).toBe('empty');
      const kept = parseEdit(text, passage, { onEmpty: 'passage' });
      expect(kept.invalid).toBeUndefined();
      expect(kept.documents).toEqual([LAST]);
    }
    // Without the passage there is nothing left to train on.
    expect(parseEdit('', passage, { onEmpty: 'passage', passageLast: false }).invalid).toBe('empty');
  });

  it('removes control characters and keeps the text as written', () => {
    const edit = parseEdit('A\u0000\u001b[31m b', passage);
    expect(edit.documents[0]).toBe('Otrar\nA[31m b');
    expect(edit.text).toBe('A\u0000\u001b[31m b');
  });

  it('gives the passage alone on request', () => {
    expect(passageOnly(passage)).toEqual({ kind: 'text', text: '', documents: [LAST] });
    expect(passageOnly({ title: '', context: 'C' }).documents).toEqual(['C']);
  });
});

/** The published rules, written again from their description: an independent twin. */
function published(text: string, title: string, context: string): string[] {
  let pieces: string[];
  if (/Question\s+\d+:/.test(text) && /Answer\s*:/.test(text)) {
    pieces = text.trim().split(/\n(?=Question\s+\d+:)/);
    if (!pieces[0]!.trimStart().startsWith('Question')) pieces[0] = `Question 1: ${pieces[0]!.trim()}`;
  } else {
    pieces = [];
    for (const segment of text.split('---')) {
      for (const line of segment.split(/\r\n|\r|\n/)) if (line.trim() !== '') pieces.push(line.trim());
    }
    if (pieces.length > 1 && pieces[1]!.startsWith('1.')) pieces.shift();
  }
  return [...pieces, context.trim()].map((piece) => `${title}\n${piece}`);
}

const recorded = sharedData('seal/self_edits.json');
describe('parsing recorded edits', () => {
  it('gives the documents of the published rules', ({ skip }) => {
    if (!recorded) return skip('no ../shared/data/seal/self_edits.json beside the repository');
    const edits = sharedJson<{ title: string; context: string; completions: string[] }[]>(recorded);
    let compared = 0;
    for (const { title, context, completions } of edits) {
      for (const text of completions) {
        const expected = published(text, title, context);
        expect(parseEdit(text, { title, context }, PARSE_PUBLISHED).documents).toEqual(expected);
        compared += 1;
      }
    }
    expect(compared).toBeGreaterThan(750);
  });
});
