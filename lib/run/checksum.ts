/** The checksum that a line of JSON carries as its last field. */
import { crc32 } from 'node:zlib';

const SEAL = /,"crc32":"([0-9a-f]{8})"\}$/;

const hex = (bytes: string | Uint8Array) => crc32(bytes).toString(16).padStart(8, '0');

/** The object as one line, its last field `crc32`: CRC-32 (ISO-HDLC, as in gzip) of the line's UTF-8 without that field. */
export function sealLine(value: object): string {
  const text = JSON.stringify(value);
  return `${text.slice(0, -1)},"crc32":"${hex(text)}"}`;
}

/** The checksum that a line states and the one that it has; undefined when it states none. */
export function checksumOf(line: string): { stated: string; found: string } | undefined {
  const seal = SEAL.exec(line);
  return seal ? { stated: seal[1]!, found: hex(`${line.slice(0, seal.index)}}`) } : undefined;
}
