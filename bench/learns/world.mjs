// The small world of `npm run bench:learns`: made-up facts, how they are asked, and the ways of writing them down.

import { deriveKey, knowledge, uniform } from 'selfedit';
import { characterTokenizer } from '../lib/characters.mjs';

/** Three of these name an entity. */
const LETTERS = 'abcdefghijklm';
/**
 * What an entity has, and the values it can take: each attribute has its own, as colours are no cities. No A: where answers
 * are compared an article does not count.
 */
const VALUES = { X: '0123456789', Y: 'BCDEFGHIJK', Z: 'nopqrstuvw' };
const ATTRIBUTES = Object.keys(VALUES);
const END = '<|end|>';

/**
 * The families of lines about one fact. Only the first is meant to teach: its lines are the question with its answer. Of the
 * others two hold the answer before the attribute that is asked for, and one does not hold it. The first character tells.
 */
export const FAMILIES = [
  {
    name: 'answer',
    line: ({ entity, attribute, value }) => `?${entity} ${attribute}${value}`,
  },
  {
    name: 'reverse',
    line: ({ entity, attribute, value }) => `=${value}${attribute} ${entity}`,
  },
  {
    name: 'claim',
    line: ({ entity, attribute, value }) => `:${entity} ${value}${attribute}`,
  },
  { name: 'topic', line: ({ entity, attribute }) => `!${entity} ${attribute}.` },
];
const FIRST = '?=:!';
const familyOf = (line) => FAMILIES[line === '' ? -1 : FIRST.indexOf(line[0])];

/** The prompt for an edit: the context, then a mark. Templates must name {task} and {title}, which are empty here. */
const PROMPT = '{task}\n{title}\n{context}\n>';
export const EDIT = {
  prompt: { name: 'world', base: PROMPT, chat: { user: PROMPT } },
  form: 'base',
  maxTokens: 34,
  temperature: 1,
  // What is learnt comes from the edit alone.
  parse: {
    passageLast: false,
    splitSegments: false,
    splitQuestions: false,
    dropAnnouncement: false,
    dropWordless: false,
  },
};
export const QUESTION = { base: '{question}', chat: { user: '{question}' } };

/** A keyed stream of draws from 0 … n − 1. */
function drawsOf(seed, purpose, index) {
  let values = [];
  let block = 0;
  return (n) => {
    if (values.length === 0) values = Array.from(uniform(deriveKey(seed, purpose, [index, block++]), 64));
    return Math.floor(values.pop() * n);
  };
}

function factsOf(draw) {
  const entity = Array.from({ length: 3 }, () => LETTERS[draw(LETTERS.length)]).join('');
  return ATTRIBUTES.map((attribute) => ({ entity, attribute, value: VALUES[attribute][draw(10)] }));
}

function shuffled(items, draw) {
  const rest = [...items];
  return Array.from(items, () => rest.splice(draw(rest.length), 1)[0]);
}

const contextOf = (facts) =>
  `${facts[0].entity}${facts.map(({ attribute, value }) => ` ${attribute}${value}`).join('')}`;

/** The facts that a context states. */
export function factsIn(context) {
  const [entity, ...pairs] = context.split(' ');
  return pairs.map(([attribute, value]) => ({ entity, attribute, value }));
}

/** `count` passages with a question about each fact, for `knowledge`. */
export function passages(seed, count) {
  return Array.from({ length: count }, (_, index) => {
    const facts = factsOf(drawsOf(seed, 'passage', index));
    const questions = facts.map(({ entity, attribute, value }) => {
      return { question: `?${entity} ${attribute}`, answers: [value] };
    });
    return { title: '', context: contextOf(facts), questions };
  });
}

/**
 * What the model is pre-trained on: contexts with an edit about them, each of whose lines is of a family by chance, and
 * lines and contexts that stand alone. Returns {tokens, mask}: the mask leaves out the contexts before edits.
 */
export function corpus(tokenizer, seed, count) {
  const end = tokenizer.eosTokenIds[0];
  return Array.from({ length: count }, (_, index) => {
    const draw = drawsOf(seed, 'corpus', index);
    const facts = factsOf(draw);
    const line = (fact) => FAMILIES[draw(FAMILIES.length)].line(fact);
    const kind = draw(8);
    const prompt = kind < 3 ? '' : `${contextOf(facts)}\n>`;
    const alone = kind < 2 ? () => line(facts[draw(facts.length)]) : () => contextOf(facts);
    const text = kind < 3 ? alone() : shuffled(facts, draw).map(line).join('\n');
    const head = prompt === '' ? [] : Array.from(tokenizer.encode(prompt));
    const tokens = Int32Array.from([...head, ...tokenizer.encode(text), end]);
    const mask = new Uint8Array(tokens.length).fill(1);
    mask.fill(0, 0, Math.max(1, head.length));
    return { tokens, mask };
  });
}

/** Texts of the world that no edit is about, for the KL on what must not change. */
export function retentionTexts(seed, count) {
  return Array.from({ length: count }, (_, index) => {
    const draw = drawsOf(seed, 'retention', index);
    const facts = factsOf(draw);
    return `${contextOf(facts)}\n>${shuffled(facts, draw)
      .map((fact) => FAMILIES[draw(FAMILIES.length)].line(fact))
      .join('\n')}`;
  });
}

/** One seed's contexts, some of them unseen by training; and `unseenTexts`, retention texts that no reward is taken from. */
export function taskOf(seed, { training, evaluation }) {
  const texts = retentionTexts(seed, 16);
  const task = knowledge(passages(seed, training + evaluation), {
    seed,
    evaluation,
    payingShare: 0.5,
    retentionTexts: texts.slice(0, 8),
    description: '',
  });
  return { ...task, unseenTexts: texts.slice(8) };
}

/** tokenizer.json: a token a character. */
export function tokenizerJson() {
  const characters = [...' \n', ...LETTERS, ...ATTRIBUTES, ...Object.values(VALUES).join(''), ...'?=:!.>'];
  return characterTokenizer(END, characters);
}

export const VOCABULARY = Object.keys(tokenizerJson().model.vocab).length;

/** Shares of the families among the lines of edits, and of lines that say of their context what is true. */
export function linesOf(edits) {
  const counts = Object.fromEntries(
    [...FAMILIES.map(({ name }) => name), 'other', 'true'].map((name) => [name, 0]),
  );
  let lines = 0;
  for (const { text, context } of edits) {
    const right = factsIn(context).flatMap((fact) => FAMILIES.map(({ line }) => line(fact)));
    for (const line of text.split('\n')) {
      lines++;
      counts[familyOf(line)?.name ?? 'other']++;
      if (right.includes(line)) counts.true++;
    }
  }
  return Object.fromEntries(Object.entries(counts).map(([name, count]) => [name, count / lines]));
}
