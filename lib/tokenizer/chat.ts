/** Chat templates: Jinja, as transformers renders them, except that they never see today's date. */
import { makeError } from '../errors.js';
import { show } from '../format/json.js';
import { renderTemplate } from './template-host.js';

export interface ChatMessage {
  role: 'system' | 'user' | 'assistant';
  content: string;
}

/**
 * Renders a conversation. `specialTokens` are the template's variables `bos_token`, `eos_token` and so on; `variables`
 * are further ones. Errors: `TEMPLATE_INVALID`, also for a template that takes too long; `INPUT_INVALID` for malformed
 * messages.
 */
export function renderChat(
  template: string,
  messages: readonly ChatMessage[],
  {
    specialTokens,
    addGenerationPrompt,
    variables = {},
  }: {
    specialTokens: Readonly<Record<string, string>>;
    addGenerationPrompt: boolean;
    variables?: Readonly<Record<string, unknown>>;
  },
): string {
  checkMessages(messages);
  return renderTemplate(template, {
    ...specialTokens,
    tools: null,
    documents: null,
    ...plain(variables),
    messages: messages.map(({ role, content }) => ({ role, content })),
    add_generation_prompt: addGenerationPrompt,
  });
}

/** What JSON can hold: functions and the like cannot go to the worker. */
function plain(variables: Readonly<Record<string, unknown>>): Record<string, unknown> {
  try {
    return JSON.parse(JSON.stringify(variables)) as Record<string, unknown>;
  } catch (error) {
    throw makeError(
      'INPUT_INVALID',
      `the template's variables are ${String(variables)}, expected JSON`,
      error,
    );
  }
}

function checkMessages(messages: readonly ChatMessage[]): void {
  if (!Array.isArray(messages) || messages.length === 0) {
    throw makeError('INPUT_INVALID', `messages are ${show(messages)}, expected at least one`);
  }
  messages.forEach((message: unknown, i) => {
    const { role, content } = (message ?? {}) as Record<string, unknown>;
    if (typeof role !== 'string' || typeof content !== 'string') {
      throw makeError(
        'INPUT_INVALID',
        `message ${i} is ${show(message)}, expected { role, content }, both text`,
      );
    }
  });
}
