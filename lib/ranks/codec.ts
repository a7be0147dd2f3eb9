/**
 * Values between ranks as bytes, without loss: JSON, with typed arrays as their own bytes behind it. What JSON has no word for
 * (NaN, infinities, −0, bigints, undefined in a list) is written as `{"$": …}`.
 */
import { makeError } from '../errors.js';

const KINDS = {
  f32: Float32Array,
  f64: Float64Array,
  i32: Int32Array,
  u8: Uint8Array,
  u64: BigUint64Array,
} as const;
type Kind = keyof typeof KINDS;
type Binary = InstanceType<(typeof KINDS)[Kind]>;

type Special =
  | { $: 'number'; value: string }
  | { $: 'bigint'; value: string }
  | { $: 'undefined' }
  | { $: 'object'; value: unknown }
  | { $: Kind; at: number; length: number };

/** Plain values, lists and typed arrays as bytes. Throws `INPUT_INVALID` for what is none of these (functions, maps, classes). */
export function encode(value: unknown): Uint8Array {
  const arrays: Uint8Array[] = [];
  let at = 0;
  const convert = (given: unknown, path: string): unknown => {
    if (typeof given === 'number') {
      if (Number.isFinite(given) && !Object.is(given, -0)) return given;
      return { $: 'number', value: Object.is(given, -0) ? '-0' : String(given) } satisfies Special;
    }
    if (typeof given === 'bigint') return { $: 'bigint', value: String(given) } satisfies Special;
    if (given === undefined) return { $: 'undefined' } satisfies Special;
    if (given === null || typeof given === 'string' || typeof given === 'boolean') return given;
    if (ArrayBuffer.isView(given)) {
      const kind = (Object.keys(KINDS) as Kind[]).find((name) => given instanceof KINDS[name]);
      if (!kind) throw notPlain(path);
      const { length, byteLength } = given as Binary;
      const special: Special = { $: kind, at, length };
      arrays.push(new Uint8Array(given.buffer, given.byteOffset, byteLength));
      at += byteLength;
      return special;
    }
    if (Array.isArray(given)) return given.map((item, index) => convert(item, `${path}[${index}]`));
    const prototype: unknown = typeof given === 'object' ? Object.getPrototypeOf(given) : undefined;
    if (prototype !== Object.prototype && prototype !== null) throw notPlain(path);
    const entries = Object.entries(given).filter(([, item]) => item !== undefined);
    const object = Object.fromEntries(entries.map(([key, item]) => [key, convert(item, `${path}.${key}`)]));
    return '$' in object ? ({ $: 'object', value: object } satisfies Special) : object;
  };
  const text = new TextEncoder().encode(JSON.stringify(convert(value, 'value')));
  const bytes = new Uint8Array(8 + text.length + at);
  new DataView(bytes.buffer).setFloat64(0, text.length, true);
  bytes.set(text, 8);
  let next = 8 + text.length;
  for (const array of arrays) {
    bytes.set(array, next);
    next += array.length;
  }
  return bytes;
}

/** What `encode` was given. */
export function decode(bytes: Uint8Array): unknown {
  const length = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength).getFloat64(0, true);
  const start = 8 + length;
  const convert = (given: unknown): unknown => {
    if (typeof given !== 'object' || given === null) return given;
    if (Array.isArray(given)) return given.map(convert);
    if (!('$' in given)) return plain(given);
    const special = given as Special;
    if (special.$ === 'number') return Number(special.value);
    if (special.$ === 'bigint') return BigInt(special.value);
    if (special.$ === 'undefined') return undefined;
    if (special.$ === 'object') return plain(special.value as object);
    const Made = KINDS[special.$];
    const from = start + special.at;
    return new Made(bytes.slice(from, from + special.length * Made.BYTES_PER_ELEMENT).buffer);
  };
  const plain = (object: object) =>
    Object.fromEntries(Object.entries(object).map(([key, item]) => [key, convert(item)]));
  return convert(JSON.parse(new TextDecoder().decode(bytes.subarray(8, start))));
}

function notPlain(path: string) {
  return makeError(
    'INPUT_INVALID',
    `${path} cannot be sent to other ranks; expected plain values, lists and typed arrays`,
  );
}
