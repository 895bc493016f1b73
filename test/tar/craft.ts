import type { ByteString } from '../../src/base/bytes.ts';
import { encodePax } from '../../src/tar/pax.ts';

/** Header fields as raw text, so that a test can write what no honest tool would. */
export interface Raw {
  readonly name?: string;
  readonly mode?: string;
  readonly uid?: string;
  readonly gid?: string;
  readonly size?: string;
  readonly mtime?: string;
  readonly type?: string;
  readonly link?: string;
  readonly magic?: string;
  readonly major?: string;
  readonly minor?: string;
  /** From byte 345: the prefix, or what GNU has there. */
  readonly rest?: string;
  readonly checksum?: string;
}

const AT: Readonly<Record<Exclude<keyof Raw, 'checksum'>, number>> = {
  name: 0,
  mode: 100,
  uid: 108,
  gid: 116,
  size: 124,
  mtime: 136,
  type: 156,
  link: 157,
  magic: 257,
  major: 329,
  minor: 337,
  rest: 345,
};

/** One header block with a right checksum (or the one given). A number for `size` is written as octal. */
export function header(raw: Omit<Raw, 'size'> & { readonly size?: string | number }): Buffer {
  const block = Buffer.alloc(512);
  const { checksum, ...fields } = raw;
  const all = { name: 'entry', type: '0', magic: 'ustar\x0000', ...fields };
  for (const [key, value] of Object.entries(all)) {
    const text = typeof value === 'number' ? value.toString(8).padStart(11, '0') : value;
    block.write(text, AT[key as keyof typeof AT], 'latin1');
  }
  let sum = 256;
  for (const byte of block) sum += byte;
  block.write(checksum ?? `${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  return block;
}

/** `bytes` filled up to whole blocks. */
export function padded(bytes: string | Uint8Array): Buffer {
  const buffer = typeof bytes === 'string' ? Buffer.from(bytes, 'latin1') : Buffer.from(bytes);
  return Buffer.concat([buffer, Buffer.alloc((512 - (buffer.length % 512)) % 512)]);
}

/** An extended header of type x, g, L or K with any payload. */
export function extended(type: string, payload: string | Uint8Array): Buffer {
  return Buffer.concat([header({ name: 'extended', type, size: payload.length }), padded(payload)]);
}

/** An x (or g) header with these records. */
export function pax(records: Readonly<Record<string, string>>, type = 'x'): Buffer {
  return extended(type, encodePax(new Map(Object.entries(records) as [ByteString, ByteString][])));
}

export const END: Buffer = Buffer.alloc(1024);
