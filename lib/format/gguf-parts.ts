/** The files of a GGUF model: one, or the parts that llama-gguf-split makes of it. */
import { open } from 'node:fs/promises';
import { basename, dirname } from 'node:path';
import { z } from 'zod';
import { makeError } from '../errors.js';
import { type GgufHeader, parseGgufHeader } from './gguf.js';
import { allowedRoots, inside } from './inside.js';
import { check, count } from './json.js';

export interface ResolveOptions {
  /** Header of a .gguf file as JSON text: `native().inspect(path).promise`. */
  inspect(path: string): Promise<string | Uint8Array>;
  signal?: AbortSignal | undefined;
}

export interface GgufPart {
  /** Absolute path. */
  path: string;
  header: GgufHeader;
}

const whole = z.int('a whole number').nonnegative('a whole number');
const splitSchema = z.object({
  'split.count': count.optional(),
  'split.no': whole.optional(),
  'split.tensors.count': whole.optional(),
});
const PART_NAME = /^(.*)-00001-of-(\d{5})\.gguf$/;

/**
 * `path` is the one file, or the first part, which has the metadata of all.
 * Errors: `FILE_FORMAT`, `FILE_NOT_FOUND`, `FILE_UNSAFE`, and those of `inspect`.
 */
export async function readParts(path: string, { inspect, signal }: ResolveOptions): Promise<GgufPart[]> {
  const name = basename(path);
  const first = { path, header: await parseGgufHeader(await inspect(path), name, signal) };
  const split = check(splitSchema, first.header.metadata, name, 'FILE_FORMAT');
  const parts = split['split.count'] ?? 1;
  if (parts === 1) return [first];
  const number = (split['split.no'] ?? 0) + 1;
  if (number !== 1) {
    throw makeError('FILE_FORMAT', `${name} is part ${number} of ${parts}, expected the first one`);
  }
  const [, stem, total] = PART_NAME.exec(name) ?? [];
  if (stem === undefined || Number(total) !== parts) {
    throw makeError(
      'FILE_FORMAT',
      `${name} is the first of ${parts} parts, expected a name that ends in ${partName('', 1, parts)}`,
    );
  }
  const folder = dirname(path);
  const roots = await allowedRoots(folder);
  const found: GgufPart[] = [first];
  for (let next = 2; next <= parts; next++) {
    const own = partName(stem, next, parts);
    const part = await inside(folder, own, roots, `${name}, the first of ${parts} parts,`);
    const header = await parseGgufHeader(await inspect(part), own, signal);
    const facts = check(splitSchema, header.metadata, own, 'FILE_FORMAT');
    if (facts['split.no'] !== next - 1 || facts['split.count'] !== parts) {
      const what = `part ${(facts['split.no'] ?? 0) + 1} of ${facts['split.count'] ?? 1}`;
      throw makeError('FILE_FORMAT', `${own} is ${what}, expected part ${next} of ${parts}`);
    }
    found.push({ path: part, header });
  }
  const tensors = found.reduce((sum, { header }) => sum + header.tensors.length, 0);
  const expected = split['split.tensors.count'] ?? tensors;
  if (tensors !== expected) {
    throw makeError(
      'FILE_FORMAT',
      `${name} and its ${parts - 1} other parts have ${tensors} tensors, expected ${expected}`,
    );
  }
  return found;
}

function partName(stem: string, part: number, parts: number): string {
  const digits = (value: number): string => String(value).padStart(5, '0');
  return `${stem}-${digits(part)}-of-${digits(parts)}.gguf`;
}

const TABLE_BYTES = 4096;

/**
 * Values of a small float32 tensor; nothing where no part has it.
 * Errors: `TENSOR_SHAPE`, `FILE_TRUNCATED`.
 */
export async function readTable(parts: readonly GgufPart[], name: string): Promise<Float32Array | undefined> {
  for (const { path, header } of parts) {
    const tensor = header.tensors.find((known) => known.name === name);
    if (!tensor) continue;
    if (tensor.dtype !== 'F32' || tensor.bytes % 4 !== 0 || tensor.bytes > TABLE_BYTES) {
      const found = `${tensor.dtype} of ${tensor.bytes} bytes`;
      throw makeError(
        'TENSOR_SHAPE',
        `${basename(path)}: tensor "${name}" is ${found}, expected F32 of at most ${TABLE_BYTES} bytes`,
      );
    }
    const file = await open(path, 'r');
    try {
      const buffer = Buffer.alloc(tensor.bytes);
      const { bytesRead } = await file.read(buffer, 0, tensor.bytes, tensor.offset);
      if (bytesRead !== tensor.bytes) throw makeError('FILE_TRUNCATED', `${path} ends inside "${name}"`);
      return Float32Array.from({ length: tensor.bytes / 4 }, (_, i) => buffer.readFloatLE(4 * i));
    } finally {
      await file.close();
    }
  }
  return undefined;
}
