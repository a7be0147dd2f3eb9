/**
 * Replies of a judge on disk: a file of JSON lines that is only ever appended to. An entry is one write, so that processes
 * may share the file; one that a kill cut short is no JSON and is passed over, and so is everything else that is no entry.
 */
import { appendFile, mkdir, open, readFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { ioError } from '../run/disk.js';

export class JudgeCache {
  readonly #path: string;
  readonly #replies = new Map<string, string>();

  private constructor(path: string) {
    this.#path = path;
  }

  /** Opens the file, or makes it. Throws `IO` when it can be neither read nor written. */
  static async open(path: string): Promise<JudgeCache> {
    const cache = new JudgeCache(path);
    try {
      await mkdir(dirname(path), { recursive: true });
      await (await open(path, 'a')).close();
      cache.#read(await readFile(path, 'utf8'));
    } catch (cause) {
      throw ioError(`opening the judge's cache ${path}`, cause);
    }
    return cache;
  }

  #read(text: string): void {
    for (const line of text.split('\n')) {
      if (line === '') continue;
      try {
        const { key, reply } = JSON.parse(line) as { key?: unknown; reply?: unknown };
        if (typeof key !== 'string' || typeof reply !== 'string') continue;
        // The first of two processes that asked the same wins, for good.
        if (!this.#replies.has(key)) this.#replies.set(key, reply);
      } catch {}
    }
  }

  get(key: string): string | undefined {
    return this.#replies.get(key);
  }

  /** Keeps a reply. Throws `IO`; the reply is known to this process all the same. */
  async add(key: string, reply: string): Promise<void> {
    this.#replies.set(key, reply);
    try {
      // A line's end in front too: the entry before it may have been cut short.
      await appendFile(this.#path, `\n${JSON.stringify({ key, reply })}\n`);
    } catch (cause) {
      throw ioError(`writing the judge's cache ${this.#path}`, cause);
    }
  }
}
