/**
 * Prompts that ask a model for a self-edit. The base-model wordings are those of the paper (Self-Adapting Language
 * Models, arXiv 2506.10943, appendix B), with a line for the task description, which vanishes when that is empty;
 * the chat wordings are this project's.
 */
import { makeError } from '../errors.js';

/** A prompt for one kind of self-edit. Every text may use `{context}`, `{title}` and `{task}`. */
export interface EditTemplate {
  readonly name: string;
  /** Completed by a base model. Must hold all three placeholders. */
  readonly base: string;
  /** Asked of a chat model; system and user together must hold all three placeholders. */
  readonly chat: { readonly system?: string; readonly user: string };
  /** First words of the answer, put into the model's mouth; they count as part of the edit. */
  readonly opening?: string;
}

/** The description of the task that fills `{task}` when the caller gives none. */
export const DEFAULT_TASK =
  'What you write will be used to train a model that must later answer questions about the passage without seeing it.';

const PLACEHOLDERS = ['context', 'title', 'task'] as const;
const PASSAGE = '{task}\n\nPassage:\n{title}\n{context}\n\n';
const SYSTEM = 'You write study material about the passage that the user gives. {task}';

/** A template whose base wording asks for `request`, then shows the passage, then names what follows. */
function passageTemplate(name: string, request: string, heading: string, ask: string, opening?: string) {
  const chat = { system: SYSTEM, user: `{title}\n{context}\n\n${ask}` };
  const base = `Let's read the following passage and ${request}\n${PASSAGE}${heading}`;
  return { name, base, chat, ...(opening === undefined ? {} : { opening }) };
}

function implications(name: string, list: string, ask: string): EditTemplate {
  return passageTemplate(
    name,
    `produce ${list} of implications derived directly or indirectly from the content.`,
    'Implications:\n',
    `${ask} Write one statement a line, each complete by itself, and nothing else.`,
  );
}

/** Short, so that a small model can copy it; an edit may choose more (see `Directives`). */
const DIRECTIVES_EXAMPLE = '{"learningRate": 0.001, "epochs": 10}';

const TEMPLATES: readonly EditTemplate[] = [
  implications('implications', 'a list', 'List what follows, directly or indirectly, from this passage.'),
  implications(
    'implications-long',
    'a long list',
    'Write a long list of what follows, directly or indirectly, from this passage.',
  ),
  implications(
    'implications-very-long',
    'a very long list',
    'Write a very long list of everything that follows, directly or indirectly, from this passage.',
  ),
  passageTemplate(
    'rewrite',
    'rewrite it in a few different ways, each one separated by a newline.',
    'Rewritten passages:\n',
    'Rewrite this passage in a few different ways, one rewording a line, and write nothing else.',
  ),
  passageTemplate(
    'self-qa',
    'rewrite it in a question-answer format.',
    '',
    'Rewrite this passage as questions and answers: "Question 1: …", then "Answer: …", and so on.',
    'Question 1: ',
  ),
  passageTemplate(
    'chain-of-thought',
    'think step by step about what it says and what follows from it.',
    'Thoughts:\n',
    'Think step by step about what this passage says and what follows from it. Write one thought a line.',
  ),
  passageTemplate(
    'directives',
    'choose how a model should be trained on it, as a JSON object, then produce a list of implications derived ' +
      'directly or indirectly from the content.',
    `Example of a JSON object:\n${DIRECTIVES_EXAMPLE}\n\nJSON object and implications:\n`,
    `First choose how a model should be trained on this passage, as one JSON object on a line of its own such as ${DIRECTIVES_EXAMPLE}. ` +
      'Behind it list what follows, directly or indirectly, from the passage. Write one statement a line and nothing else.',
    '{"learningRate": ',
  ),
  {
    name: 'none',
    base: '{task}\n\n{title}\n{context}\n\n',
    chat: { user: '{task}\n\n{title}\n{context}' },
  },
];

/** Names of the built-in templates. */
export const EDIT_TEMPLATES: readonly string[] = TEMPLATES.map((template) => template.name);

/**
 * The built-in template of that name, or the caller's own template after a check.
 * Throws `OPTION_INVALID` for an unknown name or a template that lacks a placeholder.
 */
