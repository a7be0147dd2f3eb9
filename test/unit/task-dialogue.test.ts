import { describe, expect, it } from 'vitest';
import { type Dialogue, dialogue, parseDialogues, transcript } from '../../lib/task/dialogue.js';

const talk = (at: number, probes = 4): Dialogue => ({
  title: `Talk ${at}`,
  messages: [
    { role: 'user', content: ` I am ${at}. ` },
    { role: 'assistant', content: 'Noted.' },
  ],
  probes: Array.from({ length: probes }, (_, p) => ({ message: `Probe ${p}?`, answers: [] })),
});
const talks = Array.from({ length: 5 }, (_, at) => talk(at));

describe('a task of dialogues', () => {
  it('shows the transcript, pays for some probes, reports the others, and keeps some talks unseen', () => {
    const task = dialogue(talks, { evaluation: 2, seed: 3 });
    const [context] = task.contexts(0, 1);
    expect(context!.context).toBe(`User: I am ${context!.id}.\n\nAssistant: Noted.`);
    expect(context!.paying).toHaveLength(2);
    expect(new Set([...context!.paying, ...context!.report].map(({ question }) => question)).size).toBe(4);
    expect(task.evaluation.map(({ paying, report }) => [paying.length, report.length])).toEqual([
      [0, 4],
      [0, 4],
    ]);
    // Three passes over three talks: each once a pass, in orders that differ, none of them unseen.
    const passes = [0, 1, 2].map((round) => task.contexts(round, 3).map(({ id }) => id));
    const unseen = task.evaluation.map(({ id }) => id);
    for (const pass of passes) expect([...pass, ...unseen].sort()).toEqual(['0', '1', '2', '3', '4']);
    expect(new Set(passes.map((pass) => pass.join())).size).toBeGreaterThan(1);
  });

  it('is a function of its seed', () => {
    const idsOf = (seed: number) =>
      [0, 1].map((round) =>
        dialogue(talks, { seed })
          .contexts(round, 4)
          .map(({ id, paying }) => [id, paying]),
      );
    expect(idsOf(1)).toEqual(idsOf(1));
    expect(idsOf(1)).not.toEqual(idsOf(2));
  });

  it('refuses what it cannot split', () => {
    expect(() => dialogue(talks, { evaluation: 5 })).toThrow(
      '5 conversations are too few; expected more than the 5',
    );
    expect(() => dialogue([], {})).toThrow('0 conversations are too few');
    expect(() => dialogue(talks, { payingShare: 0 })).toThrow('payingShare is 0');
    expect(() => dialogue(talks, { evaluation: -1 })).toThrow('evaluation is -1');
  });
});

describe('conversations of a file', () => {
  const whole = {
    title: 'T',
    messages: [{ role: 'user', content: 'Hi.' }],
    probes: ['Who?', { message: 'Why?', answers: ['so'] }],
  };

  it('are a JSON array or an object a line', () => {
    const expected = [
      {
        ...whole,
        probes: [
          { message: 'Who?', answers: [] },
          { message: 'Why?', answers: ['so'] },
        ],
      },
    ];
    expect(parseDialogues(`\ufeff${JSON.stringify([whole])}`, 'd.json')).toEqual(expected);
    expect(parseDialogues(`\n${JSON.stringify(whole)}\n`, 'd.jsonl')).toEqual(expected);
    expect(parseDialogues(JSON.stringify([{ ...whole, title: undefined }]), 'd.json')[0]!.title).toBe('');
    expect(transcript([{ role: 'system', content: 'Be kind.' }])).toBe('System: Be kind.');
  });

  for (const [change, message] of [
    [{ messages: [] }, 'd.json [0].messages is empty; expected at least one message'],
    [{ messages: 'Hi' }, 'd.json [0].messages is a string; expected an array'],
    [
      { messages: [{ role: 'robot', content: 'x' }] },
      'd.json [0].messages[0].role is "robot"; expected system, user',
    ],
    [{ messages: [{ role: 'user', content: ' ' }] }, 'd.json [0].messages[0].content is empty'],
    [{ messages: [3] }, 'd.json [0].messages[0] is a number; expected an object'],
    [{ probes: [] }, 'd.json [0].probes is empty; expected at least one message to answer'],
    [{ probes: undefined }, 'd.json [0].probes is missing; expected an array'],
    [{ probes: ['', 'x'] }, 'd.json [0].probes[0] is empty'],
    [{ probes: ['x', 'x'] }, 'd.json [0].probes hold "x" twice; expected each message once'],
    [{ probes: [{ message: 'x', answers: [''] }] }, 'd.json [0].probes[0].answers[0] is empty'],
    [{ probes: [{ message: 'x', answers: 'y' }] }, 'd.json [0].probes[0].answers is a string'],
    [{ title: 3 }, 'd.json [0].title is a number'],
  ] as [object, string][]) {
    it(`with ${JSON.stringify(change)} are refused by place`, () => {
      expect(() => parseDialogues(JSON.stringify([{ ...whole, ...change }]), 'd.json')).toThrow(message);
    });
  }

  it('that are none are refused', () => {
    expect(() => parseDialogues('[]', 'd.json')).toThrow(
      'd.json holds no conversations; expected at least one',
    );
    expect(() => parseDialogues('{}', 'd.json')).toThrow('d.json is an object; expected an array');
    expect(() => parseDialogues('{"a"', 'd.jsonl')).toThrow('d.jsonl line 1 is not JSON');
  });
});
