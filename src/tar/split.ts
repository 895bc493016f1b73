/**
 * The split record of a layer: everything of its tar but the contents of files, so that tar = record + files.
 *
 *     record   = magic version part* end
 *     magic    = "LSSPLIT" (7 bytes)      version = 0x01
 *     part     = 0x01 n bytes[n]                              raw bytes of the tar, n = 1 to 65536
 *              | 0x02 name payload                            here the whole content of a file stands
 *              | 0x03 name payload count (gap length)[count]  here the runs of a sparse file stand, one after another
 *     name     = n bytes[n]          as the archive spells it, n up to 1 MiB, no NUL
 *     payload  = number              bytes of the tar that come from the file, at least 1
 *     gap      = number              from the end of the run before (or the file's start) to this one; length ≥ 1
 *     end      = 0x00 total sha256[32]    length and digest of the whole tar; nothing follows
 *     number   = LEB128, shortest form, up to 2^53 − 1
 *
 * Absent on purpose: compression (the caller's), file metadata (it is in the raw headers), JSON.
 */
import { type ByteString, fromBytes } from '../base/bytes.ts';
import { StorageError } from '../base/errors.ts';
import { TAR_LIMITS } from './lexer.ts';
import type { Extent } from './types.ts';

const MAGIC = 'LSSPLIT\x01';
const END = 0;
const RAW = 1;
const FILE = 2;
const SPARSE = 3;
const RAW_MAX = 1 << 16;
const NAME_MAX: number = TAR_LIMITS.headerBytesMax;

/** Makes a split record. What `out` gets is borrowed: valid until it returns. Law: `SplitReader` reads back what was told. */
export class SplitWriter {
  readonly #out: (bytes: Uint8Array) => void;
  /** Raw bytes that wait to be merged with the next ones. */
  readonly #pending: Buffer = Buffer.allocUnsafe(RAW_MAX);
  #pendingBytes = 0;
  /** For what stands between them. */
  readonly #scratch: Buffer = Buffer.allocUnsafe(1024);

  constructor(out: (bytes: Uint8Array) => void) {
    this.#out = out;
    out(Buffer.from(MAGIC, 'latin1'));
  }

  /** Bytes of the tar that no file holds. They are copied. */
  raw(bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length; ) {
      const take = Math.min(bytes.length - at, RAW_MAX - this.#pendingBytes);
      this.#pending.set(bytes.subarray(at, at + take), this.#pendingBytes);
      this.#pendingBytes += take;
      at += take;
      if (this.#pendingBytes === RAW_MAX) this.#flush();
    }
  }

  /**
   * The tar goes on with `payloadBytes` from the file that the archive calls `name`: all of it, or its `extents`. An
   * empty payload leaves no trace, for there is nothing to replay.
   */
  file(name: ByteString, payloadBytes: number, extents?: readonly Extent[]): void {
    if (payloadBytes === 0) return;
    this.#flush();
    const head: number[] = [extents === undefined ? FILE : SPARSE];
    putNumber(head, name.length);
    const tail: number[] = [];
    putNumber(tail, payloadBytes);
    if (extents !== undefined) {
      putNumber(tail, extents.length);
      let end = 0;
      for (const { offset, length } of extents) {
        putNumber(tail, offset - end);
        putNumber(tail, length);
        end = offset + length;
      }
    }
    this.#put(head);
    this.#put(name);
    this.#put(tail);
  }

  #put(what: readonly number[] | string): void {
    const { length } = what;
    const bytes = length <= this.#scratch.length ? this.#scratch : Buffer.allocUnsafe(length);
    if (typeof what === 'string') bytes.write(what, 0, length, 'latin1');
    else for (let i = 0; i < length; i++) bytes[i] = what[i]!;
    this.#out(bytes.subarray(0, length));
  }

  /** The tar is over: its length and the 32 bytes of its sha256, by which a replay is checked. */
  end(totalBytes: number, sha256: Uint8Array): void {
    this.#flush();
    const head: number[] = [END];
    putNumber(head, totalBytes);
    this.#put(head);
    this.#out(sha256);
  }

