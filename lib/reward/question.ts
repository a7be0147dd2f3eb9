/**
 * How a question is put to a model, without its passage. The base form is that of the published SEAL evaluation
 * (arXiv 2506.10943, appendix B); the chat form is this project's.
 */

import { type PromptForm, type PromptTokenizer, useChat } from '../edit/prompts.js';
import { makeError } from '../errors.js';

/** Wording of a question prompt; placeholders `{title}` and `{question}` (required). */
export interface QuestionTemplate {
  readonly base: string;
  readonly chat: { readonly system?: string; readonly user: string };
}

export const QUESTION_TEMPLATE: QuestionTemplate = {
  base: "Let's answer a question directly and concisely.\nQuestion: Topic: {title}\n{question}\nAnswer:\n",
  chat: { system: 'Answer the question directly, in a few words.', user: 'Topic: {title}\n{question}' },
};

/** Throws `OPTION_INVALID` when a form lacks `{question}`. */
export function checkQuestionTemplate(template: QuestionTemplate): QuestionTemplate {
  for (const [form, text] of [
    ['base', template.base],
    ['chat', template.chat.user],
  ] as const) {
    if (!text.includes('{question}')) {
      throw makeError('OPTION_INVALID', `question prompt (${form} form) lacks {question}`);
    }
  }
  return template;
}

/** Tokens of the question's prompt. */
export function renderQuestion(
  subject: { readonly title: string; readonly question: string },
  tokenizer: PromptTokenizer,
  form: PromptForm = 'auto',
  template: QuestionTemplate = QUESTION_TEMPLATE,
): Int32Array {
  const fill = (text: string) =>
    text
      .replace(subject.title === '' ? 'Topic: {title}\n' : /$^/, '')
      .replace(/\{(title|question)\}/g, (_, name: 'title' | 'question') => subject[name]);
  if (!useChat(tokenizer, form)) return tokenizer.encode(fill(template.base));
  const messages: { role: 'system' | 'user'; content: string }[] = [];
  if (template.chat.system !== undefined) messages.push({ role: 'system', content: template.chat.system });
  messages.push({ role: 'user', content: fill(template.chat.user) });
  return tokenizer.encode(tokenizer.chat(messages, { addGenerationPrompt: true }), { specialTokens: false });
}
