import { appendFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type GradeRow, type JudgeFailure, type JudgeOptions, judge } from '../../lib/index.js';
import { judgeMessages, readReply } from '../../lib/reward/judge-prompts.js';
import { fail, type JudgeServer, judgeServer, type Reply, say } from '../support/judge-server.js';
import { failureOf } from '../support/tiny.js';

let server: JudgeServer;
let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'selfedit-judge-'));
});
afterEach(async () => {
  rmSync(folder, { recursive: true });
  await server?.close();
});

const serve = async (reply: Reply) => {
  server = await judgeServer(reply);
};
const options = (more: Partial<JudgeOptions> = {}): JudgeOptions => ({
  endpoint: server.endpoint,
  model: 'big',
  backoffMs: 1,
  retries: 2,
  ...more,
});
const row = (prediction: string, answers: readonly string[] = ['Ada Lovelace']): GradeRow => ({
  title: 'Engines',
  question: 'Who wrote it?',
  answers,
  prediction,
});
/** A server that says yes to answers with "Ada". */
const honest: Reply = ({ body }, response) =>
  say(response, /Student answer: .*Ada/.test(body.messages.at(-1)!.content) ? 'Yes.' : 'no');
/** Grades one answer and says what became of it. */
const gradeOne = async (more: Partial<JudgeOptions> = {}) => {
  const failures: JudgeFailure[] = [];
  const one = judge(options({ onFailure: (failure) => failures.push(failure), ...more }));
  const [score] = await one.grade([row('Ada')]);
  return { score, told: failures, ...one.statistics() };
};

describe('what is sent and what is read', () => {
  it('asks in the published words, at temperature 0, with the key as a bearer token', async () => {
    await serve(honest);
    const one = judge(options({ apiKey: 'sk-secret' }));
    expect(await one.grade([row('It was Ada.'), row('Charles')])).toEqual([1, 0]);
    expect(one.openEnded).toBe(false);
    const { path, authorization, body } = server.received[0]!;
    expect({ path, authorization }).toEqual({
      path: '/v1/chat/completions',
      authorization: 'Bearer sk-secret',
    });
    expect(body).toEqual({
      model: 'big',
      stream: false,
      temperature: 0,
      max_tokens: 16,
      messages: [
        {
          role: 'user',
          content:
            "You are a grading assistant. Your job is to determine whether a student's answer correctly answers the question based solely on the provided gold answer. Do not use any outside knowledge. The student answer can include additional information, but it must at least fully convey the gold answer and must not contradict it. Ignore style, phrasing, or extra details that do not affect correctness. Respond ONLY with 'yes' or 'no'.\n\nQuestion: Who wrote it?\nGold answer: Ada Lovelace\nStudent answer: It was Ada.\nIs the student answer correct based solely on the gold answer? Respond 'yes' or 'no'.",
        },
      ],
    });
  });

  it('marks answers without a gold answer by a rubric', async () => {
    await serve(({ body }, response) =>
      say(response, body.messages.at(-1)!.content.includes('hello there') ? '8/10' : 'Score: 2'),
    );
    const one = judge(options({ form: 'rubric' }));
    expect(one.openEnded).toBe(true);
    expect(await one.grade([row('hello there', []), row('go away', [])])).toEqual([0.8, 0.2]);
    const bare = judge(options());
    expect((await failureOf(bare.grade([row('x', [])]) as Promise<unknown>)).message).toMatch(
      /row 0 \("Who wrote it\?"\) has no gold answer.*rubric/,
    );
  });

  it('takes what a student writes for text, never for a placeholder', () => {
    const [message] = judgeMessages(
      { ...row('{answer} {question}'), context: '{prediction}' },
      { user: '{context}|{prediction}|{answer}' },
    );
    expect(message!.content).toBe('{prediction}|{answer} {question}|Ada Lovelace');
  });

  it.each([
    ['yes', 1],
    ['No', 0],
    [' **Yes**', 1],
    ['"no".', 0],
    ['Yes, it names her.', 1],
    ['No. The gold answer is missing.', 0],
    ['yes\n', 1],
    ['The answer names her.\nVerdict: yes', 1],
    ['<think>No? No!</think>\n\nyes', 1],
    ['<think>it may be so: yes', undefined],
    ['No way to tell', undefined],
    ['There is no answer', undefined],
    ['No, wait. Final: yes', undefined],
    ['yes/no', undefined],
    ['yes or no', undefined],
    ['Nothing', undefined],
    ['Yesterday', undefined],
    ['maybe', undefined],
    ['', undefined],
  ])('the verdict of %j is %j', (reply, expected) => {
    expect(readReply(reply, 'verdict')).toBe(expected);
  });

  it.each([
    ['7', 0.7],
    ['7.5', 0.75],
    ['10/10', 1],
    ['0', 0],
    ['**8**', 0.8],
    ['Score: 6 out of 10', 0.6],
    ['It is clear.\nMark: 9.', 0.9],
    ['4, since it is long', 0.4],
    ['11', undefined],
    ['-3', undefined],
    ['75%', undefined],
    ['7/100', undefined],
    ['7.5/100', undefined],
    ['3 errors', undefined],
    ['seven', undefined],
    ['5. Mark: 6', undefined],
    ['1. Correctness: the reply is', undefined],
    ['7-8', undefined],
    ['8.5', 0.85],
    ['8.', 0.8],
    ['Wait, 3?</think>\n\n9', 0.9],
  ])('the mark of %j is %j', (reply, expected) => {
    expect(readReply(reply, 'rubric')).toBe(expected);
  });

  it('reads content that comes in parts', async () => {
    await serve((_, response) =>
      say(response, [
        { type: 'text', text: 'ye' },
        { type: 'text', text: 's' },
      ]),
    );
    expect((await gradeOne()).score).toBe(1);
  });
});