export function editTemplate(nameOrTemplate: string | EditTemplate): EditTemplate {
  if (typeof nameOrTemplate !== 'string') return checkTemplate(nameOrTemplate);
  const found = TEMPLATES.find((template) => template.name === nameOrTemplate);
  if (found) return found;
  throw makeError(
    'OPTION_INVALID',
    `edit prompt "${nameOrTemplate}" is not known; expected one of ${EDIT_TEMPLATES.join(', ')}, or a template`,
  );
}

function checkTemplate(template: EditTemplate): EditTemplate {
  const chat = (template.chat.system ?? '') + template.chat.user;
  for (const [form, text] of [
    ['base', template.base],
    ['chat', chat],
  ] as const) {
    const missing = PLACEHOLDERS.filter((name) => !text.includes(`{${name}}`));
    if (missing.length === 0) continue;
    throw makeError(
      'OPTION_INVALID',
      `edit prompt "${template.name}" (${form} form) lacks ${missing.map((name) => `{${name}}`).join(', ')}; ` +
        'expected {context}, {title} and {task} in each form',
    );
  }
  return template;
}

/** What fills a template. */
export interface EditSubject {
  readonly title: string;
  readonly context: string;
  /** Description of the task that the edit is to serve; '' leaves its line out. */
  readonly task: string;
}

// One pass, so that a passage which itself contains "{task}" stays as it is.
function fill(text: string, subject: EditSubject): string {
  const values = { context: subject.context.trim(), title: subject.title, task: subject.task.trim() };
  // An empty task or title takes its own line with it.
  const kept = text
    .split('\n')
    .filter(
      (line) => !(line === '{task}' && values.task === '') && !(line === '{title}' && values.title === ''),
    )
    .join('\n');
  return kept
    .replace(/\{(context|title|task)\}/g, (_, name: 'context' | 'title' | 'task') => values[name])
    .trimStart();
}

/** What rendering needs from a tokenizer. */
export interface PromptTokenizer {
  readonly isChat: boolean;
  encode(text: string, options?: { specialTokens?: boolean }): Int32Array;
  chat(
    messages: { role: 'system' | 'user' | 'assistant'; content: string }[],
    options?: { addGenerationPrompt?: boolean },
  ): string;
}

/** Which form of a prompt to use; 'auto' takes the chat form exactly when the tokenizer has a chat template. */
export type PromptForm = 'auto' | 'base' | 'chat';

/** A rendered prompt: its text, its tokens, and the words already put into the model's mouth. */
export interface RenderedPrompt {
  readonly text: string;
  readonly tokens: Int32Array;
  readonly opening: string;
}

/** Fills `template` with `subject` and encodes it for the model that `tokenizer` belongs to. */
export function renderEditPrompt(
  template: EditTemplate,
  subject: EditSubject,
  tokenizer: PromptTokenizer,
  form: PromptForm = 'auto',
): RenderedPrompt {
  const opening = template.opening ?? '';
  if (!useChat(tokenizer, form)) {
    const text = fill(template.base, subject) + opening;
    return { text, tokens: tokenizer.encode(text), opening };
  }
  const messages: { role: 'system' | 'user'; content: string }[] = [];
  const system = template.chat.system === undefined ? '' : fill(template.chat.system, subject).trim();
  if (system !== '') messages.push({ role: 'system', content: system });
  messages.push({ role: 'user', content: fill(template.chat.user, subject) });
  const text = tokenizer.chat(messages, { addGenerationPrompt: true }) + opening;
  return { text, tokens: tokenizer.encode(text, { specialTokens: false }), opening };
}

/** Whether `form` means the chat form for this tokenizer. Throws `OPTION_INVALID` for 'chat' without a template. */
export function useChat(tokenizer: { readonly isChat: boolean }, form: PromptForm): boolean {
  if (form === 'chat' && !tokenizer.isChat) {
    throw makeError(
      'OPTION_INVALID',
      'prompt form "chat" needs a tokenizer with a chat template; this one has none',
    );
  }
  return form === 'chat' || (form === 'auto' && tokenizer.isChat);
}
