/** Added tokens: texts that become one token wherever they stand, before anything else is done. */
import type { Normalizer } from './normalize.js';
import type { AddedToken } from './schema.js';

/** A stretch of a text: a token, or what lies between two of them. */
export interface Section {
  text: string;
  /** Where it starts. */
  start: number;
  /** The token, where it is one. */
  id?: number;
}

const WORD = '[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}]';
const WORD_AT_START = new RegExp(`^${WORD}`, 'u');
const WORD_AT_END = new RegExp(`${WORD}$`, 'u');
const SPACE = /\p{White_Space}/u;

interface Node {
  next: Map<number, Node>;
  token?: AddedToken;
}

/** Finds tokens by their text: of several that start at one place the longest, none within another. */
export class AddedTokens {
  readonly #root: Node = { next: new Map() };

  /** `spelling` says what the text looks like where the tokens are looked for. */
  constructor(tokens: readonly AddedToken[], spelling: Normalizer = (text) => text) {
    for (const token of tokens) {
      let node = this.#root;
      const text = spelling(token.content);
      for (let i = 0; i < text.length; i++) {
        const code = text.charCodeAt(i);
        let next = node.next.get(code);
        if (next === undefined) {
          next = { next: new Map() };
          node.next.set(code, next);
        }
        node = next;
      }
      if (node !== this.#root) node.token = token;
    }
  }

  /** The text in order, without empty stretches. A token that strips takes the white space beside it. */
  split(text: string): Section[] {
    const sections: Section[] = [];
    let reached = 0;
    for (let at = 0; at < text.length; ) {
      const found = this.#longest(text, at);
      if (found === undefined) {
        at++;
        continue;
      }
      const [token, length] = found;
      let start = at;
      let end = at + length;
      at = end;
      if (
        token.single_word &&
        (WORD_AT_END.test(lastOf(text, start)) || WORD_AT_START.test(text.slice(end, end + 2)))
      ) {
        continue;
      }
      while (token.lstrip && start > reached && SPACE.test(text.charAt(start - 1))) start--;
      while (token.rstrip && end < text.length && SPACE.test(text.charAt(end))) end++;
      if (start > reached) sections.push({ text: text.slice(reached, start), start: reached });
      sections.push({ text: text.slice(start, end), start, id: token.id });
      reached = end;
    }
    if (reached < text.length) sections.push({ text: text.slice(reached), start: reached });
    return sections;
  }

  #longest(text: string, at: number): [AddedToken, number] | undefined {
    let node: Node | undefined = this.#root;
    let found: [AddedToken, number] | undefined;
    for (let end = at; end < text.length; end++) {
      node = node.next.get(text.charCodeAt(end));
      if (node === undefined) break;
      if (node.token) found = [node.token, end + 1 - at];
    }
    return found;
  }
}

/** The last character before `end`, whole. */
function lastOf(text: string, end: number): string {
  return Array.from(text.slice(Math.max(0, end - 2), end)).at(-1) ?? '';
}
