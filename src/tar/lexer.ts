import { type ByteString, fromBytes } from '../base/bytes.ts';
import { beginEntry, type Draft, fillEntry } from './entry.ts';
import {
  BLOCK,
  type Dialect,
  dialectOf,
  isZeroBlock,
  Malformed,
  NoHeader,
  paddingOf,
  readNumber,
  SIZE,
  TYPE,
  verifyChecksum,
} from './header.ts';
import { told } from './malformed.ts';
import { noRecords, type PaxRecords, type PaxSparse, parsePax } from './pax.ts';
import { openPaxSparse, readOldRealSize, readOldSparse, readSparseExtension, SparseMap, SparseText } from './sparse.ts';
import type { TarEntry, TarLimits, TarSink } from './types.ts';

// This file is long because a lexer's states only make sense side by side; number, PAX and sparse syntax are elsewhere.

/** The limits where none are given. */
export const TAR_LIMITS: TarLimits = { headerBytesMax: 1 << 20, extentsMax: 1_000_000 };

// What the next byte belongs to.
const HEADER = 0;
const EXTENDED = 1; // payload of an x, g, L or K header
const SPARSE_EXTENSION = 2; // further block of an old GNU sparse header
const SPARSE_TEXT = 3; // map of PAX sparse 1.0
const DATA = 4;
const SKIP = 5; // padding, or a payload that makes nothing
const TAIL = 6; // behind the end marker
const DEAD = 7; // an error was thrown

/**
 * Cuts an archive into headers, payloads and the rest, in the order of the bytes; synchronous, in pieces of any size.
 *
 * Law: all bytes given to `sink.raw` and `sink.data`, one after another, are the input.
 * The reading of doubtful archives is fixed in docs/security.md; what is refused is `corrupt`, with entry and offset.
 * Of several x headers before one entry the last counts, and so for L and K, as GNU tar and Go have it. Memory: one
 * extended header and one sparse map, as bounded by `limits`. After an error (a sink's too) the lexer is spent.
 */
export class TarLexer {
  readonly #sink: TarSink;
  readonly #limits: TarLimits;
  readonly #noXattrs: ReadonlyMap<ByteString, Buffer> = new Map();
  readonly #noRecords: PaxRecords = noRecords();
  readonly #global: PaxRecords = noRecords();

  #state = HEADER;
  #error: unknown;
  #chunk: Buffer = Buffer.alloc(0);
  /** Where the chunk began in the archive. */
  #base = 0;
  #at = 0;
  /** From here on the chunk's bytes are raw and not yet given to the sink. */
  #rawFrom = 0;
  /** A block, or an extended header, that is spread over chunks. */
  readonly #carry: Buffer = Buffer.alloc(BLOCK);
  #carried = 0;
  /** Bytes left of what the state reads; the padding after it. */
  #left = 0;
  #padding = 0;
  #zeroSeen = false;
  #headerAt = 0;

  #extendedType = '';
  #extendedBytes = 0;
  #extended: Buffer | undefined;
  #globalBytes = 0;
  // What extended headers said about the entry to come.
  #pending = false;
  #pendingBytes = 0;
  #local: PaxRecords = this.#noRecords;
  #longName: ByteString | undefined;
  #longLink: ByteString | undefined;

  #draft: Draft | undefined;
  #sparseMap: SparseMap | undefined;
  #sparseText: SparseText | undefined;

  constructor(sink: TarSink, limits: Partial<TarLimits> = {}) {
    this.#sink = sink;
    this.#limits = { ...TAR_LIMITS, ...limits };
  }

