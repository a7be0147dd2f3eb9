/** Chat templates: Jinja, as transformers renders them, except that they never see today's date. */
import { Environment, Interpreter, parse, tokenize } from '@huggingface/jinja';
import { makeError } from '../errors.js';
import { messageOf, show } from '../format/json.js';

export interface ChatMessage {
  role: 'system' | 'user' | 'assistant';
  content: string;
}

export type ChatTemplate = (messages: readonly ChatMessage[], addGenerationPrompt: boolean) => string;

/**
 * What `strftime_now` formats. Llama 3 and others put the date into their system prompt; a run that is
 * resumed on another day must still see the same prompts, so they get the date that Llama's own templates
 * fall back to.
 */
const TODAY: Readonly<Record<string, string>> = {
  '%d': '26',
  '%m': '07',
  '%Y': '2024',
  '%y': '24',
  '%b': 'Jul',
  '%B': 'July',
  '%a': 'Fri',
  '%A': 'Friday',
  '%H': '00',
  '%M': '00',
  '%S': '00',
  '%%': '%',
};

/**
 * Compiles a template. `specialTokens` are its variables `bos_token`, `eos_token` and so on.
 * Errors, here and when it renders: `TEMPLATE_INVALID`; `INPUT_INVALID` for malformed messages.
 */
export function compileChatTemplate(
  template: string,
  specialTokens: Readonly<Record<string, string>>,
): ChatTemplate {
  let program: ReturnType<typeof parse>;
  try {
    program = parse(tokenize(template, { lstrip_blocks: true, trim_blocks: true }));
  } catch (error) {
    throw makeError('TEMPLATE_INVALID', `the chat template cannot be read: ${messageOf(error)}`, error);
  }
  return (messages, addGenerationPrompt) => {
    checkMessages(messages);
    const environment = new Environment();
    const variables: Record<string, unknown> = {
      ...GLOBALS,
      ...specialTokens,
      messages: messages.map(({ role, content }) => ({ role, content })),
      tools: null,
      documents: null,
      add_generation_prompt: addGenerationPrompt,
    };
    try {
      for (const [name, value] of Object.entries(variables)) environment.set(name, value);
      const result = new Interpreter(environment).run(program);
      return String(result.value);
    } catch (error) {
      throw makeError('TEMPLATE_INVALID', `the chat template failed: ${messageOf(error)}`, error);
    }
  };
}

const GLOBALS: Readonly<Record<string, unknown>> = {
  true: true,
  false: false,
  none: null,
  True: true,
  False: false,
  None: null,
  range,
  raise_exception: (message: unknown) => {
    throw new Error(String(message));
  },
  strftime_now: (format: unknown) => String(format).replace(/%[a-zA-Z%]/g, (code) => TODAY[code] ?? code),
};

/** Python's range: `range(stop)`, `range(start, stop)`, `range(start, stop, step)`. */
function range(first: number, stop?: number, step?: number): number[] {
  const [from, to, by] = stop == null ? [0, first, 1] : [first, stop, step ?? 1];
  const length = by === 0 ? 0 : Math.max(0, Math.ceil((to - from) / by));
  return Array.from({ length }, (_, i) => from + i * by);
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
