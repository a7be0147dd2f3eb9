// `selfedit grade --grader judge` as a user runs it, against an endpoint on this machine.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { fail, type JudgeServer, judgeServer, say } from '../support/judge-server.js';
import { finished, jsonl, lines, selfedit, start, temporaryFolder } from './helpers.js';

describe('grade --grader judge', () => {
  const folder = temporaryFolder();
  let server: JudgeServer;
  beforeAll(async () => {
    server = await judgeServer(({ authorization, body }, response) => {
      const asked = body.messages.at(-1)!.content;
      if (authorization !== 'Bearer sk-right') return fail(response, 401, `no such key: ${authorization}`);
      if (asked.includes('0 to 10')) return say(response, asked.includes('kind') ? '9' : '1');
      if (asked.includes('strange')) return fail(response, 400, 'cannot read this');
      say(response, /Student answer: .*Ada/.test(asked) ? 'yes' : 'no');
    });
  });
  afterAll(() => server.close());

  const grade = (rows: readonly unknown[], more: readonly string[] = [], key = 'sk-right') =>
    selfedit(
      [
        'grade',
        '--grader',
        'judge',
        '--endpoint',
        server.endpoint,
        '--model',
        'big',
        '--key-variable',
        'K',
        ...more,
      ],
      { input: jsonl(rows), env: { K: key } },
    );
  const row = (prediction: string) => ({ question: 'Who?', answer: 'Ada Lovelace', prediction });

  it('grades, and does not ask a second time', async () => {
    const rows = [row('Ada, I think'), row('Charles'), row('Ada, I think')];
    const cache = ['--cache', join(folder, 'cache.jsonl')];
    const first = await grade(rows, cache);
    const expected = [1, 0, 1].map((score) => ({ score, correct: score === 1 }));
    expect(first).toMatchObject({ code: 0, stderr: '' });
    expect(lines(first.stdout)).toEqual(expected);
    const asked = server.received.length;
    expect(lines((await grade(rows, cache)).stdout)).toEqual(expected);
    expect(server.received).toHaveLength(asked);
    expect(readFileSync(join(folder, 'cache.jsonl'), 'utf8')).not.toContain('sk-right');
  });

  it('leaves null what it does not know, says why, and ends with 1', async () => {
    const { code, stdout, stderr } = await grade([row('Ada'), row('strange'), row('Charles')]);
    expect(lines(stdout)).toEqual([
      { score: 1, correct: true },
      { score: null, correct: null },
      { score: 0, correct: false },
    ]);
    expect(stderr).toMatch(
      /^1 of 3 answers have no grade; the first: judge http.*HTTP 400: cannot read this\n$/,
    );
    expect(code).toBe(1);
  });

  it('marks by a rubric without an answer', async () => {
    const { code, stdout } = await grade([{ prediction: 'kind' }, { prediction: 'rude' }], ['--rubric']);
    expect(lines(stdout)).toEqual([
      { score: 0.9, correct: true },
      { score: 0.1, correct: false },
    ]);
    expect(code).toBe(0);
  });

  it('is one clear error when the key is refused, which is never shown', async () => {
    const { code, stdout, stderr } = await grade([row('Ada'), row('x')], [], 'sk-wrong');
    expect(stderr).toMatch(
      /^error \[OPTION_INVALID\]: judge http.*refuses the key \(HTTP 401: .*\*\*\*\).*\n$/,
    );
    expect(stderr).not.toContain('sk-wrong');
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
  });

  it('loses nothing when it is killed, and two processes share the cache', async () => {
    const rows = Array.from({ length: 60 }, (_, index) => row(`${index} ${index % 3 ? 'Ada' : 'Bab'}`));
    const cache = join(folder, 'shared.jsonl');
    const args = [
      'grade',
      '--grader',
      'judge',
      '--endpoint',
      server.endpoint,
      '--model',
      'big',
      '--key-variable',
      'K',
    ];
    const killed = start([...args, '--cache', cache, '--concurrency', '2'], { env: { K: 'sk-right' } });
    const gone = finished(killed);
    const before = server.received.length;
    killed.stdin.end(jsonl(rows));
    while (server.received.length < before + 20) await new Promise((resolve) => setTimeout(resolve, 1));
    killed.kill('SIGKILL');
    await gone;
    const both = await Promise.all(
      ['1', '7'].map((n) => grade(rows, ['--cache', cache, '--concurrency', n])),
    );
    const asked = server.received.length;
    const third = await grade(rows, ['--cache', cache]);
    const expected = rows.map((_, index) => ({ score: index % 3 ? 1 : 0, correct: index % 3 > 0 }));
    for (const { stdout } of [...both, third]) expect(lines(stdout)).toEqual(expected);
    expect(server.received).toHaveLength(asked);
  });
});
