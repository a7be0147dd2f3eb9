// The dialogue example as a process, its judge a real server on this machine; and the same task by a configuration.
import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { fixture } from '../support/fixtures.js';
import { lines, selfedit, temporaryFolder } from './helpers.js';

const folder = temporaryFolder();
let server: Server;
let endpoint: string;
let asked: { model: string; messages: { content: string }[] }[];

beforeAll(async () => {
  const model = join(folder, 'model');
  cpSync(fixture('models', 'llama-tied'), model, { recursive: true });
  const path = join(model, 'config.json');
  writeFileSync(path, readFileSync(path, 'utf8').replace(/("max_position_embeddings": )128/, '$11024'));
  asked = [];
  server = createServer((request, response) => {
    let body = '';
    request.on('data', (chunk: Buffer) => {
      body += chunk.toString();
    });
    request.on('end', () => {
      const call = JSON.parse(body) as (typeof asked)[0];
      asked.push(call);
      // A mark that depends on what was said, so that edits differ.
      const mark = call.messages.at(-1)!.content.length % 11;
      response.setHeader('content-type', 'application/json');
      response.end(JSON.stringify({ choices: [{ message: { role: 'assistant', content: String(mark) } }] }));
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  endpoint = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`;
});
afterAll(() => server.close());

function editsOf<T>(run: string): T[] {
  const journal = readFileSync(join(folder, run, 'journal.jsonl'), 'utf8');
  return lines<T & { type: string }>(journal).filter(({ type }) => type === 'edit');
}

describe('a dialogue', () => {
  const probe = (at: number) => ({ message: `What is number ${at}?`, answers: [`${at}`] });
  const conversations = Array.from({ length: 3 }, (_, at) => ({
    title: `Talk ${at}`,
    messages: [
      { role: 'user', content: `My number is ${at}.` },
      { role: 'assistant', content: 'Noted.' },
    ],
    probes: [probe(at), `And the colour of ${at}?`],
  }));

  it('is learnt from a judge’s marks by the example', async () => {
    const entry = fileURLToPath(new URL('../../examples/dialogue.mjs', import.meta.url));
    const args = ['--model', 'model', '--rounds', '1', '--edits', '2', '--judge', endpoint];
    const { code, stdout, stderr } = await selfedit([...args, '--judge-model', 'marker'], {
      entry,
      cwd: folder,
    });
    expect(code, stderr).toBe(0);
    expect(stdout).toMatch(/^round 1: mean reward -?\d\.\d{3}, best -?\d\.\d{3} of 4 edits$/m);
    const [statistics] = /^judge: (.*)$/m
      .exec(stdout)!
      .slice(1)
      .map((text) => JSON.parse(text) as object);
    expect(statistics).toMatchObject({ unknown: 0, calls: asked.length });
    expect(asked[0]!.model).toBe('marker');
    // The judge sees the conversation, the message and the answer.
    expect(asked[0]!.messages.at(-1)!.content).toMatch(/Ilka|Morven|Harrowmere/);
  });

  it('is learnt by a configuration, paid by people and a judge', async () => {
    writeFileSync(join(folder, 'talks.jsonl'), conversations.map((one) => JSON.stringify(one)).join('\n'));
    const config = (reward: object) => ({
      ...{ model: './model', rounds: 1, contextsPerRound: 2, editsPerContext: 2 },
      task: { kind: 'dialogue', data: 'talks.jsonl' },
      edit: { maxTokens: 8, parse: { onEmpty: 'passage' } },
      adapt: { rank: 2, alpha: 4, epochs: 1 },
      policy: { rank: 2, alpha: 4 },
      reward: { maxAnswerTokens: 4, ...reward },
    });
    const judge = { endpoint, model: 'marker', form: 'rubric', cache: 'replies.jsonl' };
    writeFileSync(join(folder, 'judged.yaml'), JSON.stringify(config({ measure: 'judge', judge })));
    const first = await selfedit(['train', 'judged.yaml', '--out', 'judged'], { cwd: folder });
    expect(first.code, first.stderr).toBe(0);
    const edits = editsOf<{ context: string; text: string }>('judged');
    expect(edits).toHaveLength(4);
    expect(readFileSync(join(folder, 'replies.jsonl'), 'utf8')).not.toBe('');

    // The same seed writes the same edits: what people say of them pays in a second run.
    const preferences = { file: 'judged/preferences.jsonl', weight: 2 };
    const answers = Array.from({ length: 2 }, () => '1\n').join('');
    const rated = await selfedit(['rate', 'judged', '--count', '2'], { cwd: folder, input: answers });
    expect(rated.code, rated.stderr).toBe(0);
    writeFileSync(join(folder, 'people.yaml'), JSON.stringify(config({ preferences, floor: -5 })));
    const second = await selfedit(['train', 'people.yaml', '--out', 'people'], { cwd: folder });
    expect(second.code, second.stderr).toBe(0);
    const paid = editsOf<{ text: string; reward: number; parts: { terms: { preference: number } } }>(
      'people',
    );
    expect(paid.map(({ text }) => text)).toEqual(edits.map(({ text }) => text));
    for (const { reward, parts } of paid) expect(reward).toBeCloseTo(2 * parts.terms.preference, 10);
    // Under another seed other edits are written, which nobody knows.
    const strange = { ...config({ preferences }), seed: 9 };
    writeFileSync(join(folder, 'strange.yaml'), JSON.stringify(strange));
    const third = await selfedit(['train', 'strange.yaml', '--out', 'strange'], { cwd: folder });
    expect(third.code).toBe(1);
    expect(third.stderr).toMatch(
      /error \[REWARD_UNKNOWN\]: round 0: .*nobody has rated this edit of context/,
    );
    // One of each pair was chosen.
    for (const at of [0, 2]) expect(paid[at]!.reward * paid[at + 1]!.reward).toBeLessThan(0);
  });

  it('without anything that pays is refused', async () => {
    const config = { model: './model', task: { kind: 'dialogue', data: 'talks.jsonl' } };
    writeFileSync(join(folder, 'unpaid.yaml'), JSON.stringify(config));
    const { code, stderr } = await selfedit(['train', 'unpaid.yaml', '--out', 'unpaid'], { cwd: folder });
    expect(code).toBe(2);
    expect(stderr).toContain(
      'reward.measure is {}; expected a measure, reward.functions or reward.preferences',
    );
  });
});
