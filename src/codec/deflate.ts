import { createZstdCompress } from 'node:zlib';
import { StorageError } from '../base/errors.ts';
import { type GzipMemory, GzipPieces, gzipMemory } from './gzip.ts';
import { closedError, SyncStream } from './sync-stream.ts';
import { ZstdFrames } from './zstd-frames.ts';

/** Input goes to zstd in pieces of this size, whatever the caller's are: else they could show in the output. */
const PIECE_BYTES = 256 * 1024;
/** What a stream begins with: many are a few hundred bytes, and a hundred of them at a time keep the collector busy. */
const PIECE_BYTES_FIRST = 8 * 1024;
const ROOM_BYTES = 64 * 1024;
/** What one of zstd's own threads compresses at a time. 8 MiB, its choice, makes 1 % less of a layer and takes 60 MB. */
const JOB_BYTES = 2 << 20;
const LEVEL = 3;
// zstd.h; node:zlib's constants load it.
const ZSTD_E_CONTINUE = 0;
const ZSTD_E_END = 2;
const ZSTD_C_COMPRESSION_LEVEL = 100;
const ZSTD_C_CHECKSUM_FLAG = 201;
const ZSTD_C_NB_WORKERS = 400;
const ZSTD_C_JOB_SIZE = 401;

/** Where the pieces of a stream go. */
interface Pieces {
  /** Room for the next piece: all of it is filled, but for the last one. */
  next(): Uint8Array;
  /** The first `length` bytes of what `next` gave are there; the last piece may be empty. */
  pack(length: number, last: boolean): void;
  /** Where the piece that is full may be larger: a larger one that begins with the same bytes. */
  grow?(): Uint8Array | undefined;
  /** At any time, any number of times. */
  close(): void;
}

/** zstd, a call at a time: see `SyncStream`. */
export interface ZstdStepper {
  readonly consumed: number;
  readonly produced: number;
  step(flush: number, input: Uint8Array, start: number, output: Uint8Array): string | undefined;
  close(): void;
}

/** By whom a stream is compressed, beside the calling thread. */
export interface DeflateHow {
  /** zstd: by this instead of Node's, without workers. It has the level, and is the stream's to close. */
  readonly by?: ZstdStepper | undefined;
  /** gzip: what `helpGzip` of other threads was given too. */
  readonly memory?: GzipMemory | undefined;
  /** zstd: threads of its own. 0 (default): none; any number of them gives the same bytes, other ones than 0 does. */
  readonly workers?: number | undefined;
  /** zstd: 3 (default), or 1, which takes a fourth less time and of headers makes 1 to 3 % more. */
  readonly level?: 1 | 3 | undefined;
}

/**
 * Packs a stream, synchronously, as one gzip member (level 6; no name, mtime 0, OS 255) or one zstd frame (level 3 as a
 * rule, with content checksum). Law: the output depends on the bytes, the kind, the level and the version of Node alone (and on
 * whether zstd has workers), not on the chunking or the number of threads. Errors: `unsupported` where Node lacks the handle,
 * `failed-precondition` once closed, `canceled` once a thread that helps gave up; what `out` throws passes through and closes.
 */
export class Deflater {
  readonly #pieces: Pieces;
  #piece: Uint8Array | undefined;
  #used = 0;
  #closed = false;

  /** What `out` gets is borrowed: valid until it returns. */
  constructor(kind: 'gzip' | 'zstd', out: (bytes: Uint8Array) => void, how: DeflateHow = {}) {
    this.#pieces = kind === 'gzip' ? new GzipPieces(how.memory ?? gzipMemory(), out) : new ZstdPieces(how, out);
  }

