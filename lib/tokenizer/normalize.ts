/** The normalizers of a tokenizer.json: what changes the text before it is cut. */
import { show } from '../format/json.js';
import { flatten } from './parts.js';
import { compilePattern } from './pattern.js';
import { invalid, type Part } from './schema.js';

export type Normalizer = (text: string) => string;

const FORMS = ['NFC', 'NFD', 'NFKC', 'NFKD'] as const;
const SUPPORTED = [...FORMS, 'Prepend', 'Replace', 'Lowercase', 'Strip'];

/** All of them, one after the other. Errors: `TOKENIZER_INVALID` for one that is not supported. */
export function makeNormalizer(part: Part | null, source: string): Normalizer {
  const steps = flatten(part, 'normalizers').map((member) => step(member, source));
  return (text) => steps.reduce((changed, change) => change(changed), text);
}

function step(part: Part, source: string): Normalizer {
  const form = FORMS.find((name) => name === part.type);
  if (form) return (text) => text.normalize(form);
  switch (part.type) {
    case 'Prepend': {
      const prefix = String(part.prepend ?? '');
      return (text) => (text === '' ? text : prefix + text);
    }
    case 'Replace': {
      const pattern = compilePattern(part, source);
      const content = String(part.content ?? '');
      return (text) => text.replace(pattern, () => content);
    }
    case 'Lowercase':
      // Character by character: the whole text at once would spell a last sigma differently.
      return (text) => Array.from(text, (character) => character.toLowerCase()).join('');
    case 'Strip': {
      const pattern = new RegExp(
        [
          part.strip_left === false ? '(?!)' : '^\\p{White_Space}+',
          part.strip_right === false ? '(?!)' : '\\p{White_Space}+$',
        ].join('|'),
        'gu',
      );
      return (text) => text.replace(pattern, '');
    }
    default:
      throw invalid(
        source,
        `normalizer ${show(part.type)} is not supported; supported: ${SUPPORTED.join(', ')}`,
      );
  }
}