  /** Takes the next bytes. Views that the sink gets are of this chunk. */
  write(chunk: Uint8Array): void {
    if (this.#state === DEAD) throw this.#error;
    this.#chunk = Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength);
    this.#at = this.#rawFrom = 0;
    try {
      while (this.#at < chunk.length) this.#step();
      this.#flushRaw();
    } catch (error) {
      this.#die(error);
    }
    this.#base += chunk.length;
    this.#at = this.#rawFrom = 0;
    this.#chunk = this.#carry; // let go of the caller's memory
  }

  /** The input is over: throws `corrupt` unless it may end here. */
  finish(): void {
    if (this.#state === DEAD) throw this.#error;
    try {
      this.#mayEnd();
      this.#endChain();
    } catch (error) {
      this.#die(error);
    }
    this.#state = TAIL;
  }

  /** Both zero blocks have been seen (or `finish` was called): what follows says nothing. */
  get ended(): boolean {
    return this.#state === TAIL;
  }

  /** Bytes of a file's payload that the next ones of the input are: what `skip` may take. */
  payloadLeft(): number {
    return this.#state === DATA ? this.#left : 0;
  }

  /** For readers that can seek: the next `bytes` of the payload, at most `payloadLeft()`, pass without being seen. */
  skip(bytes: number): void {
    if (bytes === 0) return;
    if (bytes < 0 || bytes > this.payloadLeft()) throw new RangeError(`no ${bytes} bytes of payload are left to skip`);
    this.#base += bytes;
    this.#left -= bytes;
    if (this.#left > 0) return;
    this.#sink.end();
    this.#skip(0, this.#padding);
  }

  #mayEnd(): void {
    switch (this.#state) {
      case HEADER:
        if (this.#carried === 0) return;
        this.#headerAt = this.#base - this.#carried;
        this.#draft = undefined;
        throw new NoHeader('the archive ends inside a header; it is cut off');
      case SKIP:
        // Padding may be missing, a payload not.
        if (this.#left <= this.#padding) return;
        break;
      case TAIL:
        return;
    }
    throw new Malformed('the archive ends inside it; it is cut off');
  }

  #step(): void {
    const chunk = this.#chunk;
    switch (this.#state) {
      case HEADER:
      case SPARSE_EXTENSION: {
        let block = chunk;
        let base = this.#at;
        if (this.#carried === 0 && chunk.length - base >= BLOCK) this.#at += BLOCK;
        else {
          this.#at += this.#fill(this.#carry, BLOCK);
          if (this.#carried < BLOCK) return;
          this.#carried = 0;
          block = this.#carry;
          base = 0;
        }
        if (this.#state === HEADER) this.#header(block, base);
        else if (!readSparseExtension(block, base, this.#sparseMap!)) this.#sparseEntry();
        return;
      }
      case EXTENDED: {
        const size = this.#extendedBytes;
        let bytes = chunk;
        let start = this.#at;
        if (this.#carried === 0 && chunk.length - start >= size) this.#at += size;
        else {
          this.#extended ??= Buffer.allocUnsafe(size);
          this.#at += this.#fill(this.#extended, size);
          if (this.#carried < size) return;
          this.#carried = 0;
          bytes = this.#extended;
          start = 0;
          this.#extended = undefined;
        }
        this.#takeExtended(bytes, start, start + size);
        this.#skip(0, paddingOf(size));
        return;
      }
      case SPARSE_TEXT: {
        const text = this.#sparseText!;
        const end = text.feed(chunk, this.#at, Math.min(chunk.length, this.#at + this.#left));
        this.#left -= end - this.#at;
        this.#at = end;
        if (text.done) this.#sparseEntry();
        else if (this.#left === 0) throw new Malformed('its sparse map is longer than its payload');
        return;
      }
      case DATA: {
        const take = Math.min(this.#left, chunk.length - this.#at);
        const end = this.#at + take;
        const view = chunk.subarray(this.#at, end);
        this.#left -= take;
        this.#at = this.#rawFrom = end;
        this.#sink.data(view);
        if (this.#left === 0) {
          this.#sink.end();
          this.#skip(0, this.#padding);
        }
        return;
      }
      case SKIP: {
        const take = Math.min(this.#left, chunk.length - this.#at);
        this.#left -= take;
        this.#at += take;
        if (this.#left === 0) this.#state = HEADER;
        return;
      }
      default:
        this.#at = chunk.length;
    }
  }

  /** Moves what is there of the bytes still missing in `target`; answers how many. */
  #fill(target: Buffer, size: number): number {
    const copied = this.#chunk.copy(target, this.#carried, this.#at, this.#at + size - this.#carried);
    this.#carried += copied;
    return copied;
  }

  #flushRaw(): void {
    if (this.#at > this.#rawFrom) this.#sink.raw(this.#chunk.subarray(this.#rawFrom, this.#at));
    this.#rawFrom = this.#at;
  }

  #skip(payload: number, padding: number): void {
    this.#left = payload + padding;
    this.#padding = padding;
    this.#state = this.#left === 0 ? HEADER : SKIP;
  }

  #header(block: Buffer, base: number): void {
    if (block[base] === 0 && isZeroBlock(block, base)) {
      if (this.#zeroSeen) {
        this.#endChain();
        this.#state = TAIL;
      }
      this.#zeroSeen = true;
      return;
    }
    this.#headerAt = this.#base + this.#at - BLOCK;
    const dialect = dialectOf(block, base);
    const draft = beginEntry(block, base, dialect, this.#noXattrs);
    this.#draft = draft;
    if (this.#zeroSeen) throw new Malformed('it comes after a block of zeros, which only an end may follow');
    verifyChecksum(block, base);
    const type = String.fromCharCode(block[base + TYPE]!);
    const size = readNumber(block, base, SIZE);
    if (type === 'x' || type === 'g' || type === 'L' || type === 'K') {
      this.#beginExtended(type, size);
      return;
    }
    this.#entry(block, base, draft, type, dialect, size);
  }

  #beginExtended(type: string, size: number): void {
    const bytes = (type === 'g' ? this.#globalBytes : this.#pendingBytes) + size;
    if (bytes > this.#limits.headerBytesMax) {
      const whose = type === 'g' ? 'the global headers of this archive' : 'the extended headers of one entry';
      throw new Malformed(`${whose} have ${bytes} bytes, ${this.#limits.headerBytesMax} are allowed`);
    }
    if (type === 'g') this.#globalBytes = bytes;
    else {
      this.#pendingBytes = bytes;
      this.#pending = true;
    }
    this.#extendedType = type;
    this.#extendedBytes = size;
    this.#state = EXTENDED;
    if (size === 0) {
      this.#takeExtended(this.#carry, 0, 0);
      this.#state = HEADER;
    }
  }

  #takeExtended(bytes: Buffer, start: number, end: number): void {
    switch (this.#extendedType) {
      case 'x':
        this.#local = noRecords();
        parsePax(bytes, start, end, this.#local);
        return;
      case 'g':
        parsePax(bytes, start, end, this.#global);
        // GNU tar applies these to every entry, Go and libarchive to none: the archive would have two readings.
        if (typeof this.#global.size === 'number' || this.#global.sparse !== undefined) {
          throw new Malformed('a global header sets the size of entries');
        }
        return;
      default: {
        let nameEnd = start;
        while (nameEnd < end && bytes[nameEnd] !== 0) nameEnd++;
        if (nameEnd === start) throw new Malformed('a GNU long name is empty');
        const name = fromBytes(bytes, start, nameEnd);
        if (this.#extendedType === 'L') this.#longName = name;
        else this.#longLink = name;
      }
    }
  }

  /** Extended headers must be followed by their entry. */
  #endChain(): void {
    if (this.#pending) throw new Malformed('the archive ends between its extended header and the entry itself');
  }

  #entry(block: Buffer, base: number, draft: Draft, letter: string, dialect: Dialect, headerSize: number): void {
    const local = this.#local;
    const said = { local, global: this.#global, longName: this.#longName, longLink: this.#longLink };
    fillEntry(draft, block, base, letter, dialect, said);
    const size = local.size ?? headerSize;
    this.#pending = false;
    this.#pendingBytes = 0;
    this.#local = this.#noRecords;
    this.#longName = this.#longLink = undefined;

    if (local.sparse !== undefined) {
      if (draft.type !== 'file' || letter === 'S')
        throw new Malformed('it has PAX sparse records and is no plain file');
      this.#beginPaxSparse(local.sparse, size);
    } else if (letter === 'S') {
      // Elsewhere these bytes are the prefix of the name.
      if (dialect !== 'gnu') throw new Malformed('it is an old GNU sparse file in a header that is not GNU');
      this.#beginOldSparse(block, base, size);
    } else if (draft.type === 'file') {
      draft.sizeBytes = size;
      this.#emit(draft, size);
    } else if (draft.type === 'hardlink' && (size !== 0 || headerSize !== 0)) {
      throw new Malformed(`it is a hard link with a size of ${size || headerSize}, where none is allowed`);
    } else {
      this.#emit(draft, 0);
      if (letter === 'D' || letter === 'V') this.#skip(size, paddingOf(size));
    }
  }

  #beginOldSparse(block: Buffer, base: number, size: number): void {
    this.#left = size;
    this.#sparseMap = new SparseMap(readOldRealSize(block, base), this.#limits.extentsMax);
    if (readOldSparse(block, base, this.#sparseMap)) this.#state = SPARSE_EXTENSION;
    else this.#sparseEntry();
  }

  #beginPaxSparse(records: PaxSparse, size: number): void {
    this.#left = size;
    const map = openPaxSparse(records, this.#limits.extentsMax);
    if (map instanceof SparseText) {
      if (size === 0) throw new Malformed('its sparse map is longer than its payload');
      this.#sparseText = map;
      this.#sparseMap = map.map;
      this.#state = SPARSE_TEXT;
      return;
    }
    this.#sparseMap = map;
    this.#sparseEntry();
  }

  /** The sparse map is complete: the entry can be given out, its data follow. */
  #sparseEntry(): void {
    const draft = this.#draft!;
    const map = this.#sparseMap!;
    this.#sparseMap = this.#sparseText = undefined;
    draft.sizeBytes = map.realSize;
    draft.sparse = map.finish(this.#left);
    this.#emit(draft, this.#left); // the map before it fills whole blocks: no other padding
  }

  #emit(entry: TarEntry, payload: number): void {
    this.#flushRaw();
    this.#left = payload;
    this.#padding = paddingOf(payload);
    this.#state = payload === 0 ? HEADER : DATA;
    this.#sink.entry(entry);
    if (payload === 0) this.#sink.end();
  }

  #die(error: unknown): never {
    this.#error = told(error, { name: this.#longName ?? this.#draft?.name, headerAt: this.#headerAt });
    this.#state = DEAD;
    throw this.#error;
  }
}
