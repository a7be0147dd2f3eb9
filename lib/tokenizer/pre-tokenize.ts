/** The pre-tokenizers of a tokenizer.json: what cuts the text into the pieces that are merged each by itself. */
import { show } from '../format/json.js';
import { CHARACTER_OF_BYTE } from './decode.js';
import { flatten, GPT2_PATTERN, split } from './parts.js';
import { compilePattern } from './pattern.js';
import { invalid, type Part } from './schema.js';

/** `isFirst` says that the text before the first piece is none. */
export type PreTokenizer = (text: string, isFirst: boolean) => string[];
type Step = (piece: string, isFirst: boolean) => string[];

/** All of them, one after the other. Errors: `TOKENIZER_INVALID` for one that is not supported. */
export function makePreTokenizer(part: Part | null, source: string): PreTokenizer {
  const steps = flatten(part, 'pretokenizers').flatMap((member) => stepsOf(member, source));
  return (text, isFirst) =>
    steps.reduce(
      (pieces, step) => pieces.flatMap((piece, i) => step(piece, isFirst && i === 0)),
      text === '' ? [] : [text],
    );
}

function stepsOf(part: Part, source: string): Step[] {
  switch (part.type) {
    case 'ByteLevel': {
      const prefix: Step = (piece) => [piece.startsWith(' ') ? piece : ` ${piece}`];
      const pattern = part.use_regex === false ? [] : stepsOf(split(GPT2_PATTERN), source);
      return [
        ...(part.add_prefix_space === true ? [prefix] : []),
        ...pattern,
        (piece) => [inByteAlphabet(piece)],
      ];
    }
    case 'Digits': {
      // A digit is whatever Unicode calls a number.
      const behavior = part.individual_digits === true ? 'Isolated' : 'Contiguous';
      return [splitter(/\p{N}/gu, behavior, false)];
    }
    case 'Split': {
      const behavior = BEHAVIORS.find((name) => name === part.behavior);
      if (behavior === undefined) {
        throw invalid(
          source,
          `Split with behavior ${show(part.behavior)} is not supported; supported: ${BEHAVIORS.join(', ')}`,
        );
      }
      return [splitter(compilePattern(part, source), behavior, part.invert === true)];
    }
    case 'Metaspace':
      return metaspace(part, source);
    default:
      throw invalid(
        source,
        `pre-tokenizer ${show(part.type)} is not supported; supported: ByteLevel, Digits, Split, Metaspace`,
      );
  }
}

/** UTF-8 in GPT-2's spelling of the 256 bytes. */
function inByteAlphabet(text: string): string {
  let spelt = '';
  for (const byte of Buffer.from(text, 'utf8')) spelt += CHARACTER_OF_BYTE[byte];
  return spelt;
}

/** A mark in the place of spaces, and before the text, or before its beginning only. */
function metaspace(part: Part, source: string): Step[] {
  const mark = typeof part.replacement === 'string' ? part.replacement : '\u2581';
  const scheme = part.prepend_scheme ?? (part.add_prefix_space === false ? 'never' : 'always');
  const marked: Step = (piece, isFirst) => {
    const text = piece.replaceAll(' ', mark);
    const wanted = scheme === 'always' || (scheme === 'first' && isFirst);
    return [wanted && !text.startsWith(mark) ? mark + text : text];
  };
  if (part.split === false) return [marked];
  const pattern = compilePattern({ type: 'Metaspace', pattern: { String: mark } }, source);
  return [marked, splitter(pattern, 'MergedWithNext', false)];
}

/** What becomes of the matches of a pattern, in the order of the original's documentation. */
const BEHAVIORS = ['Removed', 'Isolated', 'MergedWithPrevious', 'MergedWithNext', 'Contiguous'] as const;
type Behavior = (typeof BEHAVIORS)[number];

interface Stretch {
  text: string;
  isMatch: boolean;
}

/** Matches, or with `invert` what lies between them, are cut out of a piece as `behavior` says. */
function splitter(pattern: RegExp, behavior: Behavior, invert: boolean): Step {
  return (piece) => {
    const stretches: Stretch[] = [];
    let end = 0;
    for (const { 0: text, index } of piece.matchAll(pattern)) {
      if (index > end) stretches.push({ text: piece.slice(end, index), isMatch: invert });
      stretches.push({ text, isMatch: !invert });
      end = index + text.length;
    }
    if (end < piece.length) stretches.push({ text: piece.slice(end), isMatch: invert });
    return COMBINE[behavior](stretches).filter((text) => text !== '');
  };
}

const COMBINE: Record<Behavior, (stretches: readonly Stretch[]) => string[]> = {
  Isolated: (stretches) => stretches.map(({ text }) => text),
  Removed: (stretches) => stretches.filter(({ isMatch }) => !isMatch).map(({ text }) => text),
  Contiguous: (stretches) => {
    const joined: Stretch[] = [];
    for (const { text, isMatch } of stretches) {
      const last = joined.at(-1);
      if (last?.isMatch === isMatch) last.text += text;
      else joined.push({ text, isMatch });
    }
    return joined.map(({ text }) => text);
  },
  // Of matches in a row, only the first joins the piece before it.
  MergedWithPrevious: (stretches) => {
    const joined: string[] = [];
    stretches.forEach(({ text, isMatch }, i) => {
      const joins = isMatch && joined.length > 0 && !stretches[i - 1]!.isMatch;
      joined.push(joins ? joined.pop()! + text : text);
    });
    return joined;
  },
  // And only the last joins the piece behind it.
  MergedWithNext: (stretches) => {
    const joined: string[] = [];
    for (let i = stretches.length - 1; i >= 0; i--) {
      const { text, isMatch } = stretches[i]!;
      const joins = isMatch && joined.length > 0 && !stretches[i + 1]!.isMatch;
      joined.push(joins ? text + joined.pop()! : text);
    }
    return joined.reverse();
  },
};
