// Writes safetensors in pieces, so that a model of any size needs no memory of its size.
import { open } from 'node:fs/promises';

const SIZES = { F32: 4, BF16: 2, I64: 8 };
const PIECE = 1 << 22;

/** `tensors`: {name, dtype, shape, fill(count) → typed array of the next `count` values}, in this order. */
export async function writeSafetensors(path, tensors) {
  const header = {};
  let end = 0;
  for (const { name, dtype, shape } of tensors) {
    const begin = end;
    end += SIZES[dtype] * shape.reduce((product, n) => product * n, 1);
    header[name] = { dtype, shape, data_offsets: [begin, end] };
  }
  let text = JSON.stringify(header);
  text += ' '.repeat((8 - (text.length % 8)) % 8);
  const head = Buffer.alloc(8 + text.length);
  head.writeBigUInt64LE(BigInt(text.length));
  head.write(text, 8);
  const file = await open(path, 'w');
  try {
    await file.writeFile(head);
    for (const { dtype, shape, fill } of tensors) {
      let left = shape.reduce((product, n) => product * n, 1);
      for (; left > 0; left -= PIECE) await file.writeFile(bytesOf(fill(Math.min(left, PIECE)), dtype));
    }
  } finally {
    await file.close();
  }
}

function bytesOf(values, dtype) {
  const whole = dtype === 'BF16' ? toBfloat16(values) : values;
  return new Uint8Array(whole.buffer, whole.byteOffset, whole.byteLength);
}

/** The upper half of a float32, rounded to the nearest, ties to even. */
function toBfloat16(values) {
  const words = new Uint32Array(values.buffer, values.byteOffset, values.length);
  return Uint16Array.from(words, (word) => (word + 0x7fff + ((word >>> 16) & 1)) >>> 16);
}
