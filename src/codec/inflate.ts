import { constants, createGunzip, createZstdDecompress } from 'node:zlib';
import { StorageError } from '../base/errors.ts';
import type { Compression } from './sniff.ts';
import { closedError, SyncStream } from './sync-stream.ts';
import { WINDOW_LOG_MAX, ZstdFrames } from './zstd-frames.ts';

/** Memory that the output goes to; it may be shared between threads. */
export interface InflateSink {
  /** Where to write next: at least one byte. Asked before each write, also where it then turns out that nothing comes. */
  reserve(): Uint8Array;
  /** That many bytes, at least one, are at the start of what `reserve` gave last. */
  commit(bytes: number): void;
}

/** What tells a layer of zeros from a bomb; Infinity lifts a limit. */
export interface InflateLimits {
  /** Output below which the ratio is not looked at. Default 1 GiB. */
  readonly freeBytes: number;
  /** Bytes of output for one of input. Default 100. */
  readonly ratioMax: number;
  /** Size of the whole input where it is known; else the ratio is to what came so far, and a layer with zeros in front may fail. */
  readonly inputSizeBytes: number;
}

/**
 * Unpacks a stream chunk by chunk, synchronously. gzip members and zstd frames follow each other, skippable frames are
 * skipped; CRC, length and content checksums are checked. After any error it is closed. Errors: `corrupt` for what is
 * wrong with the data (damage, truncation, bytes after the end, a bomb, a zstd window over 2^27, a dictionary),
 * `unsupported` where Node lacks the handle, `failed-precondition` once closed; what the sink throws passes through.
 */
export class Inflater {
  readonly #kind: Compression;
  readonly #sink: InflateSink;
  readonly #limits: InflateLimits;
  /** undefined: `none`. */
  readonly #stream: SyncStream | undefined;
  readonly #frames: ZstdFrames | undefined;
  #inputBytes = 0;
  #outputBytes = 0;
  /** The last gzip member has ended and a zero came after it. */
  #padding = false;
  #closed = false;

  constructor(kind: Compression, sink: InflateSink, limits: Partial<InflateLimits> = {}) {
    this.#kind = kind;
    this.#sink = sink;
    this.#limits = { freeBytes: 2 ** 30, ratioMax: 100, inputSizeBytes: 0, ...limits };
    // Their own output buffer stays unused, so it is as small as they allow.
    if (kind === 'gzip') this.#stream = new SyncStream(createGunzip({ chunkSize: 64 }));
    if (kind === 'zstd') {
      const params = { [constants.ZSTD_d_windowLogMax]: WINDOW_LOG_MAX };
      this.#stream = new SyncStream(createZstdDecompress({ chunkSize: 64, params }));
      this.#frames = new ZstdFrames();
    }
  }

  /** Takes the next bytes of input; all output that they allow has been committed when this returns. */
  write(chunk: Uint8Array): void {
    if (this.#closed) throw closedError();
    try {
      if (this.#stream === undefined) this.#copy(chunk);
      else this.#inflate(this.#stream, chunk);
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /** The input ends here: `corrupt` if the data does not. Closes. */
  finish(): void {
    if (this.#closed) throw closedError();
    try {
      this.#frames?.end();
      if (this.#kind === 'gzip' && !this.#padding) this.#endMember();
      this.#judgeRatio(this.#inputBytes);
    } finally {
      this.close();
    }
  }

  /** Frees what it holds, at any time and any number of times. */
  close(): void {
    this.#closed = true;
    this.#stream?.close();
  }

  #copy(chunk: Uint8Array): void {
    for (let at = 0; at < chunk.length; ) {
      const room = this.#sink.reserve();
      const part = chunk.subarray(at, at + room.length);
      if (part.length === 0) throw new StorageError('internal', 'Cannot copy the data: there is no room for output');
      room.set(part);
      this.#sink.commit(part.length);
      at += part.length;
    }
    this.#inputBytes += chunk.length;
  }

  #inflate(stream: SyncStream, chunk: Uint8Array): void {
    this.#frames?.read(chunk);
    const base = this.#inputBytes;
    let at = 0;
    let full = false;
    // Where the output is full there may be more of it, with no input left.
    while (at < chunk.length || full) {
      if (this.#padding) {
        this.#skipZeros(chunk, at);
        return;
      }
      const room = this.#sink.reserve();
      // NO_FLUSH of zlib and `continue` of zstd are both 0.
      const failure = stream.step(0, chunk, at, room);
      if (failure !== undefined)
        this.#refuse(`${failure}, between input bytes ${base + at} and ${base + chunk.length}`);
      const { consumed, produced } = stream;
      at += consumed;
      this.#inputBytes = base + at;
      if (produced > 0) {
        this.#outputBytes += produced;
        this.#judgeRatio(Math.max(this.#inputBytes, this.#limits.inputSizeBytes));
        this.#sink.commit(produced);
      }
      full = produced === room.length;
      if (consumed === 0 && produced === 0 && at < chunk.length) this.#standStill(chunk[at]!);
    }
  }

  /**
   * The end of a member or frame has been reached and Node does not take the next byte: a zero after gzip, or (Node 26,
   * which compares magic numbers first; 24 lets zstd complain) what begins no frame.
   */
  #standStill(next: number): void {
    if (this.#kind === 'gzip' && next === 0) this.#padding = true;
    else this.#refuse(`what follows the last frame is no frame, at input byte ${this.#inputBytes}`);
  }

  #skipZeros(chunk: Uint8Array, start: number): void {
    for (let at = start; at < chunk.length; at++) {
      if (chunk[at] !== 0)
        this.#refuse(`bytes that are not zero follow the padding, at input byte ${this.#inputBytes + at - start}`);
    }
    this.#inputBytes += chunk.length - start;
  }

  /** Only Z_FINISH makes zlib tell "member complete" from "more to come". */
  #endMember(): void {
    const failure = this.#stream?.step(constants.Z_FINISH, null, 0, new Uint8Array(1));
    if (failure !== undefined) this.#refuse(`${failure}, at input byte ${this.#inputBytes}`);
  }

  #judgeRatio(inputBytes: number): void {
    const { freeBytes, ratioMax } = this.#limits;
    if (this.#kind === 'none' || this.#outputBytes <= freeBytes || this.#outputBytes <= ratioMax * inputBytes) return;
    throw new StorageError(
      'corrupt',
      `Cannot inflate the ${this.#kind} data: ${inputBytes} bytes unpack to ${this.#outputBytes} or more, beyond ${ratioMax} to 1 (looked at above ${freeBytes} bytes); raise the limits if you trust it`,
    );
  }

  #refuse(why: string): never {
    throw new StorageError('corrupt', `Cannot inflate the ${this.#kind} data: ${why}; fetch the blob again`);
  }
}
