/**
 * Dialogue: the context of an edit is a conversation, and the edited model, which no longer sees it, answers messages that
 * only somebody who remembers it can answer well. There is no right answer: what pays is a judge's mark (the rubric of
 * `judge`), people's preferences, or a function of one's own; a message may have answers for graders that compare.
 */
import type { EditTemplate } from '../edit/prompts.js';
import { makeError } from '../errors.js';
import { deriveKey, permutation } from '../random.js';
import type { QuestionTemplate } from '../reward/question.js';
import type { ChatMessage } from '../tokenizer/chat.js';
import { asList, asObject, asText, invalid, parseJson, readText } from './json.js';
import { passesOver } from './passes.js';
import type { Question, Task, TaskContext } from './task.js';

/** Asks for what is worth remembering, one statement a line. */
const TEMPLATE: EditTemplate = {
  name: 'dialogue',
  base:
    "Let's read the following conversation and list what must be remembered of it: facts, wishes, decisions and promises.\n" +
    '{task}\n\nConversation:\n{title}\n{context}\n\nTo remember:\n',
  chat: {
    system: 'You write notes about the conversation that the user gives. {task}',
    user:
      '{title}\n{context}\n\nList what must be remembered of this conversation: facts, wishes, decisions and promises. ' +
      'Write one statement a line, each complete by itself, and nothing else.',
  },
};

/** A message is answered as it stands, without its conversation. */
const QUESTION: QuestionTemplate = {
  base: 'User: {question}\n\nAssistant:',
  chat: { user: '{question}' },
};

/** A conversation, and messages by which a model is tested that has learnt it. */
export interface Dialogue {
  readonly title: string;
  readonly messages: readonly ChatMessage[];
  readonly probes: readonly { readonly message: string; readonly answers: readonly string[] }[];
}

export interface DialogueOptions {
  /** Seed of every split and order. */
  seed: number | bigint;
  /** Share of a conversation's probes that pay reward; the others only report. At least one pays. */
  payingShare: number;
  /** Conversations kept unseen for the evaluation at the end. */
  evaluation: number;
  /** Most conversations to train on; undefined: all the others. */
  training?: number | undefined;
  /** Description of the task, for `{task}`. */
  description: string;
  /** Texts for the KL that keeps capabilities. */
  retentionTexts: readonly string[];
}

export const DIALOGUE_DEFAULTS: Readonly<DialogueOptions> = {
  seed: 0,
  payingShare: 0.5,
  evaluation: 0,
  description:
    'What you write will be used to train the assistant of this conversation, who must later know what was said and agreed in it.',
  retentionTexts: [],
};

/**
 * The task over conversations; which are kept unseen, and which probes pay, is drawn by key from the seed.
 * Errors: `INPUT_INVALID` for too few conversations, `OPTION_INVALID`.
 */
export function dialogue(dialogues: readonly Dialogue[], given: Partial<DialogueOptions> = {}): Task {
  const options = { ...DIALOGUE_DEFAULTS, ...given };
  const { seed, payingShare, evaluation } = options;
  if (!(payingShare > 0 && payingShare <= 1)) {
    throw makeError('OPTION_INVALID', `payingShare is ${payingShare}; expected more than 0 and at most 1`);
  }
  if (!(Number.isInteger(evaluation) && evaluation >= 0)) {
    throw makeError('OPTION_INVALID', `evaluation is ${evaluation}; expected a whole number of at least 0`);
  }
  if (dialogues.length <= evaluation) {
    throw makeError(
      'INPUT_INVALID',
      `${dialogues.length} conversations are too few; expected more than the ${evaluation} of the evaluation`,
    );
  }
  const order = permutation(deriveKey(seed, 'split', []), dialogues.length);
  const contexts = Array.from(order, (index, place) =>
    contextOf(dialogues[index]!, index, options, place >= evaluation),
  );
  const training = contexts.slice(evaluation).slice(0, options.training);
  return {
    name: 'dialogue',
    template: TEMPLATE,
    question: QUESTION,
    evaluation: contexts.slice(0, evaluation),
    retention: options.retentionTexts,
    contexts: passesOver(training, seed, 'pass'),
  };
}

