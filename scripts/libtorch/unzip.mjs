// Unpacks the wanted entries of a zip file (a wheel is one) as a stream, with Node alone: a fresh machine need not have unzip.
import { createReadStream, createWriteStream } from 'node:fs';
import { chmod, mkdir, open } from 'node:fs/promises';
import { dirname, join, normalize, sep } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { createInflateRaw } from 'node:zlib';

const END = 0x06054b50;
const END64 = 0x06064b50;
const LOCATOR64 = 0x07064b50;
const CENTRAL = 0x02014b50;
const LOCAL = 0x04034b50;

async function readAt(file, position, length) {
  const buffer = Buffer.alloc(length);
  const { bytesRead } = await file.read(buffer, 0, length, position);
  if (bytesRead !== length) throw new Error('the zip file is truncated');
  return buffer;
}

/** Entries of the zip's directory: name, method, sizes, position of the local header. */
async function readEntries(file) {
  const { size } = await file.stat();
  const tail = await readAt(file, Math.max(0, size - 65_557), Math.min(size, 65_557));
  let end = tail.length - 22;
  while (end >= 0 && tail.readUInt32LE(end) !== END) end--;
  if (end < 0) throw new Error('not a zip file, or truncated');
  let count = tail.readUInt16LE(end + 10);
  let length = tail.readUInt32LE(end + 12);
  let start = tail.readUInt32LE(end + 16);
  if (end >= 20 && tail.readUInt32LE(end - 20) === LOCATOR64) {
    const end64 = await readAt(file, Number(tail.readBigUInt64LE(end - 12)), 56);
    if (end64.readUInt32LE(0) !== END64) throw new Error('the zip file is damaged');
    count = Number(end64.readBigUInt64LE(32));
    length = Number(end64.readBigUInt64LE(40));
    start = Number(end64.readBigUInt64LE(48));
  }
  const directory = await readAt(file, start, length);
  const entries = [];
  for (let at = 0, i = 0; i < count; i++) {
    if (directory.readUInt32LE(at) !== CENTRAL) throw new Error('the zip file is damaged');
    const lengths = [28, 30, 32].map((o) => directory.readUInt16LE(at + o));
    const entry = {
      method: directory.readUInt16LE(at + 10),
      packed: directory.readUInt32LE(at + 20),
      size: directory.readUInt32LE(at + 24),
      mode: directory.readUInt32LE(at + 38) >>> 16,
      start: directory.readUInt32LE(at + 42),
      name: directory.toString('utf8', at + 46, at + 46 + lengths[0]),
    };
    readExtra64(directory.subarray(at + 46 + lengths[0], at + 46 + lengths[0] + lengths[1]), entry);
    entries.push(entry);
    at += 46 + lengths[0] + lengths[1] + lengths[2];
  }
  return entries;
}

/** Fields that do not fit into 32 bits are in an extra record, in this order. */
function readExtra64(extra, entry) {
  for (let at = 0; at + 4 <= extra.length; at += 4 + extra.readUInt16LE(at + 2)) {
    if (extra.readUInt16LE(at) !== 1) continue;
    let field = at + 4;
    for (const key of ['size', 'packed', 'start']) {
      if (entry[key] !== 0xffffffff) continue;
      entry[key] = Number(extra.readBigUInt64LE(field));
      field += 8;
    }
  }
}

/**
 * Unpacks into `folder`. `rename(name)` gives the path inside `folder` for an entry, or undefined to leave it out.
 * Returns the number of files written.
 */
export async function unzip(path, folder, rename) {
  const file = await open(path);
  let written = 0;
  try {
    for (const entry of await readEntries(file)) {
      const target = entry.name.endsWith('/') ? undefined : rename(entry.name);
      if (target === undefined) continue;
      const inside = normalize(target);
      if (inside.startsWith('..') || inside.startsWith(sep))
        throw new Error(`the zip file names ${entry.name}`);
      const output = join(folder, inside);
      await mkdir(dirname(output), { recursive: true });
      await extract(file, path, entry, output);
      if (entry.mode & 0o111) await chmod(output, 0o755);
      written++;
    }
  } finally {
    await file.close();
  }
  return written;
}

async function extract(file, path, entry, output) {
  const local = await readAt(file, entry.start, 30);
  if (local.readUInt32LE(0) !== LOCAL) throw new Error('the zip file is damaged');
  const start = entry.start + 30 + local.readUInt16LE(26) + local.readUInt16LE(28);
  const sink = createWriteStream(output);
  if (entry.packed === 0) {
    await new Promise((done, failed) => sink.once('error', failed).end(done));
    return;
  }
  const source = createReadStream(path, { start, end: start + entry.packed - 1, highWaterMark: 1 << 20 });
  if (entry.method === 8) await pipeline(source, createInflateRaw({ chunkSize: 1 << 20 }), sink);
  else if (entry.method === 0) await pipeline(source, sink);
  else throw new Error(`${entry.name} is packed by method ${entry.method}, which is not supported`);
  if (sink.bytesWritten !== entry.size) throw new Error(`${entry.name} is damaged in the zip file`);
}