describe('what goes wrong', () => {
  it.each<[string, Reply]>([
    ['500', (_, response) => fail(response, 500, 'busy')],
    ['no JSON', (_, response) => void response.end('<html>bad gateway</html>')],
    ['JSON without choices', (_, response) => void response.end('{"object": "list"}')],
    ['no content', (_, response) => say(response, null)],
    ['a reset', (_, response) => void response.socket!.resetAndDestroy()],
    [
      'a body that breaks off',
      (_, response) => {
        response.writeHead(200, { 'content-length': '1000' });
        response.write('{"choices": [', () => response.socket!.destroy());
      },
    ],
  ])('%s is asked again, and the next reply counts', async (_, reply) => {
    await serve((request, response, call) =>
      call === 1 ? reply(request, response, call) : say(response, 'yes'),
    );
    expect(await gradeOne()).toMatchObject({ score: 1, unknown: 0, calls: 2, retries: 1, told: [] });
  });

  it.each<[string, string, RegExp, Reply]>([
    ['500 for ever', 'status', /HTTP 500: busy/, (_, response) => fail(response, 500, 'busy')],
    ['no JSON for ever', 'body', /not JSON: <html> x/, (_, response) => void response.end('<html>\n x')],
    ['no choices for ever', 'body', /choices\[0\]/, (_, response) => void response.end('{"choices": []}')],
    ['a hang', 'timeout', /no reply within 0\.3 s/, () => {}],
    [
      'a drip',
      'timeout',
      /no reply within 0\.3 s/,
      (_, response) => {
        const timer = setInterval(() => response.write(' '), 20);
        response.on('close', () => clearInterval(timer));
      },
    ],
    [
      'endless garbage',
      'body',
      /longer than 1048576 bytes/,
      (_, response) => {
        const more = () => {
          while (!response.destroyed && response.write(Buffer.alloc(65536, 1)));
        };
        response.on('drain', more);
        more();
      },
    ],
  ])('%s is unknown, never wrong, after the retries', async (_, kind, says, reply) => {
    await serve(reply);
    const found = await gradeOne({ timeoutMs: kind === 'timeout' ? 300 : 60_000 });
    expect(found).toMatchObject({ score: Number.NaN, answers: 1, unknown: 1, calls: 3, retries: 2 });
    expect(found.told).toMatchObject([{ kind, row: { prediction: 'Ada' } }]);
    expect(found.firstFailure).toMatch(says);
  });

  it('nobody there is unknown', async () => {
    await serve(honest);
    await server.close();
    const found = await gradeOne();
    expect(found).toMatchObject({ score: Number.NaN, calls: 3 });
    expect(found.firstFailure).toMatch(/ECONNREFUSED/);
  });

  it('a verdict neither yes nor no is unknown and not asked again', async () => {
    await serve((_, response) => say(response, 'Perhaps.'));
    const found = await gradeOne({ cache: join(folder, 'cache.jsonl') });
    expect(found).toMatchObject({ score: Number.NaN, unknown: 1, calls: 1 });
    expect(found.firstFailure).toMatch(/no verdict: "Perhaps\."/);
    // Nor is it kept: another day may decide it.
    expect(readFileSync(join(folder, 'cache.jsonl'), 'utf8')).toBe('');
  });

  it('a request that is bad is unknown at once, and the others are graded', async () => {
    await serve(({ body }, response) =>
      body.messages[0]!.content.includes('too long') ? fail(response, 400, 'context') : say(response, 'yes'),
    );
    const one = judge(options());
    expect(await one.grade([row('too long'), row('Ada')])).toEqual([Number.NaN, 1]);
    expect(one.statistics()).toMatchObject({ calls: 2, failures: { status: 1 } });
  });

  it('waits as long as Retry-After says, for all calls, and gives up where that is too long', async () => {
    const times: number[] = [];
    await serve((_, response, call) => {
      times.push(performance.now());
      if (call === 1) fail(response, 429, 'slow down', { 'retry-after': '0.3' });
      else say(response, 'yes');
    });
    const one = judge(options({ concurrency: 1 }));
    expect(await one.grade([row('a'), row('b')])).toEqual([1, 1]);
    // A timer may be a few milliseconds early.
    expect(times[1]! - times[0]!).toBeGreaterThan(290);
    await server.close();
    await serve((_, response) => fail(response, 429, 'come back tomorrow', { 'retry-after': '86400' }));
    expect(await gradeOne()).toMatchObject({ score: Number.NaN, calls: 1, retries: 0 });
  });

  it('reads a Retry-After date by the clock of the server', async () => {
    await serve((_, response, call) => {
      if (call > 1) return say(response, 'yes');
      // Its clock is a day behind: by ours, the date has long passed; by its own it is far ahead.
      const now = Date.now() - 86_400_000;
      const headers = {
        date: new Date(now).toUTCString(),
        'retry-after': new Date(now + 3_600_000).toUTCString(),
      };
      fail(response, 503, 'later', headers);
    });
    expect(await gradeOne()).toMatchObject({ score: Number.NaN, calls: 1 });
  });

  it.each([
    [401, /refuses the key \(HTTP 401: Incorrect API key provided: \*\*\*\)/],
    [403, /refuses the key/],
    [404, /knows no such address or model/],
    [307, /redirects/],
  ])('HTTP %i ends it once, clearly, and without the key', async (status, says) => {
    await serve((_, response) =>
      fail(response, status, 'Incorrect API key provided: sk-secret', { location: 'http://127.0.0.1:9/' }),
    );
    const one = judge(options({ apiKey: 'sk-secret', concurrency: 4, cache: join(folder, 'c') }));
    const many = Array.from({ length: 2000 }, (_, index) => row(`answer ${index}`));
    const error = await failureOf(one.grade(many) as Promise<unknown>);
    expect(error.code).toBe('OPTION_INVALID');
    expect(error.message).toMatch(says);
    const calls = server.received.length;
    expect(calls).toBeLessThanOrEqual(4);
    expect((await failureOf(one.grade(many) as Promise<unknown>)).message).toBe(error.message);
    expect(server.received).toHaveLength(calls);
    expect(
      `${error.stack}${JSON.stringify(one.statistics())}${readFileSync(join(folder, 'c'), 'utf8')}`,
    ).not.toContain('sk-secret');
  });

  it('stops asking an endpoint that is down, and tries again with the next call', async () => {
    let down = true;
    await serve((_, response) => (down ? fail(response, 503, 'down') : say(response, 'yes')));
    const one = judge(options({ retries: 0, giveUpAfter: 3, concurrency: 1 }));
    const many = Array.from({ length: 100 }, (_, index) => row(`answer ${index}`));
    expect(await one.grade(many)).toEqual(many.map(() => Number.NaN));
    expect(one.statistics()).toMatchObject({
      calls: 3,
      unknown: 100,
      failures: { status: 3, 'not-asked': 97 },
    });
    down = false;
    expect(await one.grade(many)).toEqual(many.map(() => 1));
  });

  it('keeps the key out of a cache even if the endpoint says it', async () => {
    await serve((_, response) => say(response, 'yes, sk-secret'));
    const cache = join(folder, 'cache.jsonl');
    expect((await gradeOne({ apiKey: 'sk-secret', cache })).score).toBe(1);
    expect(readFileSync(cache, 'utf8')).toContain('yes, ***');
  });
});

