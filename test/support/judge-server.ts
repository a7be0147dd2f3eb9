/** A chat-completions endpoint on this machine, whose answers the test writes. */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

export interface Received {
  readonly path: string;
  readonly authorization: string | undefined;
  readonly body: { model: string; messages: { role: string; content: string }[] } & Record<string, unknown>;
}

export type Reply = (request: Received, response: ServerResponse, call: number) => void | Promise<void>;

export interface JudgeServer {
  readonly endpoint: string;
  readonly received: Received[];
  /** Most requests that were open at once. */
  readonly most: () => number;
  /** Connections that the other side has broken off before the reply was whole. */
  readonly broken: () => number;
  close(): Promise<void>;
}

/** Starts it; `reply` answers every request. */
export async function judgeServer(reply: Reply): Promise<JudgeServer> {
  const received: Received[] = [];
  let open = 0;
  let most = 0;
  let broken = 0;
  const server = createServer((request, response) => {
    open++;
    most = Math.max(most, open);
    response.on('close', () => {
      open--;
      if (!response.writableFinished) broken++;
    });
    void read(request).then((text) => {
      const { authorization } = request.headers;
      const one: Received = {
        path: request.url ?? '',
        authorization,
        body: JSON.parse(text) as Received['body'],
      };
      received.push(one);
      return reply(one, response, received.length);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  return {
    endpoint: `http://127.0.0.1:${port}/v1`,
    received,
    most: () => most,
    broken: () => broken,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

async function read(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks).toString('utf8');
}

/** A whole reply with this text. */
export function say(response: ServerResponse, content: unknown): void {
  response.setHeader('content-type', 'application/json');
  response.end(
    JSON.stringify({
      object: 'chat.completion',
      choices: [{ index: 0, message: { role: 'assistant', content } }],
    }),
  );
}

/** An error as such endpoints give it. */
export function fail(
  response: ServerResponse,
  status: number,
  message: string,
  headers: Record<string, string> = {},
): void {
  response.writeHead(status, { 'content-type': 'application/json', ...headers });
  response.end(JSON.stringify({ error: { message } }));
}