const SPEAKERS = { system: 'System', user: 'User', assistant: 'Assistant' } as const;

/** A conversation as a text: a turn a paragraph, each with its speaker. */
export function transcript(messages: readonly ChatMessage[]): string {
  return messages.map(({ role, content }) => `${SPEAKERS[role]}: ${content.trim()}`).join('\n\n');
}

function contextOf(
  { title, messages, probes }: Dialogue,
  index: number,
  { seed, payingShare, description }: DialogueOptions,
  trained: boolean,
): TaskContext {
  const questions = probes.map(
    ({ message, answers }, at): Question => ({ id: `${index}.${at}`, question: message, answers }),
  );
  const order = permutation(deriveKey(seed, 'paying', [index]), questions.length);
  const pays = trained ? Math.max(1, Math.round(payingShare * questions.length)) : 0;
  const chosen = new Set(order.subarray(0, pays));
  return {
    id: String(index),
    title,
    context: transcript(messages),
    task: description,
    paying: questions.filter((_, at) => chosen.has(at)),
    report: questions.filter((_, at) => !chosen.has(at)),
  };
}

/** Conversations of a file: a JSON array, or one object a line (`.jsonl`). Errors name the file and the place. */
export async function readDialogues(path: string): Promise<Dialogue[]> {
  return parseDialogues(await readText(path), path);
}

/**
 * Conversations of a text: `{"title"?, "messages": [{"role", "content"}], "probes": [{"message", "answers"?}]}`; a probe may be
 * the message alone. `name` is what errors call it.
 */
export function parseDialogues(text: string, name: string): Dialogue[] {
  const source = text.replace(/^\ufeff/, '');
  const lines = /\.(jsonl|ndjson)$/i.test(name);
  const entries: [unknown, string][] = lines
    ? source.split('\n').flatMap((line, index): [unknown, string][] => {
        const where = `${name} line ${index + 1}`;
        return line.trim() === '' ? [] : [[parseJson(line, where), where]];
      })
    : asList(parseJson(source, name), name).map((item, index) => [item, `${name} [${index}]`]);
  if (entries.length === 0) throw invalid(name, 'holds no conversations', 'at least one');
  return entries.map(([value, where]) => dialogueOf(value, where));
}

function dialogueOf(value: unknown, where: string): Dialogue {
  const fields = asObject(value, where);
  const messages = asList(fields.messages, `${where}.messages`).map((item, index): ChatMessage => {
    const place = `${where}.messages[${index}]`;
    const { role, content } = asObject(item, place);
    if (role !== 'system' && role !== 'user' && role !== 'assistant') {
      throw invalid(`${place}.role`, `is ${JSON.stringify(role)}`, 'system, user or assistant');
    }
    return { role, content: asText(content, `${place}.content`) };
  });
  if (messages.length === 0) throw invalid(`${where}.messages`, 'is empty', 'at least one message');
  const probes = asList(fields.probes, `${where}.probes`).map((item, index) => {
    const place = `${where}.probes[${index}]`;
    if (typeof item === 'string') return { message: asText(item, place), answers: [] };
    const { message, answers = [] } = asObject(item, place);
    const given = asList(answers, `${place}.answers`);
    return {
      message: asText(message, `${place}.message`),
      answers: given.map((answer, at) => asText(answer, `${place}.answers[${at}]`)),
    };
  });
  if (probes.length === 0) throw invalid(`${where}.probes`, 'is empty', 'at least one message to answer');
  const twice = probes.find(
    ({ message }, at) => probes.findIndex((one) => one.message.trim() === message.trim()) !== at,
  );
  if (twice) throw invalid(`${where}.probes`, `hold "${twice.message}" twice`, 'each message once');
  return {
    title: fields.title === undefined ? '' : asText(fields.title, `${where}.title`),
    messages,
    probes,
  };
}
