// The official libtorch archive.
import { createWriteStream } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable, Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { temporaryFolder, unpackIntoCache, verify } from './install.mjs';

const CONNECT_MS = 6_000;
const STALL_MS = 30_000;

/** Address of the archive, or undefined where there is none for this platform. */
export function archiveUrl(version, variant, platform = process.platform, arch = process.arch) {
  const base = `https://download.pytorch.org/libtorch/${variant}`;
  if (platform === 'linux' && arch === 'x64')
    return `${base}/libtorch-shared-with-deps-${version}%2B${variant}.zip`;
  if (platform === 'darwin' && arch === 'arm64' && variant === 'cpu')
    return `${base}/libtorch-macos-arm64-${version}.zip`;
  if (platform === 'win32' && arch === 'x64')
    return `${base}/libtorch-win-shared-with-deps-${version}%2B${variant}.zip`;
  return undefined;
}

/** Gives up quickly where the host does not answer, and when nothing arrives for a while. */
async function download(url, path, connectMs) {
  const controller = new AbortController();
  const abort = (why) => () => controller.abort(new Error(why));
  let timer = setTimeout(abort(`no answer within ${connectMs / 1000} s`), connectMs);
  try {
    const response = await fetch(url, { signal: controller.signal });
    if (!response.ok) throw new Error(`the host answers ${response.status}`);
    const watch = new Transform({
      transform(chunk, _encoding, done) {
        clearTimeout(timer);
        timer = setTimeout(abort(`nothing arrived for ${STALL_MS / 1000} s`), STALL_MS);
        done(null, chunk);
      },
    });
    await pipeline(Readable.fromWeb(response.body), watch, createWriteStream(path), {
      signal: controller.signal,
    });
  } catch (error) {
    const reason = controller.signal.aborted ? controller.signal.reason : error;
    throw new Error(`${new URL(url).host}: ${reason.cause?.message ?? reason.message}`);
  } finally {
    clearTimeout(timer);
  }
}

export async function fromArchive({ version, variant, env, url, connectMs = CONNECT_MS }) {
  const address = url ?? archiveUrl(version, variant);
  if (!address) throw new Error(`there is none for ${process.platform} ${process.arch} ${variant}`);
  const work = await temporaryFolder(env);
  try {
    const name = decodeURIComponent(address.split('/').at(-1));
    const file = join(work, 'libtorch.zip');
    await download(address, file, connectMs);
    const check = await verify(file, name, env);
    const found = await unpackIntoCache([file], { source: address, ...check }, env);
    return { ...found, check: check.state };
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}