  /** Where to write next: at least one byte. Packs what is full before. */
  reserve(): Uint8Array {
    if (this.#closed) throw closedError();
    try {
      if (this.#piece !== undefined && this.#used === this.#piece.length) {
        this.#piece = this.#pieces.grow?.();
        if (this.#piece === undefined) {
          this.#pieces.pack(this.#used, false);
          this.#used = 0;
        }
      }
      this.#piece ??= this.#pieces.next();
      return this.#piece.subarray(this.#used);
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /** That many bytes are at the start of what `reserve` gave last. */
  commit(bytes: number): void {
    this.#used += bytes;
  }

  /** Takes the next bytes; some of them are held back until more come. */
  write(chunk: Uint8Array): void {
    if (this.#closed) throw closedError();
    for (let at = 0; at < chunk.length; ) {
      const room = this.reserve();
      const part = chunk.subarray(at, at + room.length);
      room.set(part);
      this.commit(part.length);
      at += part.length;
    }
  }

  /** No more bytes: the rest of the output, trailer included, has gone to `out` when this returns. Closes. */
  finish(): void {
    if (this.#closed) throw closedError();
    try {
      this.#piece ??= this.#pieces.next();
      this.#pieces.pack(this.#used, true);
    } finally {
      this.close();
    }
  }

  /** Frees what it holds, at any time and any number of times. */
  close(): void {
    this.#closed = true;
    this.#pieces.close();
  }
}

class ZstdPieces implements Pieces {
  readonly #out: (bytes: Uint8Array) => void;
  readonly #stream: ZstdStepper;
  #piece: Buffer = Buffer.allocUnsafe(PIECE_BYTES_FIRST);
  readonly #room = Buffer.allocUnsafe(ROOM_BYTES);
  /** Tells when the frame is whole: of ZSTD_e_end Node does not say so, and asked once more it appends an empty one. */
  readonly #frames = new ZstdFrames();

  constructor({ by, workers = 0, level = LEVEL }: DeflateHow, out: (bytes: Uint8Array) => void) {
    this.#out = out;
    this.#stream = by ?? new SyncStream(createZstdCompress({ chunkSize: 64, params: parameters(workers, level) }));
    // Its threads begin with the first call: now, since a thread in a mount namespace of its own could not leave it
    // while they share its root directory (setns(2), EINVAL).
    if (workers > 0) this.#step(ZSTD_E_CONTINUE, 0, 0);
  }

  next(): Uint8Array {
    return this.#piece;
  }

  grow(): Uint8Array | undefined {
    if (this.#piece.length === PIECE_BYTES) return undefined;
    const larger = Buffer.allocUnsafe(Math.min(PIECE_BYTES, this.#piece.length * 8));
    this.#piece.copy(larger);
    this.#piece = larger;
    return larger;
  }

  pack(length: number, last: boolean): void {
    for (let at = 0; at < length; ) at += this.#step(ZSTD_E_CONTINUE, at, length);
    while (last && !this.#frames.complete) this.#step(ZSTD_E_END, length, length);
  }

  close(): void {
    this.#stream.close();
  }

  /** Answers how much of the piece was taken. */
  #step(flush: number, at: number, end: number): number {
    const failure = this.#stream.step(flush, this.#piece.subarray(0, end), at, this.#room);
    if (failure !== undefined) throw new StorageError('internal', `Cannot compress with zstd: ${failure}`);
    const { consumed, produced } = this.#stream;
    if (consumed === 0 && produced === 0 && (at < end || flush === ZSTD_E_END)) {
      throw new StorageError('internal', 'Cannot compress with zstd: no progress');
    }
    const bytes = this.#room.subarray(0, produced);
    this.#frames.read(bytes);
    if (produced > 0) this.#out(bytes);
    return consumed;
  }
}

function parameters(workers: number, level: number): Record<number, number> {
  const own = { [ZSTD_C_COMPRESSION_LEVEL]: level, [ZSTD_C_CHECKSUM_FLAG]: 1 };
  if (workers === 0) return own;
  return { ...own, [ZSTD_C_NB_WORKERS]: workers, [ZSTD_C_JOB_SIZE]: JOB_BYTES };
}