  #flush(): void {
    if (this.#pendingBytes === 0) return;
    const head: number[] = [RAW];
    putNumber(head, this.#pendingBytes);
    this.#put(head);
    this.#out(this.#pending.subarray(0, this.#pendingBytes));
    this.#pendingBytes = 0;
  }
}

function putNumber(out: number[], value: number): void {
  let rest = value;
  while (rest >= 0x80) {
    out.push((rest % 0x80) | 0x80);
    rest = Math.floor(rest / 0x80);
  }
  out.push(rest);
}

/** What a SplitReader tells, in the order of the tar's bytes. Views are borrowed until the call returns. */
export interface SplitSink {
  /** Bytes of the tar itself: headers, padding, the end. */
  onRaw(bytes: Uint8Array): void;
  /** Here stands the content of a file, or those runs of it. */
  onFile(name: ByteString, payloadBytes: number, extents: readonly Extent[] | undefined): void;
  /** The last call. Who replays checks both against the bytes. */
  onEnd(totalBytes: number, sha256: Uint8Array): void;
}

// What the next byte belongs to. A state from `NAME_LENGTH` on that wants a number gets it whole.
type State = 'magic' | 'tag' | 'raw' | 'name' | 'sha256' | 'over' | NumberState;
type NumberState = 'raw length' | 'name length' | 'payload' | 'count' | 'gap' | 'length' | 'total';

/**
 * Reads a split record in pieces of any size. Anything that a SplitWriter would not have written is `corrupt`. Memory:
 * one name (1 MiB) and one sparse map (as many runs as the lexer takes).
 */
export class SplitReader {
  readonly #sink: SplitSink;
  #state: State = 'magic';
  #error: StorageError | undefined;
  #at = 0;
  /** Bytes of the tar so far. */
  #tarBytes = 0;

  /** Bytes left of raw data, or collected of a fixed-length field. */
  #left: number = MAGIC.length;
  #field: Buffer = Buffer.alloc(MAGIC.length);
  #number = 0;
  #scale = 1;

  #sparse = false;
  #name = '' as ByteString;
  #payload = 0;
  #extents: Extent[] | undefined;
  #runsLeft = 0;
  #runOffset = 0;
  #runsBytes = 0;
  #total = 0;

  constructor(sink: SplitSink) {
    this.#sink = sink;
  }

