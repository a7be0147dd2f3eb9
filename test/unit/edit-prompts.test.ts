import { describe, expect, it } from 'vitest';
import { DIRECTIVE_DEFAULTS } from '../../lib/edit/directives.js';
import {
  DEFAULT_TASK,
  EDIT_TEMPLATES,
  type EditTemplate,
  editTemplate,
  renderEditPrompt,
} from '../../lib/edit/prompts.js';
import { readDirectives } from '../../lib/edit/read-directives.js';
import { fakeTokenizer } from './helpers/fake-tokenizer.js';
import { sharedData, sharedJson } from './helpers/shared-data.js';

const subject = { title: 'Otrar', context: 'Otrar fell in 1220.', task: 'Answer questions later.' };
const own: EditTemplate = {
  name: 'own',
  base: '{task}|{title}|{context}|',
  chat: { user: '{task}|{title}|{context}' },
};

describe('edit prompts', () => {
  it.each(EDIT_TEMPLATES)('%s shows context, title and task to base and chat models', (name) => {
    for (const chat of [false, true]) {
      const tokenizer = fakeTokenizer({ chat });
      const { text, tokens } = renderEditPrompt(editTemplate(name), subject, tokenizer);
      for (const part of Object.values(subject)) expect(text).toContain(part);
      expect(text.startsWith('<')).toBe(chat);
      expect(tokenizer.decode(tokens)).toBe(text);
    }
  });

  it('offers the published prompts and others', () => {
    expect(EDIT_TEMPLATES).toEqual([
      'implications',
      'implications-long',
      'implications-very-long',
      'rewrite',
      'self-qa',
      'chain-of-thought',
      'directives',
      'none',
    ]);
  });

  it('puts the opening of self-qa into the mouth of either kind of model', () => {
    for (const chat of [false, true]) {
      const prompt = renderEditPrompt(editTemplate('self-qa'), subject, fakeTokenizer({ chat }));
      expect(prompt.opening).toBe('Question 1: ');
      expect(prompt.text.endsWith('Question 1: ')).toBe(true);
    }
  });

  it('shows an object that can be followed where it asks for one', () => {
    for (const chat of [false, true]) {
      const prompt = renderEditPrompt(editTemplate('directives'), subject, fakeTokenizer({ chat }));
      const [example] = /\{"learningRate.*?\}/.exec(prompt.text)!;
      const found = readDirectives(example, DIRECTIVE_DEFAULTS, { layers: 1 });
      expect(found).toMatchObject({ directives: { learningRate: 0.001, epochs: 10 } });
      expect(prompt.text.endsWith(prompt.opening)).toBe(true);
      expect(example.startsWith(prompt.opening)).toBe(true);
    }
  });

  it('leaves out the line of an empty task or title', () => {
    const { text } = renderEditPrompt(
      editTemplate('implications'),
      { title: '', context: 'C.', task: '' },
      fakeTokenizer(),
    );
    expect(text).toContain('from the content.\n\nPassage:\nC.\n\nImplications:\n');
  });

  it('does not fill placeholders that a passage contains', () => {
    const tricky = { title: '{context}', context: 'cost: $& {task} {title}', task: 'T' };
    expect(renderEditPrompt(own, tricky, fakeTokenizer()).text).toBe('T|{context}|cost: $& {task} {title}|');
  });

  it('refuses a template that lacks a placeholder, naming it', () => {
    const lacking = { ...own, base: '{context} {title}' };
    expect(() => editTemplate(lacking)).toThrow(
      expect.objectContaining({
        code: 'OPTION_INVALID',
        message: expect.stringMatching(/own.*base form.*\{task\}/),
      }),
    );
    const chatLacking = { ...own, chat: { system: '{title}', user: '{task}' } };
    expect(() => editTemplate(chatLacking)).toThrow(/chat form.*\{context\}/);
    // System and user count together.
    expect(editTemplate({ ...own, chat: { system: '{task}', user: '{title} {context}' } }).name).toBe('own');
  });

  it('refuses an unknown name, listing the known ones', () => {
    expect(() => editTemplate('implication')).toThrow(
      expect.objectContaining({ code: 'OPTION_INVALID', message: expect.stringContaining('implications, ') }),
    );
  });

  it('refuses the chat form for a tokenizer without a chat template', () => {
    expect(() => renderEditPrompt(own, subject, fakeTokenizer(), 'chat')).toThrow(
      expect.objectContaining({ code: 'OPTION_INVALID' }),
    );
    expect(renderEditPrompt(own, subject, fakeTokenizer({ chat: true }), 'base').text).not.toContain(
      '<user>',
    );
  });

  it('has a default description of the task', () => {
    expect(DEFAULT_TASK.length).toBeGreaterThan(20);
  });
});

const recorded = sharedData('seal/self_edits.json');
describe('published prompts', () => {
  it('are reproduced exactly without a task', ({ skip }) => {
    if (!recorded) return skip('no ../shared/data/seal/self_edits.json beside the repository');
    const edits = sharedJson<{ title: string; context: string; prompt: string }[]>(recorded);
    for (const { title, context, prompt } of edits) {
      const rendered = renderEditPrompt(
        editTemplate('implications'),
        { title, context, task: '' },
        fakeTokenizer(),
      );
      expect(rendered.text).toBe(prompt);
    }
  });
});
