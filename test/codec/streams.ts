import assert from 'node:assert/strict';
import { isStorageError, type StorageError } from '../../src/base/errors.ts';
import { type DeflateHow, Deflater } from '../../src/codec/deflate.ts';
import { type InflateLimits, Inflater, type InflateSink } from '../../src/codec/inflate.ts';
import type { Compression } from '../../src/codec/sniff.ts';

/** More slots than any test has reason to ask for: a loop without progress ends here, not with the machine. */
const RESERVES_MAX = 2_000_000;

/** A sink of fixed slots, each filled before the next one begins, as the ring between threads does it. */
export class Slots implements InflateSink {
  readonly #parts: Uint8Array[] = [];
  readonly #slot: Uint8Array;
  #used = 0;
  #reserves = 0;

  constructor(slot: Uint8Array) {
    this.#slot = slot;
  }

  reserve(): Uint8Array {
    if (++this.#reserves > RESERVES_MAX) throw new Error('endless loop');
    return this.#slot.subarray(this.#used);
  }

  commit(bytes: number): void {
    assert.ok(bytes > 0 && this.#used + bytes <= this.#slot.length, `commit(${bytes})`);
    this.#used += bytes;
    if (this.#used === this.#slot.length) this.#flush();
  }

  #flush(): void {
    this.#parts.push(Uint8Array.from(this.#slot.subarray(0, this.#used)));
    this.#used = 0;
  }

  /** All that has been committed. */
  bytes(): Buffer {
    this.#flush();
    return Buffer.concat(this.#parts);
  }
}

/** `bytes` in pieces of the given lengths, over and over. */
export function* pieces(bytes: Uint8Array, lengths: readonly number[]): Generator<Uint8Array> {
  for (let at = 0, i = 0; at < bytes.length; i++) {
    const length = lengths[i % lengths.length]!;
    yield bytes.subarray(at, at + length);
    at += length;
  }
}

/** How a test feeds and catches: all at once into big slots unless it says otherwise. */
export interface Manner {
  readonly lengths?: readonly number[];
  readonly slot?: Uint8Array;
  readonly limits?: Partial<InflateLimits>;
}

export function inflate(kind: Compression, packed: Uint8Array, manner: Manner = {}): Buffer {
  const slots = new Slots(manner.slot ?? new Uint8Array(64 * 1024));
  const inflater = new Inflater(kind, slots, manner.limits);
  for (const piece of pieces(packed, manner.lengths ?? [Infinity])) inflater.write(piece);
  inflater.finish();
  return slots.bytes();
}

export function deflate(
  kind: 'gzip' | 'zstd',
  bytes: Uint8Array,
  lengths: readonly number[] = [Infinity],
  how: DeflateHow = {},
): Buffer {
  const parts: Buffer[] = [];
  const deflater = new Deflater(kind, (part) => parts.push(Buffer.from(part)), how);
  for (const piece of pieces(bytes, lengths)) deflater.write(piece);
  deflater.finish();
  return Buffer.concat(parts);
}

/** The data is refused as `corrupt`, in both ways of feeding it, and for that reason. */
export function assertCorrupt(
  kind: Compression,
  packed: Uint8Array,
  message: RegExp,
  limits: Partial<InflateLimits> = {},
): void {
  for (const lengths of [[Infinity], [1]]) {
    assert.throws(
      () => inflate(kind, packed, { lengths, limits }),
      (error: unknown) => {
        assert.ok(isStorageError(error, 'corrupt'), String(error));
        assert.match(error.message, message);
        return true;
      },
    );
  }
}

/** What `action` throws, which must be a StorageError. */
export function errorOf(action: () => unknown): StorageError {
  try {
    action();
  } catch (error) {
    if (isStorageError(error)) return error;
    throw error;
  }
  throw new assert.AssertionError({ message: 'nothing was thrown' });
}

/** Bytes that compress somewhat, the same for the same seed. */
export function sample(lengthBytes: number, seed = 1): Buffer {
  const bytes = Buffer.alloc(lengthBytes);
  let state = seed;
  for (let at = 0; at < lengthBytes; at++) {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    // Runs of text from a small alphabet, with noise in every other 4 KiB.
    bytes[at] = at & 0x1000 ? state >>> 24 : 97 + ((state >>> 28) & 7);
  }
  return bytes;
}