describe('many at once', () => {
  it('keeps to the bound, over calls of grade too, and keeps the order', async () => {
    await serve(async ({ body }, response, call) => {
      // The first three wait for each other, and all long enough for a fourth to come, if one does.
      while (call <= 3 && server.received.length < 3) await sleep(1);
      await sleep(5);
      say(response, body.messages[0]!.content.includes('even') ? 'yes' : 'no');
    });
    const one = judge(options({ concurrency: 3 }));
    const rows = Array.from({ length: 20 }, (_, index) => row(`${index} ${index % 2 ? 'odd' : 'even'}`));
    const both = await Promise.all([
      one.grade(rows),
      one.grade(rows.map((r) => ({ ...r, question: 'And?' }))),
    ]);
    const expected = rows.map((_, index) => (index % 2 ? 0 : 1));
    expect(both).toEqual([expected, expected]);
    expect(server.most()).toBe(3);
    expect(server.received).toHaveLength(40);
  });

  it('asks the same question once', async () => {
    await serve(honest);
    expect(await judge(options()).grade([row('Ada'), row('x'), row('Ada'), row(' Ada\n')])).toEqual([
      1, 0, 1, 1,
    ]);
    expect(server.received).toHaveLength(2);
  });

  it.each([
    ['while a reply hangs', {}],
    ['while it waits for the next attempt', { retries: 5, backoffMs: 60_000 }],
  ])('stops at once when told to, %s', async (name, more) => {
    await serve((_, response) => {
      if (name !== 'while a reply hangs') fail(response, 500, 'busy');
    });
    const one = judge(options({ concurrency: 2, timeoutMs: 60_000, ...more }));
    const controller = new AbortController();
    const rows = Array.from({ length: 10 }, (_, index) => row(`answer ${index}`));
    const graded = one.grade(rows, { signal: controller.signal }) as Promise<unknown>;
    while (server.received.length < 2) await sleep(5);
    controller.abort();
    expect((await failureOf(graded)).code).toBe('ABORTED');
    await sleep(20);
    expect(server.received).toHaveLength(2);
    while (name === 'while a reply hangs' && server.broken() < 2) await sleep(5);
    expect((await failureOf(one.grade(rows, { signal: controller.signal }) as Promise<unknown>)).code).toBe(
      'ABORTED',
    );
  });
});