  /** Takes the next bytes of the record, unpacked. */
  write(chunk: Uint8Array): void {
    if (this.#error !== undefined) throw this.#error;
    let at = 0;
    while (at < chunk.length) {
      switch (this.#state) {
        case 'magic':
        case 'name':
        case 'sha256': {
          const take = Math.min(this.#left, chunk.length - at);
          this.#field.set(chunk.subarray(at, at + take), this.#field.length - this.#left);
          this.#left -= take;
          at += take;
          if (this.#left === 0) this.#takeField();
          break;
        }
        case 'raw': {
          const take = Math.min(this.#left, chunk.length - at);
          this.#left -= take;
          if (this.#left === 0) this.#state = 'tag';
          this.#sink.onRaw(chunk.subarray(at, at + take));
          at += take;
          break;
        }
        case 'tag':
          this.#takeTag(chunk[at++]!);
          break;
        case 'over':
          throw this.#corrupt('bytes follow its end');
        default:
          this.#takeByte(chunk[at++]!, this.#state);
      }
      // For messages only; within a chunk it is as exact as one part.
      if (at === chunk.length) this.#at += chunk.length;
    }
  }

  /** The record is over: throws `corrupt` if its end did not come. */
  finish(): void {
    if (this.#error !== undefined) throw this.#error;
    if (this.#state !== 'over') throw this.#corrupt('it is cut off');
  }

  #takeTag(tag: number): void {
    if (tag === RAW) this.#expect('raw length');
    else if (tag === END) this.#expect('total');
    else if (tag === FILE || tag === SPARSE) {
      this.#sparse = tag === SPARSE;
      this.#expect('name length');
    } else throw this.#corrupt(`${tag} is no kind of part`);
  }

  #expect(state: NumberState): void {
    this.#state = state;
    this.#number = 0;
    this.#scale = 1;
  }

  #collect(state: 'name' | 'sha256', length: number): void {
    this.#state = state;
    this.#left = length;
    this.#field = Buffer.alloc(length);
    if (length === 0) this.#takeField();
  }

  #takeByte(byte: number, state: NumberState): void {
    this.#number += (byte & 0x7f) * this.#scale;
    if (this.#number > Number.MAX_SAFE_INTEGER) throw this.#corrupt(`a ${state} is too large`);
    if (byte === 0 && this.#scale > 1) throw this.#corrupt(`a ${state} is not in its shortest form`);
    // 128^7 = 2^49: an eighth byte is the last that can matter.
    if (byte >= 0x80 && this.#scale > 2 ** 42) throw this.#corrupt(`a ${state} is too long`);
    this.#scale *= 0x80;
    if (byte < 0x80) this.#takeNumber(this.#number, state);
  }

  #takeNumber(value: number, state: NumberState): void {
    switch (state) {
      case 'raw length':
        if (value === 0 || value > RAW_MAX) throw this.#corrupt(`a raw part has ${value} bytes`);
        this.#grow(value);
        this.#left = value;
        this.#state = 'raw';
        return;
      case 'name length':
        if (value > NAME_MAX) throw this.#corrupt(`a name has ${value} bytes`);
        this.#collect('name', value);
        return;
      case 'payload':
        if (value === 0) throw this.#corrupt('a payload is empty');
        this.#grow(value);
        this.#payload = value;
        if (this.#sparse) this.#expect('count');
        else this.#fileDone(undefined);
        return;
      case 'count':
        if (value === 0 || value > TAR_LIMITS.extentsMax) throw this.#corrupt(`a sparse file has ${value} runs`);
        this.#extents = [];
        this.#runsLeft = value;
        this.#runOffset = this.#runsBytes = 0;
        this.#expect('gap');
        return;
      case 'gap':
        this.#runOffset += value;
        if (!Number.isSafeInteger(this.#runOffset)) throw this.#corrupt('a sparse file is too large');
        this.#expect('length');
        return;
      case 'length':
        this.#takeRun(value);
        return;
      case 'total':
        if (value !== this.#tarBytes)
          throw this.#corrupt(`its parts have ${this.#tarBytes} bytes, its end says ${value}`);
        this.#total = value;
        this.#collect('sha256', 32);
    }
  }

  #takeRun(length: number): void {
    const extents = this.#extents!;
    extents.push({ offset: this.#runOffset, length });
    this.#runOffset += length;
    this.#runsBytes += length;
    if (length === 0 || !Number.isSafeInteger(this.#runOffset) || this.#runsBytes > this.#payload) {
      throw this.#corrupt(`a run of ${length} bytes is wrong in a sparse file of ${this.#payload} bytes of data`);
    }
    if (--this.#runsLeft > 0) {
      this.#expect('gap');
      return;
    }
    if (this.#runsBytes !== this.#payload) throw this.#corrupt('the runs of a sparse file are not its payload');
    this.#extents = undefined;
    this.#fileDone(extents);
  }

  #fileDone(extents: readonly Extent[] | undefined): void {
    this.#state = 'tag';
    this.#sink.onFile(this.#name, this.#payload, extents);
  }

  #takeField(): void {
    const field = this.#field;
    switch (this.#state) {
      case 'magic':
        if (field.toString('latin1') !== MAGIC) throw this.#corrupt('it does not begin with "LSSPLIT" and version 1');
        this.#state = 'tag';
        return;
      case 'name':
        if (field.includes(0)) throw this.#corrupt('a name holds a NUL');
        this.#name = fromBytes(field);
        this.#expect('payload');
        return;
      default:
        this.#state = 'over';
        this.#sink.onEnd(this.#total, field);
    }
  }

  #grow(bytes: number): void {
    this.#tarBytes += bytes;
    if (!Number.isSafeInteger(this.#tarBytes)) throw this.#corrupt('its tar is too large');
  }

  #corrupt(why: string): StorageError {
    this.#error = new StorageError(
      'corrupt',
      `Cannot read the split record, after byte ${this.#at}: ${why}; the tar cannot be rebuilt from it`,
    );
    return this.#error;
  }
}
