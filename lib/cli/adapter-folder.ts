/** The folder that `adapt` writes into: an adapter appears there whole, or not at all. */
import { rmSync } from 'node:fs';
import { mkdir, mkdtemp, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { Delta } from '../delta.js';
import { makeError, SelfeditError } from '../errors.js';
import type { Session } from './session.js';

/** An id is the name of a folder within `--out`. Errors: `INPUT_INVALID`. */
export function checkId(id: string, where: string): void {
  const problem =
    id === ''
      ? 'is empty'
      : id === '.' || id === '..' || /[\\/]/.test(id)
        ? 'leads to another folder'
        : // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
          /[\u0000-\u001f]/.test(id)
          ? 'has control characters'
          : Buffer.byteLength(id) > 255
            ? 'is longer than 255 bytes'
            : undefined;
  if (problem === undefined) return;
  const shown = JSON.stringify(id.length > 60 ? `${id.slice(0, 60)}…` : id);
  throw makeError('INPUT_INVALID', `${where}: the id ${shown} ${problem}; expected the name of a folder`);
}

export class AdapterFolder implements AsyncDisposable {
  readonly #path: string;
  /** Holds what is being written; beside the adapters, so that a rename is enough. */
  readonly #work: string;
  readonly #forget: () => void;

  private constructor(path: string, work: string, session: Session) {
    this.#path = path;
    this.#work = work;
    this.#forget = session.onExit(() => rmSync(work, { recursive: true, force: true }));
  }

  /** Makes the folder if need be. Errors: `IO`. */
  static async open(path: string, session: Session): Promise<AdapterFolder> {
    return guarded(`cannot write to ${path}`, async () => {
      await mkdir(path, { recursive: true });
      return new AdapterFolder(path, await mkdtemp(join(path, '.adapt-')), session);
    });
  }

  /** Saves an adapter as `<id>/`, in the place of an earlier one. Errors: `IO`; the earlier one then stays. */
  async save(id: string, delta: Delta): Promise<void> {
    const target = join(this.#path, id);
    const made = join(this.#work, 'new');
    const old = join(this.#work, 'old');
    await guarded(`cannot save ${target}`, async () => {
      await rm(made, { recursive: true, force: true });
      await delta.save(made);
      const replaces = await exists(target);
      if (replaces) await rename(target, old);
      try {
        await rename(made, target);
      } catch (error) {
        if (replaces) await rename(old, target);
        throw error;
      }
      if (replaces) await rm(old, { recursive: true, force: true });
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#forget();
    await rm(this.#work, { recursive: true, force: true });
  }
}

async function guarded<T>(what: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof SelfeditError) throw error;
    const { code, message } = error as NodeJS.ErrnoException;
    const reason = code === 'ENOSPC' ? 'no space left on the device' : message;
    throw makeError('IO', `${what}: ${reason}`, error);
  }
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}