describe('the cache', () => {
  const path = () => join(folder, 'deep', 'cache.jsonl');

  it('answers after a restart without a call', async () => {
    await serve(honest);
    await judge(options({ cache: path() })).grade([row('Ada'), row('x')]);
    const again = judge(options({ cache: path() }));
    expect(await again.grade([row('x'), row('Ada'), row('Ada new')])).toEqual([0, 1, 1]);
    expect(again.statistics()).toMatchObject({ answers: 3, cached: 2, calls: 1 });
  });

  it.each<[string, Partial<JudgeOptions>]>([
    ['model', { model: 'bigger' }],
    ['parameters', { parameters: { temperature: 0.5 } }],
    ['wording', { prompt: { user: 'Right? {answer} Student answer: {prediction}' } }],
  ])('does not answer for another %s', async (_, other) => {
    await serve(honest);
    await gradeOne({ cache: path() });
    expect(await gradeOne({ cache: path(), ...other })).toMatchObject({ cached: 0, calls: 1, score: 1 });
    // The order of parameters is none of them, and neither is the key.
    const same = { parameters: { max_tokens: 16, temperature: 0 }, apiKey: 'other' };
    expect(await gradeOne({ cache: path(), ...same })).toMatchObject({ cached: 1, calls: 0 });
  });

  it('passes over torn and foreign lines, and what follows a torn one is kept', async () => {
    await serve(honest);
    await judge(options({ cache: path() })).grade([row('Ada'), row('x')]);
    const whole = readFileSync(path(), 'utf8');
    // Killed within the second entry.
    writeFileSync(path(), whole.slice(0, -20));
    appendFileSync(path(), '\nnull\n[1]\n{"key": 1}\n');
    writeFileSync(path(), readFileSync(path(), 'utf8').concat(whole.slice(0, 30)));
    const second = judge(options({ cache: path() }));
    expect(await second.grade([row('Ada'), row('x')])).toEqual([1, 0]);
    expect(second.statistics()).toMatchObject({ cached: 1, calls: 1 });
    const third = judge(options({ cache: path() }));
    expect(await third.grade([row('Ada'), row('x')])).toEqual([1, 0]);
    expect(third.statistics()).toMatchObject({ cached: 2, calls: 0 });
  });

  it('serves two judges that write at once', async () => {
    await serve(honest);
    const rows = (name: string) => Array.from({ length: 50 }, (_, index) => row(`${name} ${index}`));
    await Promise.all(['one', 'two'].map((name) => judge(options({ cache: path() })).grade(rows(name))));
    const third = judge(options({ cache: path() }));
    await third.grade([...rows('one'), ...rows('two')]);
    expect(third.statistics()).toMatchObject({ cached: 100, calls: 0 });
  });

  it('that cannot be opened is an error before any call', async () => {
    await serve(honest);
    writeFileSync(join(folder, 'file'), '');
    const error = await failureOf(
      judge(options({ cache: join(folder, 'file', 'c') })).grade([row('a')]) as Promise<unknown>,
    );
    expect(error).toMatchObject({ code: 'IO' });
    expect(server.received).toHaveLength(0);
  });
});

