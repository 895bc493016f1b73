import { constants, createGzip, createZstdCompress } from 'node:zlib';
import { StorageError } from '../base/errors.ts';
import { closedError, SyncStream } from './sync-stream.ts';

/** Input is given to the compressor in pieces of this size, whatever the caller's are: else they could show in the output. */
const PIECE_BYTES = 256 * 1024;
/** More than anything that one piece, and a block of 128 KiB held back, can become: the last step never fills it. */
const ROOM_BYTES = 2 * PIECE_BYTES;

const LEVELS = { gzip: { min: 0, max: 9, usual: 6 }, zstd: { min: 1, max: 22, usual: 3 } } as const;

/**
 * Packs a stream chunk by chunk, synchronously, as one gzip member (no name, mtime 0, OS 255) or one zstd frame (with
 * content checksum). Law: the output depends on the bytes, the kind, the level and the version of Node alone, not on
 * the chunking. Errors: `invalid-argument` for a level, `unsupported` where Node lacks the handle,
 * `failed-precondition` once closed; what `out` throws passes through and closes.
 */
export class Deflater {
  readonly #kind: 'gzip' | 'zstd';
  readonly #out: (bytes: Uint8Array) => void;
  readonly #stream: SyncStream;
  readonly #piece = Buffer.allocUnsafe(PIECE_BYTES);
  readonly #room = Buffer.allocUnsafe(ROOM_BYTES);
  #held = 0;
  #begun = false;
  #closed = false;

  /** What `out` gets is borrowed: valid until it returns. `level`: 0 to 9 for gzip (6), 1 to 22 for zstd (3). */
  constructor(kind: 'gzip' | 'zstd', out: (bytes: Uint8Array) => void, level: number = LEVELS[kind].usual) {
    const { min, max } = LEVELS[kind];
    if (!Number.isInteger(level) || level < min || level > max) {
      throw new StorageError(
        'invalid-argument',
        `Cannot compress with ${kind} at level ${level}: take ${min} to ${max}`,
      );
    }
    this.#kind = kind;
    this.#out = out;
    this.#stream = new SyncStream(kind === 'gzip' ? createGzip({ chunkSize: 64, level }) : zstd(level));
  }

  /** Takes the next bytes; some of them are held back until more come. */
  write(chunk: Uint8Array): void {
    if (this.#closed) throw closedError();
    try {
      for (let at = 0; at < chunk.length; ) {
        if (this.#held === 0 && chunk.length - at >= PIECE_BYTES) {
          this.#deflate(0, chunk.subarray(at, at + PIECE_BYTES));
          at += PIECE_BYTES;
          continue;
        }
        const part = chunk.subarray(at, at + PIECE_BYTES - this.#held);
        this.#piece.set(part, this.#held);
        this.#held += part.length;
        at += part.length;
        if (this.#held < PIECE_BYTES) break;
        this.#held = 0;
        this.#deflate(0, this.#piece);
      }
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /** No more bytes: the rest of the output, trailer included, has gone to `out` when this returns. Closes. */
  finish(): void {
    if (this.#closed) throw closedError();
    try {
      const end = this.#kind === 'gzip' ? constants.Z_FINISH : constants.ZSTD_e_end;
      this.#deflate(end, this.#piece.subarray(0, this.#held));
    } finally {
      this.close();
    }
  }

  /** Frees what it holds, at any time and any number of times. */
  close(): void {
    this.#closed = true;
    this.#stream.close();
  }

  #deflate(flush: number, input: Uint8Array): void {
    let at = 0;
    for (;;) {
      const failure = this.#stream.step(flush, input, at, this.#room);
      if (failure !== undefined) throw new StorageError('internal', `Cannot compress with ${this.#kind}: ${failure}`);
      const { consumed, produced } = this.#stream;
      at += consumed;
      if (produced > 0) this.#emit(this.#room.subarray(0, produced));
      if (produced < ROOM_BYTES && at === input.length) return;
      // `produced` can only be full inside a piece: a second ZSTD_e_end would append an empty frame.
      if ((consumed === 0 && produced === 0) || (flush !== 0 && this.#kind === 'zstd')) {
        throw new StorageError('internal', `Cannot compress with ${this.#kind}: no progress`);
      }
    }
  }

  #emit(bytes: Uint8Array): void {
    // The header (RFC 1952, 2.3.1) comes whole in the first output; zlib writes its own idea of the system, 3, at byte 9.
    if (!this.#begun && this.#kind === 'gzip') bytes[9] = 255;
    this.#begun = true;
    this.#out(bytes);
  }
}

function zstd(level: number): ReturnType<typeof createZstdCompress> {
  const params = { [constants.ZSTD_c_compressionLevel]: level, [constants.ZSTD_c_checksumFlag]: 1 };
  return createZstdCompress({ chunkSize: 64, params });
}