describe('bad settings', () => {
  it.each<[Partial<JudgeOptions>, RegExp]>([
    [{ endpoint: 'nowhere' }, /endpoint is no address/],
    [{ endpoint: 'ftp://x/' }, /ftp:.*expected http/],
    [{ endpoint: 'http://a:sk-secret@b/' }, /holds a password/],
    [{ model: '' }, /model is missing/],
    [{ form: 'stars' as 'rubric' }, /form is "stars"; expected verdict or rubric/],
    [{ prompt: { user: '{prediction}' } }, /lacks \{answer\}/],
    [{ parameters: { stream: true } }, /hold "stream"/],
    [{ concurrency: 0 }, /concurrency is 0/],
    [{ retries: -1 }, /retries is -1/],
    [{ apiKey: 'a', apiKeyVariable: 'B' }, /both apiKey and apiKeyVariable/],
    [{ apiKeyVariable: 'sk-secret' }, /no name in capitals/],
    [{ apiKeyVariable: 'SELFEDIT_NO_SUCH_KEY' }, /SELFEDIT_NO_SUCH_KEY is not set/],
    [{ apiKey: 'sk-secret\n' }, /characters that no key has/],
  ])('%j is refused', async (given, says) => {
    const error = await failureOf(() => judge({ endpoint: 'http://127.0.0.1:9/v1', model: 'm', ...given }));
    expect(error.code).toBe('OPTION_INVALID');
    expect(error.message).toMatch(says);
    expect(error.message).not.toContain('sk-secret');
  });

  it('takes the key from the environment, and an address as people paste it', async () => {
    await serve(honest);
    process.env.SELFEDIT_TEST_KEY = ' sk-from-environment\n';
    const { endpoint } = server;
    for (const given of [endpoint, `${endpoint}/`, `${endpoint}/chat/completions`]) {
      await judge(options({ endpoint: given, apiKeyVariable: 'SELFEDIT_TEST_KEY' })).grade([row('Ada')]);
    }
    delete process.env.SELFEDIT_TEST_KEY;
    expect(server.received.map(({ path }) => path)).toEqual(new Array(3).fill('/v1/chat/completions'));
    expect(server.received[0]!.authorization).toBe('Bearer sk-from-environment');
  });
});
